"""One worker's batches of a split: `Feed` puts the order, the blocks and the batches together.

`order.py` says which rows make a batch, `batches.py` pads them. Threads make the next items while
the caller computes: NumPy's copies and pyarrow's reads release Python's lock.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch

from raymc.config import BatchConfig
from raymc.data.feed.batches import (
    Batch,
    Block,
    Buffers,
    RowStore,
    block_from_table,
    cut_at_shards,
)
from raymc.data.feed.order import (
    EpochOrder,
    batches_by_length,
    lanes_read,
    largest_share,
    order_of,
    ordered_windows,
    padded,
    pool_of,
    share_of,
)
from raymc.data.shards import Manifest, Means

BATCHES_AHEAD = 2  # batches that wait while a step computes

ReadShards = Callable[[Sequence[int]], Iterable[pa.Table]]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Feed:
    """One worker's view of a split: its share of every global batch, in order.

    A thread makes batches while the caller computes; without `keep`, another thread reads the
    next window. Up to three windows are then in memory: the one being read, the one in use, and
    the one before it until its last rows are in batches. Without `keep`, workers also share the
    reading: each one reads the shards of its lanes, and its share of a batch is the rows of these.

    Args:
        read: Returns the rows of the given shards, in that order, in tables of any length;
            called once if `keep`, else once an epoch.
        manifest: Of the dataset.
        split: Name of the split.
        config: How rows become batches.
        seed: Of the order.
        keep: Hold all rows in memory rather than a window at a time.
        share: This worker's rank, and the number of workers.
    """

    def __init__(
        self,
        read: ReadShards,
        manifest: Manifest,
        split: str,
        *,
        config: BatchConfig,
        seed: int,
        keep: bool,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.manifest, self.config, self.seed, self.keep = manifest, config, seed, keep
        self.split = split
        self.shard_rows = [shard.rows for shard in manifest.splits[split]]
        self.shard_bytes = [shard.bytes for shard in manifest.splits[split]]
        self.rows = sum(self.shard_rows)
        self.steps = -(-self.rows // config.size)
        self._read, self._share = read, share
        self._store: RowStore | None = None
        self._buffers = Buffers()

    def training(self, epoch: int, *, skip: int = 0) -> Iterator[Batch]:
        """Iterate over the epoch's batches in shuffled order, starting at batch `skip`."""
        order = order_of(
            self.shard_rows,
            self.shard_bytes,
            seed=self.seed,
            epoch=epoch,
            most_rows=self.config.window_rows,
            most_bytes=self.config.window_mb << 20,
            batch=self.config.size,
        )
        return prefetched(self._shares(order, skip=skip), depth=BATCHES_AHEAD)

    def _shares(self, order: EpochOrder, *, skip: int) -> Iterator[Batch]:
        """Yield this worker's share of each training batch."""
        lane_rows = order.lane_rows
        read = None if self.keep else lanes_read(lane_rows, *self._share)
        windows = [one for one in order.windows if read is None or read[one.lane]]
        store = self._kept_store() if self.keep else self._new_store()
        rows = order.rows_of(windows)
        if not self.keep:
            shards = [shard for window in windows for shard in window.shards]
            lanes = len(lane_rows) if read is None else np.count_nonzero(read)
            rows = self._load_ahead(store, shards, rows, depth=int(lanes))
        batches = batches_by_length(
            rows,
            store.lengths,
            lane_rows=lane_rows,
            sizes=np.diff([self.rows_in(step) for step in range(self.steps + 1)]),
            pool=pool_of(self.steps, self.config.pool_batches),
            generator=np.random.default_rng([self.seed, order.epoch, 2]),
            read=read,
        )
        for number, (found, counts) in enumerate(batches):
            if number >= skip:
                if read is None:
                    share = share_of(found, *self._share)
                else:
                    share = padded(found, largest_share(counts, self._share[1]))
                yield store.batch(share)
            if not self.keep:
                store.release(found)

    def rows_in(self, steps: int) -> int:
        """Return the number of rows in the first `steps` batches of a training epoch.

        Batches differ by 1 row at most: a small last one would get as large a step as the others.
        """
        return steps * self.rows // max(self.steps, 1)

    def evaluation(self) -> Iterator[Batch]:
        """Iterate over this worker's share of all rows, sorted by length in pools, each row once.

        Workers have equally many rows, with `PADDING_ROW` where they have no more.
        """
        return prefetched(self._evaluated(), depth=BATCHES_AHEAD)

    def _evaluated(self) -> Iterator[Batch]:
        numbers = np.arange(len(self.shard_rows))
        read = None if self.keep else lanes_read(np.array(self.shard_rows), *self._share)
        shards = numbers.tolist() if read is None else numbers[read].tolist()
        size = self.config.size if read is None else -(-self.config.size // self._share[1])
        store = self._kept_store() if self.keep else self._new_store()
        windows = ((0, rows) for rows in ordered_windows(shards, self.shard_rows))
        rows = sum(self.shard_rows[shard] for shard in shards)
        batches = batches_by_length(
            windows if self.keep else self._load_ahead(store, shards, windows),
            store.lengths,
            lane_rows=np.array([rows]),
            sizes=np.diff([*range(0, rows, size), rows]),
            pool=self.config.pool_batches,
            generator=None,
        )
        for found, _ in batches:
            share = share_of(found, *self._share) if read is None else found
            yield store.batch(share)
            if not self.keep:
                store.release(found)
        if read is not None:
            left = largest_share(np.array(self.shard_rows), self._share[1]) - rows
            for at in range(0, left, size):
                yield store.batch(padded(numbers[:0], min(size, left - at)))

    def _new_store(self) -> RowStore:
        classes = len(self.manifest.vocabulary.names)
        return RowStore(self.manifest.modalities, classes, self._buffers)

    def _kept_store(self) -> RowStore:
        if self._store is None:
            store = self._new_store()
            for first, block in self._blocks(range(len(self.shard_rows))):
                store.add(first, block)
            self._store = store
        return self._store

    def _load_ahead(
        self,
        store: RowStore,
        shards: Sequence[int],
        windows: Iterable[tuple[int, np.ndarray]],
        *,
        depth: int = 1,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each window once its blocks are in the store; a thread reads the next ones."""
        for window, blocks in prefetched(self._read_windows(shards, windows), depth=depth):
            while blocks:  # pop, so that only the store holds them
                store.add(*blocks.pop())
            yield window

    def _read_windows(
        self, shards: Sequence[int], windows: Iterable[tuple[int, np.ndarray]]
    ) -> Iterator[tuple[tuple[int, np.ndarray], list[tuple[int, Block]]]]:
        blocks = self._blocks(shards)
        for lane, rows in windows:
            found = []
            missing = len(rows)
            while missing > 0:
                found.append(next(blocks))
                missing -= len(found[-1][1])
            yield (lane, rows), found
        next(blocks, None)  # raises if rows are left: the shards have changed

    def _blocks(self, shards: Sequence[int]) -> Iterator[tuple[int, Block]]:
        for first, piece in cut_at_shards(self._read(shards), shards, self.shard_rows):
            yield first, block_from_table(piece, self.manifest)


@dataclass(frozen=True)
class Feeds:
    """A run's splits, and what training must know of the first.

    Attributes:
        train: The training split.
        val: The validation split.
        class_counts: [C], the training clips with each class.
        means: The training split's mean token of each modality.
        looks: [C, F], how each class changes its clips (`class_looks`); None where it isn't known,
            or no model needs it.
    """

    train: Feed
    val: Feed
    class_counts: np.ndarray
    means: Means
    looks: np.ndarray | None = None


def prefetched(items: Iterable[Item], *, depth: int) -> Iterator[Item]:
    """Yield items that one thread makes up to `depth` items ahead.

    An error raised while making an item is raised here, in its turn. The thread ends with the
    items, or when the iterator is closed or dropped, after the item in progress. Only the thread
    iterates over `items`; they are closed at the end if they have `close`.
    """
    source = iter(items)

    def make() -> list[Item]:
        return list(islice(source, 1))  # empty at the end: a Future can't carry StopIteration

    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as maker:
        try:
            waiting: deque[Future[list[Item]]] = deque(maker.submit(make) for _ in range(depth))
            while made := waiting.popleft().result():
                waiting.append(maker.submit(make))
                yield made.pop()  # pop: keep no reference to what the caller may free
        finally:
            maker.shutdown(cancel_futures=True)
            if close := getattr(source, "close", None):
                close()


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[tuple[Batch, Batch]]:
    """Yield each batch, and the same on `device`.

    A GPU copies in a stream of its own, so that a batch arrives while the step before computes.
    """
    if device.type != "cuda":
        yield from ((batch, batch.to(device)) for batch in batches)
        return
    copies = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(copies):
            moved = batch.to(device)
        steps = torch.cuda.current_stream(device)
        steps.wait_stream(copies)
        moved.used_in(steps)
        yield batch, moved


def mapped_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int
) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, computed by several threads at once.

    An error raised by the function is raised here, in its turn. The threads end with the items,
    or when the iterator is closed or dropped, after the calls in progress. Items are taken as
    results are consumed.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch") as makers:
        try:
            waiting: deque[Future[Result]] = deque()
            for item in items:
                waiting.append(makers.submit(function, item))
                if len(waiting) == threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            makers.shutdown(cancel_futures=True)
