"""Ways of reading the set that need no raymc: bare pyarrow, by hand, and what people would use.

Each opens a source and returns what reads it once: epoch to padded batches. Runs in the peers'
interpreter too: what is imported here is theirs, beside NumPy, pyarrow and torch.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from jobs.bench.ingest_parts.batches import (
    COLUMNS,
    DIMS,
    Padded,
    RawRow,
    Source,
    pad,
    read_rows,
    rows_of_table,
)

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
    """Have torch's `DataLoader` run the loop by hand in its processes."""
    data = ByHand(source)

    def read(epoch: int) -> Iterator[Padded]:
        data.epoch = epoch  # read when the loader starts its processes
        return iter(DataLoader(data, batch_size=None, num_workers=LOADERS))

    return read


def open_hf_streaming(source: Source) -> Epoch:
    """Stream the Parquet with `datasets`, shuffled in a buffer, from a shard at a time.

    From several shards at a time, its default, it sleeps 5 s whenever they end.
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
    """Have `datasets` map its Arrow files into memory, globally shuffled."""
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
