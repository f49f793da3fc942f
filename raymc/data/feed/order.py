"""The order of an epoch: which rows make which global batch.

The order is a pure function of (seed, epoch, dataset). It does not depend on the number of
workers, so a run can resume with more or fewer of them.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from raymc.config import BatchConfig

PADDING_ROW = -1


def shard_order(shards: int, *, seed: int, epoch: int) -> list[int]:
    """Return the order in which an epoch reads the shards."""
    return np.random.default_rng([seed, epoch, 0]).permutation(shards).tolist()


def windows_of(
    order: Sequence[int],
    shard_rows: Sequence[int],
    shard_bytes: Sequence[int],
    *,
    seed: int,
    epoch: int,
    most_rows: int,
    most_bytes: int,
) -> Iterator[np.ndarray]:
    """Yield an epoch's windows of shuffled row indices.

    A window takes whole shards, in `order`, until it has `most_rows` rows or `most_bytes` bytes.
    """
    generator = np.random.default_rng([seed, epoch, 1])
    starts = np.concatenate([[0], np.cumsum(shard_rows)])
    window: list[np.ndarray] = []
    rows = size = 0
    for shard in order:
        window.append(np.arange(starts[shard], starts[shard + 1]))
        rows, size = rows + shard_rows[shard], size + shard_bytes[shard]
        if rows >= most_rows or size >= most_bytes:
            yield generator.permutation(np.concatenate(window))
            window, rows, size = [], 0, 0
    if rows:
        yield generator.permutation(np.concatenate(window))


def ordered_windows(shard_rows: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield each shard's rows in their stored order, one window per shard."""
    starts = np.concatenate([[0], np.cumsum(shard_rows)])
    for first, last in itertools.pairwise(starts):
        yield np.arange(first, last)


def batches_by_length(
    windows: Iterable[np.ndarray],
    lengths: Callable[[np.ndarray], np.ndarray],
    *,
    config: BatchConfig,
    generator: np.random.Generator | None,
) -> Iterator[np.ndarray]:
    """Cut a stream of rows into global batches of rows with similar lengths.

    Pools of `config.pool_batches` batches are sorted by length and cut; a `generator` shuffles
    the batches of a pool. Only the last pool can have a batch smaller than `config.size`.
    """
    pool_rows = config.size * config.pool_batches
    waiting = np.empty(0, dtype=np.int64)
    for window in windows:
        waiting = np.concatenate([waiting, window])
        while len(waiting) >= pool_rows:
            yield from _cut_pool(waiting[:pool_rows], lengths, config, generator)
            waiting = waiting[pool_rows:]
    yield from _cut_pool(waiting, lengths, config, generator)


def _cut_pool(
    rows: np.ndarray,
    lengths: Callable[[np.ndarray], np.ndarray],
    config: BatchConfig,
    generator: np.random.Generator | None,
) -> list[np.ndarray]:
    if config.pool_batches > 1:
        rows = rows[np.argsort(lengths(rows), kind="stable")]
    batches = [rows[at : at + config.size] for at in range(0, len(rows), config.size)]
    if generator is not None and config.pool_batches > 1:
        batches = [batches[at] for at in generator.permutation(len(batches))]
    return batches


def share_of(rows: np.ndarray, rank: int, workers: int) -> np.ndarray:
    """Return one worker's rows of a global batch, with `PADDING_ROW` up to the largest share."""
    size = -(-len(rows) // workers)
    share = rows[rank::workers]
    return np.concatenate([share, np.full(size - len(share), PADDING_ROW)])
