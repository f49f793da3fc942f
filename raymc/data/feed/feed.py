"""Making the next items while the caller works on the one before.

Pure: threads of the standard library. NumPy's copies and pyarrow's reading let other threads
run, so one more thread is enough to hide both behind a training step.
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
    BATCHES_AHEAD,
    Batch,
    Block,
    RowStore,
    block_from_table,
    buffers_of,
    cut_at_shards,
)
from raymc.data.feed.order import (
    batches_by_length,
    ordered_windows,
    shard_order,
    share_of,
    windows_of,
)
from raymc.data.shards import Manifest

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(items: Iterable[Item], *, depth: int) -> Iterator[Item]:
    """Yield items that a thread of its own has made up to `depth` items ahead.

    Whatever making an item raises is raised here, in its turn. The thread ends with the items,
    or when the iterator is closed or dropped, after the item that it is at.

    Args:
        items: Made one after the other, by the thread alone; closed at the end if they can be.
        depth: Items that wait beside the one that the caller has.
    """
    source = iter(items)

    def make() -> list[Item]:
        return list(islice(source, 1))  # a list, so that the end is an item like any other

    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as maker:
        try:
            waiting: deque[Future[list[Item]]] = deque(maker.submit(make) for _ in range(depth))
            while made := waiting.popleft().result():
                waiting.append(maker.submit(make))
                yield made.pop()  # nothing here holds on to what the caller lets go
        finally:
            maker.shutdown(cancel_futures=True)
            if close := getattr(source, "close", None):
                close()


def mapped_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int
) -> Iterator[Result]:
    """Yield what a function makes of items, in their order, several of them at a time.

    Whatever the function raises is raised here, in its turn. The threads end with the items, or
    when the iterator is closed or dropped, after what they are at.

    Args:
        function: Called by several threads at once.
        items: Taken as results are.
        threads: How many items are worked on at once.
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


# Rows of shards as padded batches: decoded blocks in memory, and one copy into a batch. Blocks
# come from wherever the caller has them, an object store or a file; nothing here knows Ray. Axes:
# N rows of a block, B rows of one worker's share of a batch, T tokens, C classes.


ReadShards = Callable[[Sequence[int]], Iterable[pa.Table]]


class Feed:
    """One worker's view of a split: its share of every global batch, in order.

    Batches are made by a thread while the caller computes; where rows are not kept, another one
    reads the next window. Of windows up to three are in memory then: that which is read, that
    which is used, and the one before until its last rows went into batches.

    Args:
        read: gives the rows of the shards it is asked for, in that order, in tables of any
            length; called once in all if `keep`, else once an epoch.
        manifest: of the dataset.
        split: which split this is.
        config: how rows become batches.
        seed: of the order.
        keep: hold all rows in memory rather than a window at a time.
        share: this worker's rank, and the number of workers.
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
        self.shard_rows = [shard.rows for shard in manifest.splits[split]]
        self.shard_bytes = [shard.bytes for shard in manifest.splits[split]]
        self.rows = sum(self.shard_rows)
        self.steps = -(-self.rows // config.size)
        self._read, (self._rank, self._workers) = read, share
        self._store: RowStore | None = None
        self._buffers = buffers_of(manifest.modalities)

    def training(self, epoch: int, *, skip: int = 0) -> Iterator[Batch]:
        """Iterate over the epoch's batches from number `skip` on, in shuffled order."""
        order = shard_order(len(self.shard_rows), seed=self.seed, epoch=epoch)
        windows = windows_of(
            order,
            self.shard_rows,
            self.shard_bytes,
            seed=self.seed,
            epoch=epoch,
            most_rows=self.config.window_rows,
            most_bytes=self.config.window_mb << 20,
        )
        generator = np.random.default_rng([self.seed, epoch, 2])
        batches = self._batches(order, windows, generator, skip)
        return prefetched(batches, depth=BATCHES_AHEAD)

    def evaluation(self) -> Iterator[Batch]:
        """Iterate over every row once, in the order of the shards but for sorting by length."""
        order = list(range(len(self.shard_rows)))
        batches = self._batches(order, ordered_windows(self.shard_rows), None, 0)
        return prefetched(batches, depth=BATCHES_AHEAD)

    def _batches(
        self,
        order: Sequence[int],
        windows: Iterable[np.ndarray],
        generator: np.random.Generator | None,
        skip: int,
    ) -> Iterator[Batch]:
        store = self._kept_store() if self.keep else self._new_store()
        loaded = windows if self.keep else self._load_ahead(store, order, windows)
        batches = batches_by_length(loaded, store.lengths, config=self.config, generator=generator)
        for number, rows in enumerate(batches):
            if number >= skip:
                batch = store.batch(share_of(rows, self._rank, self._workers))
                yield batch.pinned() if torch.cuda.is_available() else batch
            if not self.keep:
                store.release(rows)

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
        self, store: RowStore, order: Sequence[int], windows: Iterable[np.ndarray]
    ) -> Iterator[np.ndarray]:
        """Yield the windows, each once its blocks are in the store, while the next is read."""
        for window, blocks in prefetched(self._read_windows(order, windows), depth=1):
            while blocks:  # the store alone is to hold them
                store.add(*blocks.pop())
            yield window

    def _read_windows(
        self, order: Sequence[int], windows: Iterable[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, list[tuple[int, Block]]]]:
        blocks = self._blocks(order)
        for window in windows:
            found = []
            missing = len(window)
            while missing > 0:
                found.append(next(blocks))
                missing -= len(found[-1][1])
            yield window, found
        next(blocks, None)  # nothing is left, else the shards have changed

    def _blocks(self, shards: Sequence[int]) -> Iterator[tuple[int, Block]]:
        for first, piece in cut_at_shards(self._read(shards), shards, self.shard_rows):
            yield first, block_from_table(piece, self.manifest)


@dataclass(frozen=True)
class Feeds:
    """The two splits a run sees, and how often each class occurs in the first ([C])."""

    train: Feed
    val: Feed
    class_counts: np.ndarray
