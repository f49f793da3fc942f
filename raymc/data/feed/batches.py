"""Rows of shards as padded batches: decoded blocks in memory, and one copy into a batch.

Blocks come from wherever the caller has them, an object store or a file; nothing here knows
Ray.

Axes: N rows of a block, B rows of one worker's share of a batch, T tokens, C classes.
"""

import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from raymc.data.feed.order import (
    PADDING_ROW,
)
from raymc.data.shards import Manifest, Modality, Ragged, ragged
from raymc.data.shards.ragged import multi_hot, observed_classes
from raymc.errors import DataError

# Memory of arrays that come and go, used again: a fresh page costs more than to fill it. Pure.


class Buffers:
    """Arrays of about the same size, in the memory of earlier ones that nothing refers to any more.

    There is never more memory than there were arrays at a time. For one thread; the arrays may
    go to others.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an array of anything, in C order."""
        count = math.prod(shape)
        memory = self._take(max(1, count * dtype.itemsize))
        # Views, and tensors made of them, keep `whole` alive, as its base is no array.
        whole = np.frombuffer(memory.data, dtype, count)
        weakref.finalize(whole, self._free.append, memory).atexit = False
        return whole.reshape(shape)

    def _take(self, size: int) -> np.ndarray:
        """Return free memory that is large enough; else new, in place of some that is free."""
        fitting = [at for at, memory in enumerate(self._free) if len(memory) >= size]
        if fitting:
            return self._free.pop(fitting[0])
        if self._free:
            self._free.pop()
        return np.empty(size, np.uint8)


TORCH_DTYPES = {"float16": torch.float16, "float32": torch.float32, "uint8": torch.uint8}
BATCHES_AHEAD = 2  # that wait while a step computes


@dataclass(frozen=True)
class Batch:
    """One worker's share of a global batch.

    Attributes:
        tokens: per modality [B, T, dim] as stored (float16, float32, uint8), zero-padded;
            T ≥ 1 is the longest row's length.
        lengths: per modality [B], int64; 0 where the modality is missing.
        labels: [B, C] bool.
        observed: [B, C] bool, false where nobody looked for the class.
        rows: [B] int64, each row's index in the split; `PADDING_ROW` for rows that only make
            all workers' shares equally long and count nowhere.
    """

    tokens: dict[str, Tensor]
    lengths: dict[str, Tensor]
    labels: Tensor
    observed: Tensor
    rows: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`."""
        return Batch(
            tokens={name: x.to(device, non_blocking=True) for name, x in self.tokens.items()},
            lengths={name: x.to(device, non_blocking=True) for name, x in self.lengths.items()},
            labels=self.labels.to(device, non_blocking=True),
            observed=self.observed.to(device, non_blocking=True),
            rows=self.rows.to(device, non_blocking=True),
        )

    def pinned(self) -> "Batch":
        """Return the batch in page-locked memory, from where a GPU fetches it by itself."""
        return Batch(
            tokens={name: x.pin_memory() for name, x in self.tokens.items()},
            lengths={name: x.pin_memory() for name, x in self.lengths.items()},
            labels=self.labels.pin_memory(),
            observed=self.observed.pin_memory(),
            rows=self.rows.pin_memory(),
        )


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one shard, decoded but not copied."""

    ids: pa.Array | pa.ChunkedArray
    tokens: Mapping[str, Ragged]
    labels: np.ndarray
    observed: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def block_from_table(table: pa.Table, manifest: Manifest) -> Block:
    """Decode an Arrow table of rows; token values stay where they are.

    Raises:
        DataError: a column is missing, or a label isn't in the vocabulary.
    """
    _require(table, ("id", "labels"))
    labels = multi_hot(table["labels"], manifest.vocabulary)
    if "observed" in table.column_names:
        observed = observed_classes(table["observed"], manifest.vocabulary)
    else:
        observed = np.ones_like(labels)
    tokens = decode_tokens(table, manifest.modalities)
    return Block(ids=table["id"], tokens=tokens, labels=labels, observed=observed)


def decode_tokens(table: pa.Table, modalities: Sequence[Modality]) -> dict[str, Ragged]:
    """Return the token arrays of an Arrow table by modality.

    Raises:
        DataError: a modality's column is missing or not what its metadata says.
    """
    _require(table, [modality.name for modality in modalities])
    return {modality.name: ragged(table[modality.name], modality) for modality in modalities}


def _require(table: pa.Table, names: Iterable[str]) -> None:
    for name in names:
        if name not in table.column_names:
            raise DataError(
                f"the shards have no column {name!r}, which is expected here; they have: "
                f"{', '.join(table.column_names)}"
            )


def cut_at_shards(
    tables: Iterable[pa.Table], shards: Sequence[int], shard_rows: Sequence[int]
) -> Iterator[tuple[int, pa.Table]]:
    """Cut a stream of tables into single-chunk pieces that lie within one shard each.

    Args:
        tables: the rows of `shards`, in that order, in tables of any length.
        shards: the shards' indices, in the order of the stream.
        shard_rows: rows of every shard of the split.

    Yields:
        The index in the split of a piece's first row, and the piece (no copy is made).

    Raises:
        DataError: the stream holds fewer or more rows than the shards have.
    """
    starts = np.concatenate([[0], np.cumsum(shard_rows)])
    expected = ((int(starts[s]), int(shard_rows[s])) for s in shards if shard_rows[s])
    first, left = next(expected, (0, 0))
    for table in tables:
        for piece in single_chunks(table):
            while len(piece):
                if left == 0:
                    first, left = next(expected, (0, 0))
                    if left == 0:
                        raise DataError(_CHANGED.format("more"))
                taken = piece.slice(0, left)
                yield first, taken
                piece = piece.slice(len(taken))
                first, left = first + len(taken), left - len(taken)
    if left or next(expected, None):
        raise DataError(_CHANGED.format("fewer"))


_CHANGED = (
    "the shards hold {} rows than dataset.json says: they changed since they were written; "
    "`raymc data check` names them"
)


def single_chunks(table: pa.Table) -> Iterator[pa.Table]:
    """Split a table where its columns' chunks end."""
    for batch in table.to_batches():
        yield pa.Table.from_batches([batch])


class RowStore:
    """Decoded blocks in memory, and rows of them as padded batches.

    Args:
        modalities: What the blocks hold.
        classes: C.
        buffers: By modality, the memory that batches' tokens get.
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        classes: int,
        buffers: Mapping[str, Buffers] | None = None,
    ) -> None:
        self.modalities = tuple(modalities)
        self.classes = classes
        self._buffers = buffers or buffers_of(modalities)
        self._firsts: list[int] = []
        self._blocks: list[Block] = []
        self._left: list[int] = []

    def add(self, first_row: int, block: Block) -> None:
        """Keep a block whose first row has the index `first_row` in the split."""
        at = int(np.searchsorted(self._firsts, first_row))
        self._firsts.insert(at, first_row)
        self._blocks.insert(at, block)
        self._left.insert(at, len(block))

    def release(self, rows: np.ndarray) -> None:
        """Count `rows` as used up, and forget the blocks of which no row is left."""
        for at, where, _ in reversed(list(self._by_block(rows))):
            self._left[at] -= len(where)
            if not self._left[at]:
                del self._firsts[at], self._blocks[at], self._left[at]

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return the tokens of each row, summed over modalities; [len(rows)] int64."""
        result = np.zeros(len(rows), dtype=np.int64)
        for at, where, local in self._by_block(rows):
            for tokens in self._blocks[at].tokens.values():
                result[where] += tokens.lengths[local]
        return result

    def ids(self, rows: np.ndarray) -> list[str]:
        """Return the rows' ids."""
        found = np.empty(len(rows), dtype=object)
        for at, where, local in self._by_block(rows):
            found[where] = self._blocks[at].ids.take(pa.array(local)).to_pylist()
        return found.tolist()

    def batch(self, rows: np.ndarray) -> Batch:
        """Copy rows into padded buffers; `PADDING_ROW` gives a row in which all is missing."""
        real = np.flatnonzero(rows != PADDING_ROW)
        labels = np.zeros((len(rows), self.classes), dtype=bool)
        observed = np.zeros((len(rows), self.classes), dtype=bool)
        views: list[list[np.ndarray]] = [[] for _ in self.modalities]
        places: list[int] = []
        for at, where, local in self._by_block(rows[real]):
            block = self._blocks[at]
            labels[real[where]] = block.labels[local]
            observed[real[where]] = block.observed[local]
            places.extend(real[where].tolist())
            for found, modality in zip(views, self.modalities):
                tokens = block.tokens[modality.name]
                found.extend(tokens.row(index) for index in local.tolist())
        padded = {
            modality.name: _pad(found, places, len(rows), modality, self._buffers[modality.name])
            for found, modality in zip(views, self.modalities)
        }
        return Batch(
            tokens={name: tokens for name, (tokens, _) in padded.items()},
            lengths={name: lengths for name, (_, lengths) in padded.items()},
            labels=torch.from_numpy(labels),
            observed=torch.from_numpy(observed),
            rows=torch.from_numpy(rows.astype(np.int64)),
        )

    def _locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each row's block and its index in the block."""
        firsts = np.asarray(self._firsts, dtype=np.int64)
        at = np.searchsorted(firsts, rows, side="right") - 1
        return at, rows - firsts[at]

    def _by_block(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield per block: its index, the places in `rows` it fills, the rows' local indices."""
        if not len(rows):
            return
        blocks, local = self._locate(rows)
        for at in np.unique(blocks):
            where = np.flatnonzero(blocks == at)
            yield int(at), where, local[where]


def buffers_of(modalities: Sequence[Modality]) -> dict[str, Buffers]:
    """Return memory for the tokens of each modality, whose sizes differ."""
    return {modality.name: Buffers() for modality in modalities}


def _pad(
    views: Sequence[np.ndarray],
    places: Sequence[int],
    rows: int,
    modality: Modality,
    buffers: Buffers,
) -> tuple[Tensor, Tensor]:
    """Copy token arrays [t, dim] to rows `places` of a zero-padded [rows, T, dim] tensor."""
    lengths = np.zeros(rows, dtype=np.int64)
    lengths[list(places)] = [len(view) for view in views]
    longest = max(1, int(lengths.max(initial=0)))
    shape = (rows, longest, modality.dim)
    if torch.cuda.is_available():  # which fetches by itself from page-locked memory alone
        padded = torch.empty(shape, dtype=TORCH_DTYPES[modality.dtype], pin_memory=True)
    else:
        padded = torch.from_numpy(buffers.empty(shape, modality.numpy_dtype))
    buffer = padded.numpy()
    for place, view in zip(places, views):
        buffer[place, : len(view)] = view
    for place, length in enumerate(lengths.tolist()):
        buffer[place, length:] = 0
    return padded, torch.from_numpy(lengths)
