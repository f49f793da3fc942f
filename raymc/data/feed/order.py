"""The order of an epoch: which rows make which global batch.

The order is a pure function of (seed, epoch, dataset). It does not depend on the number of
workers, so a run can resume with more or fewer of them.

Shards are dealt to lanes, and each batch takes an equal part of every lane. Workers that stream
read some of the lanes each, so that together they read a dataset once, and their shares of a batch
are still equally large. MosaicML's Streaming has the same idea as "canonical nodes"
(https://docs.mosaicml.com/projects/streaming). A dataset that fits in one window has one lane.

Axes: L lanes, S batches.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

PADDING_ROW = -1
# An epoch has at least this many pools of batches. With fewer, rows of similar length would meet in
# every epoch; rows that never meet are never told apart by a contrast over the batch.
LEAST_POOLS = 8
JITTER = 0.1  # of a row's length, before rows are sorted by it
MOST_LANES = 64
LEAST_OF_LANE = 2  # rows of a lane in each batch
UNEVEN = 1.15  # how many times a fair share the worker with the most rows may have
_PIECE = 1 << 16  # rows whose lanes are worked out at a time


@dataclass(frozen=True)
class Window:
    """Shards of a lane whose rows are shuffled together.

    `begins` is the share of the epoch after which its first row is needed.
    """

    begins: float
    lane: int
    shards: list[int]


@dataclass(frozen=True)
class EpochOrder:
    """The shards of an epoch, dealt to lanes.

    Attributes:
        seed: Of the order.
        epoch: Its number, from 1.
        shard_rows: Rows of every shard of the split.
        windows: All windows, in the order in which batches need them.
        lane_rows: Rows of each lane, [L].
    """

    seed: int
    epoch: int
    shard_rows: Sequence[int]
    windows: list[Window]
    lane_rows: Int64[np.ndarray, " L"]

    def rows_of(self, windows: Iterable[Window]) -> Iterator[tuple[int, Int64[np.ndarray, " n"]]]:
        """Yield the lane and the shuffled rows of some lanes' windows."""
        starts = np.concatenate([[0], np.cumsum(self.shard_rows)])
        lanes = range(len(self.lane_rows))
        generators = [np.random.default_rng([self.seed, self.epoch, 1, lane]) for lane in lanes]
        for window in windows:
            rows = [np.arange(starts[shard], starts[shard + 1]) for shard in window.shards]
            yield window.lane, generators[window.lane].permutation(np.concatenate(rows))


def order_of(
    shard_rows: Sequence[int],
    shard_bytes: Sequence[int],
    *,
    seed: int,
    epoch: int,
    most_rows: int,
    most_bytes: int,
    batch: int,
) -> EpochOrder:
    """Return the order in which an epoch reads the shards.

    A window takes whole shards until it has `most_rows` rows or `most_bytes` bytes; with lanes,
    each lane's windows have their part of that.

    Args:
        shard_rows: Rows of every shard of the split.
        shard_bytes: Bytes of every shard.
        seed: Of the order.
        epoch: Its number, from 1.
        most_rows: Of a window.
        most_bytes: Of a window.
        batch: Rows of a batch.
    """
    limits = {"most_rows": most_rows, "most_bytes": most_bytes}
    lanes = lanes_of(shard_rows, shard_bytes, **limits, batch=batch)
    order = shard_order(len(shard_rows), seed=seed, epoch=epoch)
    order = [shard for shard in order if shard_rows[shard]]
    limits = {name: -(-most // lanes) for name, most in limits.items()}
    dealt = [order[lane::lanes] for lane in range(lanes)]
    lane_rows = [sum(shard_rows[shard] for shard in shards) for shards in dealt]
    windows = []
    for lane, (shards, rows) in enumerate(zip(dealt, lane_rows)):
        before = 0
        for window in _cut(shards, shard_rows, shard_bytes, **limits):
            windows.append(Window(before / rows, lane, window))
            before += sum(shard_rows[shard] for shard in window)
    windows.sort(key=lambda window: (window.begins, window.lane))
    return EpochOrder(seed, epoch, shard_rows, windows, np.array(lane_rows, dtype=np.int64))


def lanes_of(
    shard_rows: Sequence[int],
    shard_bytes: Sequence[int],
    *,
    most_rows: int,
    most_bytes: int,
    batch: int,
) -> int:
    """Return the number of lanes: a power of two, as the numbers of workers mostly are.

    There are as many as leave each lane a shard in every window and some rows in every batch. A
    dataset that fits in one window has one lane, and so is shuffled as a whole.
    """
    if sum(shard_rows) <= most_rows and sum(shard_bytes) <= most_bytes:
        return 1
    in_window = min(most_rows // max(shard_rows), most_bytes // max(1, *shard_bytes))
    shards = sum(rows > 0 for rows in shard_rows)
    most = min(MOST_LANES, shards, in_window, batch // LEAST_OF_LANE)
    return 1 << (max(1, most).bit_length() - 1)


def shard_order(shards: int, *, seed: int, epoch: int) -> list[int]:
    """Return the shards in the order in which an epoch deals them."""
    return np.random.default_rng([seed, epoch, 0]).permutation(shards).tolist()


def _cut(
    shards: Iterable[int],
    shard_rows: Sequence[int],
    shard_bytes: Sequence[int],
    *,
    most_rows: int,
    most_bytes: int,
) -> Iterator[list[int]]:
    window: list[int] = []
    rows = size = 0
    for shard in shards:
        window.append(shard)
        rows, size = rows + shard_rows[shard], size + shard_bytes[shard]
        if rows >= most_rows or size >= most_bytes:
            yield window
            window, rows, size = [], 0, 0
    if window:
        yield window


def lane_sequence(lane_rows: Int64[np.ndarray, " L"]) -> Iterator[Int64[np.ndarray, " n"]]:
    """Yield, in pieces, the lane of each row of an epoch: all advance evenly and end together."""
    lanes = np.arange(len(lane_rows))
    phases = (lanes + 0.5) / len(lanes)
    pieces = max(1, -(-int(lane_rows.sum()) // _PIECE))
    done = np.zeros_like(lane_rows)
    for piece in range(1, pieces + 1):
        until = lane_rows * piece // pieces
        of = np.repeat(lanes, until - done)
        index = np.concatenate([np.arange(a, b) for a, b in zip(done, until)])
        place = (index + phases[of]) / lane_rows[of]
        yield of[np.argsort(place, kind="stable")]
        done = until


def ordered_windows(shards: Iterable[int], shard_rows: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the rows of shards in their stored order, one window per shard."""
    starts = np.concatenate([[0], np.cumsum(shard_rows)])
    for shard in shards:
        yield np.arange(starts[shard], starts[shard + 1])


def pool_of(batches: int, most: int) -> int:
    """Return how many of an epoch's batches to sort together: at most `most`, and few of all."""
    return max(1, min(most, batches // LEAST_POOLS))


def batches_by_length(
    windows: Iterable[tuple[int, np.ndarray]],
    lengths: Callable[[np.ndarray], np.ndarray],
    *,
    lane_rows: Int64[np.ndarray, " L"],
    sizes: Sequence[int] | np.ndarray,
    pool: int,
    generator: np.random.Generator | None,
    read: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut streams of rows into batches of rows with similar lengths, to reduce padding.

    Each batch takes an equal part of every lane, of which the shortest rows of a pool go to the
    same batch.

    Args:
        windows: Lane and rows, in any number of pieces, in the order in which they are needed.
        lengths: Returns rows' numbers of tokens.
        lane_rows: Rows of each lane.
        sizes: Rows of each batch.
        pool: Batches whose rows are sorted by length together; 1 keeps the order of the rows.
        generator: Shuffles the batches of a pool, and changes lengths a little before sorting, so
            that other rows of similar length meet in every epoch; None for neither. It draws the
            same numbers whichever lanes are read.
        read: The lanes whose rows come, [L] bool; None for all.

    Yields:
        The batch's rows, of the lanes that are read, and how many it has of each lane, [L].
    """
    lanes = range(len(lane_rows)) if read is None else np.flatnonzero(read).tolist()
    source, sequence = iter(windows), lane_sequence(lane_rows)
    waiting = {lane: np.empty(0, dtype=np.int64) for lane in lanes}
    following = np.empty(0, dtype=np.int64)
    for at in range(0, len(sizes), pool):
        ends = np.cumsum(sizes[at : at + pool])
        while len(following) < ends[-1]:
            following = np.concatenate([following, next(sequence)])
        of, following = np.split(following, ends[-1:])
        counts = [np.bincount(part, minlength=len(lane_rows)) for part in np.split(of, ends[:-1])]
        taken = np.sum(counts, axis=0)
        jitter = np.ones(len(of))
        if pool > 1 and generator is not None:
            jitter = generator.uniform(1 - JITTER, 1 + JITTER, len(of))
        firsts = np.concatenate([[0], np.cumsum(taken)])
        parts: list[list[np.ndarray]] = [[] for _ in counts]
        for lane in lanes:
            while len(waiting[lane]) < taken[lane]:
                other, rows = next(source)
                waiting[other] = np.concatenate([waiting[other], rows])
            rows, waiting[lane] = np.split(waiting[lane], taken[lane : lane + 1])
            if pool > 1:
                keys = lengths(rows) * jitter[firsts[lane] : firsts[lane + 1]]
                rows = rows[np.argsort(keys, kind="stable")]
            for part, each in zip(parts, np.split(rows, np.cumsum([c[lane] for c in counts])[:-1])):
                part.append(each)
        order = range(len(counts)) if generator is None else generator.permutation(len(counts))
        for number in order:
            yield np.concatenate(parts[number]), counts[number]
    for _ in source:  # ends what reads ahead, or raises if rows are left: the shards have changed
        continue


def lanes_read(
    lane_rows: Int64[np.ndarray, " L"], rank: int, workers: int
) -> Bool[np.ndarray, " L"] | None:
    """Return which lanes a worker reads; None if every worker reads all of them.

    That is so where some would have many more rows than others, for instance where there are more
    workers than lanes.
    """
    if workers > len(lane_rows):
        return None
    of = np.arange(len(lane_rows)) % workers
    most = np.bincount(of, weights=lane_rows).max()
    return of == rank if most * workers <= UNEVEN * lane_rows.sum() else None


def share_of(rows: np.ndarray, rank: int, workers: int) -> np.ndarray:
    """Return one worker's rows of a global batch, with `PADDING_ROW` up to the largest share."""
    return padded(rows[rank::workers], -(-len(rows) // workers))


def largest_share(counts: np.ndarray, workers: int) -> int:
    """Return the rows of a batch that the worker with the most of them reads.

    `counts` has the batch's rows of each lane, [L].
    """
    return int(np.bincount(np.arange(len(counts)) % workers, weights=counts).max())


def padded(rows: np.ndarray, size: int) -> np.ndarray:
    """Return rows with `PADDING_ROW` up to a number of rows."""
    return np.concatenate([rows, np.full(size - len(rows), PADDING_ROW)])
