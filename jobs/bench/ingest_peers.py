"""Readers of the ingest benchmark: bare pyarrow, a loop by hand, and the loaders of others.

A way of reading has three parts here: how its format is written, as its documentation says, how
it is opened, and its line in `WAYS`. `main` runs one way in its own process, which takes
commands as lines and answers in JSON. All of this also runs in the peers' interpreter, so only
NumPy, pyarrow and torch are imported at the top, and nothing of raymc.
"""

import io
import json
import shutil
import sys
import tarfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from jobs.bench.batches import (
    CLASSES,
    COLUMNS,
    DIMS,
    TOKENS,
    Padded,
    RawRow,
    Source,
    pad,
    read_rows,
    rows_of_table,
    size_of,
    sum_of,
)
from jobs.bench.memory import peak_bytes

LOADERS = 2  # processes of a DataLoader
SHUFFLED_TOGETHER = 1000  # rows, where a peer shuffles in a buffer
Epoch = Callable[[int], Iterator[Any]]


def open_floor(source: Source) -> Epoch:
    """Read each shard with pyarrow; nothing is decoded, shuffled or padded."""
    return lambda epoch: (pq.read_table(path, columns=COLUMNS) for path in source.shards)


def open_by_hand(source: Source) -> Epoch:
    """Read the shards in random order, shuffle within each, and pad."""
    return lambda epoch: batches_by_hand(source, source.shards, epoch)


def batches_by_hand(source: Source, shards: Sequence[str], epoch: int) -> Iterator[Padded]:
    """Yield the batches of some shards, in an order of the epoch's own."""
    generator = np.random.default_rng(epoch)
    for at in generator.permutation(len(shards)):
        rows = read_rows(shards[int(at)])
        order = generator.permutation(len(rows))
        for first in range(0, len(rows), source.batch):
            yield pad([rows[row] for row in order[first : first + source.batch]], source.dtype)


class ByHand(IterableDataset):
    """The loop by hand as a dataset of torch: each process of the loader has its shards."""

    def __init__(self, source: Source) -> None:
        self.source, self.epoch = source, 0

    def __iter__(self) -> Iterator[Padded]:
        """Yield this process's batches."""
        worker = get_worker_info()
        at, count = (worker.id, worker.num_workers) if worker else (0, 1)
        yield from batches_by_hand(self.source, self.source.shards[at::count], self.epoch)


def open_loader(source: Source) -> Epoch:
    """Run the loop by hand in the processes of torch's `DataLoader`."""
    data = ByHand(source)

    def read(epoch: int) -> Iterator[Padded]:
        data.epoch = epoch  # read when the loader starts its processes
        return iter(DataLoader(data, batch_size=None, num_workers=LOADERS))

    return read


def open_hf_streaming(source: Source) -> Epoch:
    """Stream the Parquet with `datasets`, shuffled in a buffer, from one shard at a time.

    With several at a time, its default, it sleeps for 5 s whenever they end.
    """
    from datasets import load_dataset

    data: Any = load_dataset(
        "parquet", data_files=source.shards, columns=COLUMNS, split="train", streaming=True
    ).with_format("arrow")
    data = data.shuffle(seed=0, buffer_size=SHUFFLED_TOGETHER, max_buffer_input_shards=1)

    def read(epoch: int) -> Iterator[Padded]:
        data.set_epoch(epoch)
        return (pad(rows_of_table(table), source.dtype) for table in data.iter(source.batch))

    return read


def open_hf_mapped(source: Source) -> Epoch:
    """Map the Arrow files of `datasets` into memory, shuffled as a whole."""
    from datasets import load_from_disk

    whole: Any = load_from_disk(source.path("hf") + "/arrow")
    data = whole.shard(source.workers, source.rank).with_format("arrow")

    def read(epoch: int) -> Iterator[Padded]:
        tables = data.shuffle(seed=epoch, keep_in_memory=True).iter(source.batch)
        return (pad(rows_of_table(table), source.dtype) for table in tables)

    return read


def open_mosaic(source: Source) -> Epoch:
    """Read MDS with MosaicML's `streaming`, shuffled."""
    from streaming import StreamingDataset  # pyright: ignore[reportMissingImports]
    from streaming.base.util import clean_stale_shared_memory  # pyright: ignore[reportMissingImports]

    clean_stale_shared_memory()
    data = StreamingDataset(local=source.path("mds"), shuffle=True, batch_size=source.batch)
    loader = DataLoader(data, source.batch, num_workers=LOADERS, collate_fn=Collated(source.dtype))
    return lambda epoch: iter(loader)


def open_webdataset(source: Source) -> Epoch:
    """Read tars with WebDataset, shuffled in a buffer."""
    from webdataset.compat import WebDataset, WebLoader

    tars = sorted(str(path) for path in Path(source.path("tars")).glob("*.tar"))

    def read(epoch: int) -> Iterator[Padded]:
        data = WebDataset(tars, shardshuffle=len(tars), seed=epoch, empty_check=False)
        data = data.shuffle(SHUFFLED_TOGETHER).batched(
            source.batch, collation_fn=Collated(source.dtype)
        )
        return iter(WebLoader(data, batch_size=None, num_workers=LOADERS))

    return read


def open_litdata(source: Source) -> Epoch:
    """Read litdata's chunks, shuffled."""
    from litdata import (  # pyright: ignore[reportMissingImports]
        StreamingDataLoader,
        StreamingDataset,
    )

    data = StreamingDataset(source.path("litdata"), shuffle=True, drop_last=False)
    loader = StreamingDataLoader(
        data, batch_size=source.batch, num_workers=LOADERS, collate_fn=Collated(source.dtype)
    )
    return lambda epoch: iter(loader)


class Collated:
    """Pads rows that come as mappings of bytes; can be sent to a loader's processes."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def __call__(self, rows: Sequence[Any]) -> Padded:
        """Return the rows as a batch."""
        raw = [RawRow(tuple(row[name] for name in DIMS), row["labels"]) for row in rows]
        return pad(raw, self.dtype)


def write_format(source: Source, name: str, write: Callable[[Source, Path], None]) -> None:
    """Write a format under its name, whole or not at all, unless it is there."""
    folder = Path(source.path(name))
    if folder.exists():
        return
    partial = folder.with_name(f".{name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(source, partial)
    partial.rename(folder)


def rows_of(source: Source) -> Iterator[RawRow]:
    """Yield all rows of the set."""
    for path in source.shards:
        yield from read_rows(path)


def as_bytes(row: RawRow) -> dict[str, bytes]:
    """Return a row's parts by name, as formats of bytes take them."""
    return dict(zip((*DIMS, "labels"), map(bytes, (*row.tokens, row.labels))))


def write_arrow(source: Source, folder: Path) -> None:
    """Write what `datasets` maps into memory."""
    from datasets import Dataset

    data = Dataset.from_parquet([*source.shards], cache_dir=str(folder / "cache"))
    data.save_to_disk(str(folder / "arrow"))
    shutil.rmtree(folder / "cache")


def write_mds(source: Source, folder: Path) -> None:
    """Write MosaicML's shards."""
    from streaming import MDSWriter  # pyright: ignore[reportMissingImports]

    columns = {"visual": "bytes", "audio": "bytes", "labels": "bytes"}
    with MDSWriter(out=str(folder), columns=columns) as out:
        for row in rows_of(source):
            out.write(as_bytes(row))


def write_tars(source: Source, folder: Path) -> None:
    """Write one tar a shard, as WebDataset reads them."""
    number = 0
    for at, path in enumerate(source.shards):
        with tarfile.open(folder / f"{at:05d}.tar", "w") as tar:
            for row in read_rows(path):
                for kind, data in as_bytes(row).items():
                    member = tarfile.TarInfo(f"{number:07d}.{kind}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                number += 1


def write_chunks(source: Source, folder: Path) -> None:
    """Write litdata's chunks."""
    from litdata.streaming.writer import BinaryWriter  # pyright: ignore[reportMissingImports]

    writer = BinaryWriter(str(folder), chunk_bytes="64MB")
    for number, row in enumerate(rows_of(source)):
        writer.add_item(number, as_bytes(row))
    writer.done()
    writer.merge()


def write_tensors(source: Source, folder: Path) -> None:
    """Write Parquet of `fixed_shape_tensor` columns, all rows padded to the most tokens."""
    for at, path in enumerate(source.shards):
        rows = read_rows(path)
        columns: dict[str, pa.Array] = {}
        for place, (name, dim) in enumerate(DIMS.items()):
            padded = np.zeros((len(rows), TOKENS[1], dim), source.dtype)
            for row, values in enumerate(rows):
                view = np.frombuffer(values.tokens[place], source.dtype).reshape(-1, dim)
                padded[row, : len(view)] = view
            columns[name] = pa.FixedShapeTensorArray.from_numpy_ndarray(padded)
        token_bytes = DIMS["visual"] * np.dtype(source.dtype).itemsize
        columns["length"] = pa.array(
            [len(row.tokens[0]) // token_bytes for row in rows], pa.int64()
        )
        hot = np.zeros((len(rows), len(CLASSES)), np.uint8)
        for row, values in enumerate(rows):
            hot[row, list(values.labels)] = 1
        columns["labels"] = pa.FixedShapeTensorArray.from_numpy_ndarray(hot)
        pq.write_table(pa.table(columns), folder / f"{at:05d}.parquet")


@dataclass(frozen=True)
class Way:
    """A way of reading the set.

    Attributes:
        package: What it needs.
        open: What it does once a process; returns what it does once an epoch.
        format: Folder of its format, and what writes it; None if it reads raymc's shards.
        on_ray: Whether it needs Ray.
        shares: Whether it can be one of several processes that read a share each.
    """

    package: str
    open: Callable[[Source], Epoch]
    format: tuple[str, Callable[[Source, Path], None]] | None = None
    on_ray: bool = False
    shares: bool = False


def _on_ray(name: str, *given: Any) -> Callable[[Source], Epoch]:
    """`ingest_on_ray` imports raymc, so it is imported when a way of it is opened."""

    def open_there(source: Source) -> Epoch:
        return getattr(import_module("jobs.bench.ingest_on_ray"), name)(source, *given)

    return open_there


FLOOR = "pyarrow alone, nothing decoded"
BY_HAND = "by hand: pyarrow + torch"
CACHED, STREAMED = "raymc, cached", "raymc, streamed"
RAY_DATA = "Ray Data, as documented"
NO_PEERS = (FLOOR, BY_HAND, CACHED, STREAMED)
WAYS = {
    FLOOR: Way("pyarrow", open_floor, shares=True),
    BY_HAND: Way("torch", open_by_hand, shares=True),
    CACHED: Way("ray", _on_ray("open_raymc", "auto"), on_ray=True, shares=True),
    STREAMED: Way("ray", _on_ray("open_raymc", "off"), on_ray=True, shares=True),
    "torch DataLoader, 2 processes": Way("torch", open_loader, shares=True),
    "datasets, memory-mapped": Way("datasets", open_hf_mapped, ("hf", write_arrow), shares=True),
    "datasets, streaming": Way("datasets", open_hf_streaming, shares=True),
    "MosaicML streaming, 2 processes": Way("streaming", open_mosaic, ("mds", write_mds)),
    "WebDataset, 2 processes": Way("webdataset", open_webdataset, ("tars", write_tars)),
    "litdata, 2 processes": Way("litdata", open_litdata, ("litdata", write_chunks)),
    RAY_DATA: Way("ray", _on_ray("open_ray_data"), ("tensors", write_tensors), on_ray=True),
}


class Reader:
    """A way that reads one share of the set, epoch after epoch."""

    def __init__(self, way: Way, source: Source) -> None:
        self.way, self.source, self.epoch = way, source, 0
        self.read_epoch: Epoch | None = None

    def prepare(self) -> dict[str, int]:
        """Write the way's format."""
        if self.way.format:
            write_format(self.source, *self.way.format)
        return {}

    def read(self) -> dict[str, int]:
        """Read an epoch; returns its rows and bytes."""
        sizes = [size_of(batch) for batch in self._batches()]
        rows, nbytes = (sum(size[k] for size in sizes) for k in range(2))
        return {"rows": rows, "bytes": nbytes, "peak_bytes": peak_bytes()}

    def check(self) -> dict[str, int]:
        """Read an epoch and return the checksum of what came."""
        return {"sum": sum(map(sum_of, self._batches())) % 2**64}

    def _batches(self) -> Iterator[Any]:
        if self.read_epoch is None:
            self.read_epoch = self.way.open(self.source)
        self.epoch += 1
        return self.read_epoch(self.epoch)


def joined(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the answers of all shares as one."""
    join: Mapping[str, Callable[[Sequence[Any]], Any]] = {
        "seconds": max,
        "peak_bytes": max,
        "rows": sum,
        "bytes": sum,
        "sum": lambda sums: sum(sums) % 2**64,
        "reason": lambda reasons: reasons[0],
    }
    found: dict[str, list[Any]] = {}
    for answer in answers:
        for key, value in answer.items():
            found.setdefault(key, []).append(value)
    return {key: join[key](values) for key, values in found.items()}


def started(name: str, source: Source) -> Any:
    """Join Ray and start its workers where a way needs them, so that neither is timed."""
    way = WAYS[name]
    if way.on_ray:
        import_module("raymc.runtime.connect").connect()
        if source.workers > 1:
            cache = "auto" if name == CACHED else "off"
            return import_module("jobs.bench.ingest_on_ray").WorkersReader(way, source, cache)
    return Reader(way, source)


def timed(do: Callable[[], Mapping[str, int]]) -> dict[str, Any]:
    """Return what `do` found and how long it took; an error as a line."""
    try:
        began = time.perf_counter()
        found = do()
        return {**found, "seconds": time.perf_counter() - began}
    except Exception as error:
        line = str(error).strip().partition("\n")[0]
        return {"reason": f"{type(error).__name__}: {line}"[:160]}


def main() -> None:
    """Take the way and its source from the arguments, commands from the input."""
    warnings.filterwarnings("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # packages may print
    serve(sys.argv[1], Source(**json.loads(sys.argv[2])), sys.stdin, answers)


def serve(name: str, source: Source, commands: Iterable[str], answers: TextIO) -> None:
    """Do a command for each line; the answers are lines of JSON."""
    tell = partial(print, file=answers, flush=True)
    try:
        import_module(WAYS[name].package)
    except ImportError as error:
        tell(json.dumps({"reason": f"not installed ({error})"[:160]}))
        return
    reader: Any = Reader(WAYS[name], source)
    for line in commands:
        if line.strip() == "start":
            reader = started(name, source)
            tell("{}")
        else:
            tell(json.dumps(timed(getattr(reader, line.strip()))))
