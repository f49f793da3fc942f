"""Rows of shards to padded batches: a table becomes decoded blocks, rows of blocks a batch.

Start at `RowStore.batch`, which pads each batch to its longest row. Blocks are views of Arrow's
memory, from an object store or a file; the copy into the padded batch is the only one.

Axes: N rows of a block, B rows of one worker's share of a batch, T tokens, C classes.
"""

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from raymc.data.feed.order import PADDING_ROW
from raymc.data.shards import Manifest, Modality, Ragged, ragged
from raymc.data.shards.ragged import multi_hot, observed_classes
from raymc.errors import DataError

TORCH_DTYPES = {"float16": torch.float16, "float32": torch.float32, "uint8": torch.uint8}
ALIGNMENT = 64  # bytes, of each tensor in a batch's memory


@dataclass(frozen=True)
class Batch:
    """One worker's share of a global batch.

    Attributes:
        tokens: Per modality [B, T, dim] as stored (float16, float32, uint8), zero-padded;
            T ≥ 1 is the length of the longest row.
        lengths: Per modality [B], int64; 0 where the modality is missing.
        labels: [B, C] bool.
        observed: [B, C] bool, false where the class was not annotated.
        rows: [B] int64, each row's index in the split. `PADDING_ROW` marks rows that only make
            all workers' shares equally long; they enter neither loss nor metric.
        padded: Whether any row has fewer than T tokens of a modality. Known here, because to read
            it from lengths on a GPU would wait for the GPU.
        memory: The bytes that all of these tensors are views of, if they are views of one piece;
            then a tensor that is kept keeps all of them.
    """

    tokens: dict[str, Tensor]
    lengths: dict[str, Tensor]
    labels: Tensor
    observed: Tensor
    rows: Tensor
    padded: bool = True
    memory: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`, in one copy if it is in one piece of memory."""
        if self.memory is None:
            return self._each(lambda x: x.to(device, non_blocking=True))
        memory = self.memory.to(device, non_blocking=True)

        def moved(x: Tensor) -> Tensor:
            first = x.storage_offset() * x.element_size()
            return memory[first : first + x.nbytes].view(x.dtype).view(x.shape)

        return self._each(moved, memory)

    def used_in(self, stream: torch.cuda.Stream) -> None:
        """Keep its memory until what this stream has been asked for is done."""
        tensors = (*self.tokens.values(), *self.lengths.values(), self.labels, self.observed)
        for x in (*tensors, self.rows) if self.memory is None else (self.memory,):
            x.record_stream(stream)

    def _each(self, change: Callable[[Tensor], Tensor], memory: Tensor | None = None) -> "Batch":
        return Batch(
            tokens={name: change(x) for name, x in self.tokens.items()},
            lengths={name: change(x) for name, x in self.lengths.items()},
            labels=change(self.labels),
            observed=change(self.observed),
            rows=change(self.rows),
            padded=self.padded,
            memory=memory,
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
    """Decode an Arrow table of rows; token values are not copied.

    Raises `DataError` if a column is missing, or a label is not in the vocabulary.
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
    """Return the token arrays of an Arrow table by modality."""
    _require(table, [modality.name for modality in modalities])
    return {modality.name: ragged(table[modality.name], modality) for modality in modalities}


def _require(table: pa.Table, names: Iterable[str]) -> None:
    for name in names:
        if name not in table.column_names:
            raise DataError(
                f"the shards have no column {name!r}, which is required; they have: "
                f"{', '.join(table.column_names)}"
            )


def cut_at_shards(
    tables: Iterable[pa.Table], shards: Sequence[int], shard_rows: Sequence[int]
) -> Iterator[tuple[int, pa.Table]]:
    """Cut a stream of tables into single-chunk pieces that lie within one shard each.

    Args:
        tables: The rows of `shards`, in that order, in tables of any length.
        shards: The shards' indices, in the order of the stream.
        shard_rows: Rows of every shard of the split.

    Yields:
        The index in the split of a piece's first row, and the piece, not copied.
    """
    starts = np.concatenate([[0], np.cumsum(shard_rows)])
    expected = ((int(starts[s]), int(shard_rows[s])) for s in shards if shard_rows[s])
    first, left = next(expected, (0, 0))
    for table in tables:
        for chunk in table.to_batches():
            piece = pa.Table.from_batches([chunk])
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
    "the shards hold {} rows than dataset.json says: they changed after they were written; "
    "run `raymc data check` to find which"
)


class Buffers:
    """Memory of earlier arrays, reused once nothing refers to them: fresh pages are slow to fill.

    It never holds more memory than the arrays that were alive at the same time. Only one thread
    may ask for arrays; it may pass them to others.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an uninitialised array, in C order."""
        count = math.prod(shape)
        memory = self._take(max(1, count * dtype.itemsize))
        # NumPy gives a view the base of its base where that is an array. The base of `whole` is a
        # memoryview, so views and tensors keep `whole` itself alive, and the finalizer waits.
        whole = np.frombuffer(memory.data, dtype, count)
        weakref.finalize(whole, self._free.append, memory).atexit = False
        return whole.reshape(shape)

    def _take(self, size: int) -> np.ndarray:
        """Return free memory that is large enough, else new memory in place of a free one."""
        fitting = [at for at, memory in enumerate(self._free) if len(memory) >= size]
        if fitting:
            return self._free.pop(fitting[0])
        if self._free:
            self._free.pop()
        return np.empty(size, np.uint8)


class RowStore:
    """Decoded blocks in memory, and rows of them as padded batches.

    `buffers` is the memory for batches.
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        classes: int,
        buffers: Buffers | None = None,
    ) -> None:
        self.modalities = tuple(modalities)
        self.classes = classes
        self._buffers = buffers or Buffers()
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
        """Count `rows` as used, and drop the blocks whose rows are all used."""
        for at, where, _ in reversed(list(self._by_block(rows))):
            self._left[at] -= len(where)
            if not self._left[at]:
                del self._firsts[at], self._blocks[at], self._left[at]

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return each row's number of tokens over all modalities; [len(rows)] int64."""
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
        """Copy rows into a batch, padded to its longest row.

        `PADDING_ROW` becomes a row without tokens, labels or observed classes.
        """
        real = np.flatnonzero(rows != PADDING_ROW)
        views: dict[str, list[np.ndarray]] = {modality.name: [] for modality in self.modalities}
        places: list[int] = []
        found = list(self._by_block(rows[real]))
        for at, where, local in found:
            places.extend(real[where].tolist())
            for name, seen in views.items():
                tokens = self._blocks[at].tokens[name]
                seen.extend(tokens.row(index) for index in local.tolist())
        longest = {name: max([1, *map(len, seen)]) for name, seen in views.items()}
        batch = self._empty_batch(len(rows), longest)
        padded = False
        for name, seen in views.items():
            lengths = batch.lengths[name].numpy()
            lengths[:] = 0
            lengths[places] = [len(view) for view in seen]
            _pad(batch.tokens[name].numpy(), lengths, seen, places)
            padded |= bool((lengths < longest[name]).any())
        for name in ("labels", "observed"):
            entries = getattr(batch, name).numpy()
            entries[:] = False
            for at, where, local in found:
                entries[real[where]] = getattr(self._blocks[at], name)[local]
        batch.rows.numpy()[:] = rows
        return replace(batch, padded=padded)

    def _empty_batch(self, rows: int, tokens: Mapping[str, int]) -> Batch:
        """Return a batch of uninitialised tensors in one piece of memory."""
        kinds = {modality.name: modality for modality in self.modalities}
        shapes: list[tuple[tuple[int, ...], torch.dtype]] = [
            ((rows, length, kinds[name].dim), TORCH_DTYPES[kinds[name].dtype])
            for name, length in tokens.items()
        ]
        shapes += [((rows,), torch.int64)] * (len(tokens) + 1)
        shapes += [((rows, self.classes), torch.bool)] * 2
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in shapes]
        ends = list(accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes))
        if torch.cuda.is_available():  # a GPU copies asynchronously from page-locked memory only
            memory = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=True)
        else:
            memory = torch.from_numpy(self._buffers.empty((ends[-1],), np.dtype(np.uint8)))
        parts = iter(
            memory[first : first + size].view(dtype).view(shape)
            for (shape, dtype), size, first in zip(shapes, sizes, [0, *ends])
        )
        return Batch(
            tokens={name: next(parts) for name in tokens},
            lengths={name: next(parts) for name in tokens},
            rows=next(parts),
            labels=next(parts),
            observed=next(parts),
            memory=memory,
        )

    def _locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def _pad(
    padded: np.ndarray, lengths: np.ndarray, views: Sequence[np.ndarray], places: Sequence[int]
) -> None:
    """Copy token arrays [t, dim] into rows `places` of [rows, T, dim]; fill the rest with zeros."""
    for place, view in zip(places, views):
        padded[place, : len(view)] = view
    for row, length in zip(padded, lengths.tolist()):
        row[length:] = 0
