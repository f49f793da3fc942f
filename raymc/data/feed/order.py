"""The order of an epoch: which rows make which global batch.

The order is a pure function of (seed, epoch, dataset). It does not depend on the number of
workers, so a run can resume with more or fewer of them.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

PADDING_ROW = -1
# An epoch has at least this many pools of batches. With fewer, rows of similar length would meet in
# every epoch; rows that never meet are never told apart by a contrast over the batch.
LEAST_POOLS = 8
JITTER = 0.1  # of a row's length, before rows are sorted by it


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


def pool_of(batches: int, most: int) -> int:
    """Return how many of an epoch's batches to sort together: at most `most`, and few of all."""
    return max(1, min(most, batches // LEAST_POOLS))


def batches_by_length(
    windows: Iterable[np.ndarray],
    lengths: Callable[[np.ndarray], np.ndarray],
    *,
    sizes: Sequence[int] | np.ndarray,
    pool: int,
    generator: np.random.Generator | None,
) -> Iterator[np.ndarray]:
    """Cut a stream of rows into batches of rows with similar lengths, to reduce padding.

    Args:
        windows: The rows, in any number of pieces.
        lengths: Returns rows' numbers of tokens.
        sizes: Rows of each batch.
        pool: Batches whose rows are sorted by length together; 1 keeps the order of the rows.
        generator: Shuffles the batches of a pool, and changes lengths a little before sorting, so
            that other rows of similar length meet in every epoch; None for neither.
    """
    pools = iter([np.cumsum(sizes[at : at + pool]) for at in range(0, len(sizes), pool)])
    ends = next(pools, None)
    waiting = np.empty(0, dtype=np.int64)
    for window in windows:
        waiting = np.concatenate([waiting, window])
        while ends is not None and len(waiting) >= ends[-1]:
            rows, waiting = np.split(waiting, ends[-1:])
            if pool > 1:
                rows = _by_length(rows, lengths, generator)
            batches = np.split(rows, ends[:-1])
            if generator is not None:
                batches = [batches[at] for at in generator.permutation(len(batches))]
            yield from batches
            ends = next(pools, None)


def _by_length(
    rows: np.ndarray,
    lengths: Callable[[np.ndarray], np.ndarray],
    generator: np.random.Generator | None,
) -> np.ndarray:
    keys = lengths(rows)
    if generator is not None:
        keys = keys * generator.uniform(1 - JITTER, 1 + JITTER, len(rows))
    return rows[np.argsort(keys, kind="stable")]


def share_of(rows: np.ndarray, rank: int, workers: int) -> np.ndarray:
    """Return one worker's rows of a global batch, with `PADDING_ROW` up to the largest share."""
    size = -(-len(rows) // workers)
    share = rows[rank::workers]
    return np.concatenate([share, np.full(size - len(share), PADDING_ROW)])
