"""Writes the set of the ingest benchmark in the formats of peers, as their documentations say.

Runs in the peers' interpreter: what is imported here is theirs, beside NumPy, pyarrow and torch.
"""

import io
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.bench.ingest_parts.batches import CLASSES, DIMS, TOKENS, RawRow, Source, read_rows


def prepare(source: Source, name: str, write: Callable[[Source, Path], None]) -> None:
    """Have a format written under its name, whole or not at all, unless it is there."""
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
