"""Padded batches, as people write them by hand, and the sizes and checksums of what is in them.

Needs only NumPy, pyarrow and torch, because the ingest benchmark runs it where raymc isn't
installed.

Axes: B rows of a batch, T tokens, D dim, C classes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

DIMS = {"visual": 1024, "audio": 128}
TOKENS = (24, 300)  # of a row, fewest and most
CLASSES = tuple(f"label-{number:02d}" for number in range(19))
COLUMNS = ["labels", *DIMS]
NUMBER_OF = {name: number for number, name in enumerate(CLASSES)}


class RawRow(NamedTuple):
    """A row as it is stored: the bytes of each modality, and the numbers of its classes."""

    tokens: tuple[bytes | pa.Buffer, ...]
    labels: Sequence[int]


@dataclass(frozen=True)
class Source:
    """What one process is to read.

    Attributes:
        folder: Holds the set in the formats of all ways.
        dtype: float16 or uint8.
        batch: Rows of a batch.
        rank: Which of `workers` processes this is.
        workers: Each reads its share of the rows.
        window_mb: raymc's `batch.window_mb`.
    """

    folder: str
    dtype: str
    batch: int
    rank: int = 0
    workers: int = 1
    window_mb: int = 1024

    @property
    def shards(self) -> list[str]:
        """The files of this process's share, in order."""
        found = sorted(str(path) for path in Path(self.folder, "raymc/train").glob("*.parquet"))
        return found[self.rank :: self.workers]

    def path(self, name: str) -> str:
        """Return the folder of the set in one of the formats."""
        return str(Path(self.folder, name))


@dataclass(frozen=True)
class Padded:
    """A batch: per modality tokens [B, T, D], zero-padded, and lengths [B]; labels [B, C]."""

    tokens: tuple[Tensor, ...]
    lengths: tuple[Tensor, ...]
    labels: Tensor


def pad(rows: Sequence[RawRow], dtype: str) -> Padded:
    """Copy rows into padded tensors."""
    labels = torch.zeros(len(rows), len(CLASSES), dtype=torch.bool)
    for place, row in enumerate(rows):
        labels[place, list(row.labels)] = True
    tokens, lengths = [], []
    for at, dim in enumerate(DIMS.values()):
        views = [np.frombuffer(row.tokens[at], dtype).reshape(-1, dim) for row in rows]
        padded, sizes = pad_tokens(views)
        tokens.append(padded)
        lengths.append(sizes)
    return Padded(tuple(tokens), tuple(lengths), labels)


def pad_tokens(rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Copy rows [T, D] of one type into a tensor [B, T, D] of zeros; returns it and lengths [B]."""
    sizes = [len(row) for row in rows]
    dtype = torch.from_numpy(rows[0][:0].copy()).dtype
    padded = torch.zeros(len(rows), max(sizes), rows[0].shape[1], dtype=dtype)
    buffer = padded.numpy()
    for place, row in enumerate(rows):
        buffer[place, : len(row)] = row
    return padded, torch.tensor(sizes)


def read_rows(path: str) -> list[RawRow]:
    """Return the rows of a shard; their bytes are not copied again."""
    return rows_of_table(pq.read_table(path, columns=COLUMNS))


def rows_of_table(table: pa.Table) -> list[RawRow]:
    """Return the rows of an Arrow table with the columns of a shard."""
    labels = [[NUMBER_OF[name] for name in names] for names in table["labels"].to_pylist()]
    columns = ([x.as_buffer() for chunk in table[name].chunks for x in chunk] for name in DIMS)
    return [RawRow(tokens, names) for tokens, names in zip(zip(*columns), labels)]


def size_of(batch: Padded | pa.Table) -> tuple[int, int]:
    """Return a batch's rows, and the bytes of its tokens without padding."""
    if isinstance(batch, Padded):
        tokens = zip(batch.tokens, batch.lengths)
        sizes = [int(n.sum()) * x.shape[2] * x.element_size() for x, n in tokens]
        return len(batch.labels), sum(sizes)
    sizes = [chunk.buffers()[2].size for name in DIMS for chunk in batch[name].chunks]
    return len(batch), sum(sizes)


def sum_of(batch: Padded | pa.Table) -> int:
    """Return the sum of the digests of a batch's rows, over tokens and labels, not padding."""
    rows = _rows_of(batch) if isinstance(batch, Padded) else rows_of_table(batch)
    return sum(map(digest_of, rows)) % 2**64


def digest_of(row: RawRow) -> int:
    """Return a row's digest of 64 bits."""
    digest = hashlib.blake2b(digest_size=8)
    for data in row.tokens:
        digest.update(data)
    digest.update(bytes(sorted(row.labels)))
    return int.from_bytes(digest.digest(), "little")


def _rows_of(batch: Padded) -> Iterator[RawRow]:
    for place, labels in enumerate(batch.labels):
        views = (x[place, : int(n[place])] for x, n in zip(batch.tokens, batch.lengths))
        tokens = tuple(view.contiguous().numpy().tobytes() for view in views)
        yield RawRow(tokens, labels.nonzero().flatten().tolist())
