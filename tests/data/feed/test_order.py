"""The order of an epoch: every row once, the same batches however many workers share them."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from raymc.config import BatchConfig
from raymc.data.feed import order
from raymc.data.feed.order import (
    PADDING_ROW,
    EpochOrder,
    batches_by_length,
    lane_sequence,
    lanes_of,
    lanes_read,
    largest_share,
    order_of,
    ordered_windows,
    padded,
    pool_of,
    shard_order,
    share_of,
)

SHARD_ROWS = [7, 1, 12, 0, 5, 9, 3, 20, 1, 4]
SHARD_BYTES = [rows * 1000 for rows in SHARD_ROWS]
ROWS = sum(SHARD_ROWS)
LENGTHS = np.random.default_rng(0).integers(0, 50, ROWS)
OF_50_ROWS = {"most_rows": 50, "most_bytes": 1 << 30, "batch": 1}
CONFIGS = [
    BatchConfig(size=8, window_rows=1000, pool_batches=3),
    BatchConfig(size=8, window_rows=1000, pool_batches=1),
    BatchConfig(size=8, window_rows=10, pool_batches=2),
    BatchConfig(size=5, window_rows=1, pool_batches=4),
    BatchConfig(size=1, window_rows=17, pool_batches=1),
    BatchConfig(size=100, window_rows=30, pool_batches=2),
]
Batches = list[np.ndarray]
every_config = pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda c: f"{c.size}-{c.window_rows}-{c.pool_batches}"
)


def lengths_of(rows: np.ndarray) -> np.ndarray:
    return LENGTHS[rows]


def order_in(config: BatchConfig, *, seed: int = 3, epoch: int = 1) -> EpochOrder:
    return order_of(
        SHARD_ROWS,
        SHARD_BYTES,
        seed=seed,
        epoch=epoch,
        most_rows=config.window_rows,
        most_bytes=config.window_mb << 20,
        batch=config.size,
    )


def rows_in(found: EpochOrder) -> list[np.ndarray]:
    return [rows for _, rows in found.rows_of(found.windows)]


def batches(config: BatchConfig, *, seed: int = 3, epoch: int = 1) -> list[list[int]]:
    steps = -(-ROWS // config.size)
    found = order_in(config, seed=seed, epoch=epoch)
    cut = batches_by_length(
        found.rows_of(found.windows),
        lengths_of,
        lane_rows=found.lane_rows,
        sizes=np.diff(np.arange(steps + 1) * ROWS // steps),
        pool=pool_of(steps, config.pool_batches),
        generator=np.random.default_rng([seed, epoch]),
    )
    return [rows.tolist() for rows, _ in cut]


def in_one_lane(rows: Sequence[np.ndarray], lengths: Any, **given: Any) -> Batches:
    lane_rows = np.array([sum(map(len, rows))])
    windows = ((0, window) for window in rows)
    return [batch for batch, _ in batches_by_length(windows, lengths, lane_rows=lane_rows, **given)]


@every_config
def test_every_row_comes_once_an_epoch_in_batches_of_even_sizes(config: BatchConfig) -> None:
    for epoch in range(1, 4):
        made = batches(config, epoch=epoch)
        assert sorted(itertools.chain(*made)) == list(range(ROWS))
        sizes = [len(rows) for rows in made]
        assert len(made) == -(-ROWS // config.size)
        assert max(sizes) <= min(config.size, min(sizes) + 1)


def meeting_again(epochs: Sequence[Sequence[np.ndarray]], rows: int) -> float:
    """The share of pairs of rows in one batch that are in one batch of the next epoch, too."""
    met = [np.zeros((rows, rows), bool) for _ in epochs]
    for pairs, made in zip(met, epochs):
        for batch in made:
            pairs[np.ix_(batch, batch)] = True
        np.fill_diagonal(pairs, False)
    again = sum(np.count_nonzero(one & two) for one, two in itertools.pairwise(met))
    return again / sum(map(np.count_nonzero, met[:-1]))


@pytest.mark.parametrize("rows", [360, 900])
@pytest.mark.parametrize("lengths", ["ragged", "a few", "alike"])
def test_rows_of_a_length_do_not_meet_in_every_epoch(rows: int, lengths: str) -> None:
    drawn = np.random.default_rng(0)
    of_row = {
        "ragged": drawn.integers(24, 301, rows),
        "a few": drawn.choice([5, 50, 500], rows),
        "alike": np.full(rows, 75),
    }[lengths]
    steps = -(-rows // 32)
    epochs = [
        in_one_lane(
            [np.random.default_rng([1, epoch]).permutation(rows)],
            lambda asked: of_row[asked],
            sizes=np.diff(np.arange(steps + 1) * rows // steps),
            pool=pool_of(steps, 16),
            generator=np.random.default_rng([2, epoch]),
        )
        for epoch in range(4)
    ]
    assert meeting_again(epochs, rows) < 3 / steps  # at random: 1 / steps
    at_once = in_one_lane(
        [np.arange(rows)],
        lambda asked: of_row[asked],
        sizes=[32] * (rows // 32),
        pool=99,
        generator=None,
    )
    assert lengths == "alike" or meeting_again([at_once, at_once], rows) == 1


def test_few_batches_are_not_sorted_at_all() -> None:
    assert [pool_of(steps, 16) for steps in (0, 1, 15, 16, 80, 1000)] == [1, 1, 1, 2, 10, 16]
    assert pool_of(1000, 1) == 1


@every_config
def test_the_order_is_a_pure_function_of_seed_and_epoch(config: BatchConfig) -> None:
    made = {(s, e): batches(config, seed=s, epoch=e) for s in (3, 4) for e in (1, 2)}
    assert all(made[key] == batches(config, seed=key[0], epoch=key[1]) for key in made)
    for one, other in itertools.combinations(made.values(), 2):
        assert one != other


def test_shards_are_permuted_and_never_the_same_way() -> None:
    orders = [shard_order(10, seed=s, epoch=e) for s in range(3) for e in range(3)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 9


@every_config
def test_windows_are_whole_shards_in_order_up_to_the_asked_number(config: BatchConfig) -> None:
    starts = np.cumsum([0, *SHARD_ROWS])
    dealt = [shard for shard in shard_order(len(SHARD_ROWS), seed=3, epoch=1) if SHARD_ROWS[shard]]
    found = order_in(config)
    lanes = len(found.lane_rows)
    for lane in range(lanes):
        shards = iter(dealt[lane::lanes])
        made = [rows for at, rows in found.rows_of(found.windows) if at == lane]
        assert sum(map(len, made)) == found.lane_rows[lane]
        for number, window in enumerate(made):
            expected: set[int] = set()
            while len(expected) < len(window):
                assert len(expected) < -(-config.window_rows // lanes)
                shard = next(shards)
                expected |= set(range(starts[shard], starts[shard + 1]))
            assert set(window.tolist()) == expected
            assert len(window) * lanes >= config.window_rows or number == len(made) - 1


@pytest.mark.parametrize("most_bytes", [1, 9000, 12_000, 30_000, 10**6])
def test_windows_are_bounded_in_bytes_too(most_bytes: int) -> None:
    sizes = np.array(SHARD_BYTES)
    limits = {"most_rows": 10**6, "most_bytes": most_bytes, "batch": 1}
    found = order_of(SHARD_ROWS, SHARD_BYTES, seed=0, epoch=1, **limits)
    held = [sizes[window.shards] for window in found.windows]
    assert sum(len(shards) for shards in held) == len(SHARD_ROWS) - SHARD_ROWS.count(0)
    for number, shards in enumerate(held):
        assert shards.sum() - shards[-1] < most_bytes
        assert shards.sum() >= most_bytes or number == len(held) - 1


def test_rows_are_shuffled_within_their_window() -> None:
    rows = np.concatenate(rows_in(order_of([200], [1], seed=0, epoch=1, **OF_50_ROWS)))
    neighbours = np.count_nonzero(np.diff(rows) == 1)
    assert neighbours < 10


def test_a_shard_is_never_shuffled_the_same_way() -> None:
    made = {
        tuple(rows_in(order_of([20], [1], seed=s, epoch=e, **OF_50_ROWS))[0])
        for s in (0, 1)
        for e in (1, 2)
    }
    assert len(made) == 4


def test_a_dataset_smaller_than_the_window_is_shuffled_globally() -> None:
    (window,) = rows_in(order_in(BatchConfig(window_rows=ROWS)))
    shard_of = np.repeat(np.arange(len(SHARD_ROWS)), SHARD_ROWS)[window]
    assert np.count_nonzero(np.diff(shard_of)) > 2 * len(SHARD_ROWS)


def test_without_shards_there_are_no_batches() -> None:
    assert order_of([], [], seed=0, epoch=1, **OF_50_ROWS).windows == []
    assert order_of([0, 0], [9, 9], seed=0, epoch=1, **OF_50_ROWS).windows == []
    assert in_one_lane([], lengths_of, sizes=[], pool=16, generator=None) == []


def test_evaluation_takes_the_rows_as_they_lie() -> None:
    made = [window.tolist() for window in ordered_windows([0, 1, 2], [3, 0, 2])]
    assert made == [[0, 1, 2], [], [3, 4]]
    assert [window.tolist() for window in ordered_windows([2], [3, 0, 2])] == [[3, 4]]


def in_fours(rows: np.ndarray, pool: int, generator: np.random.Generator | None) -> Batches:
    sizes = [4] * (len(rows) // 4)
    return in_one_lane([rows], lengths_of, sizes=sizes, pool=pool, generator=generator)


def test_rows_of_a_pool_are_sorted_by_length() -> None:
    rows = np.random.default_rng(1).permutation(ROWS)[:60]
    exactly = in_fours(rows, 5, None)
    for at in range(0, 15, 5):
        expected = sorted(rows[at * 4 : at * 4 + 20].tolist(), key=lambda row: LENGTHS[row])
        assert np.concatenate(exactly[at : at + 5]).tolist() == expected


def test_in_training_lengths_decide_only_roughly_and_batches_are_shuffled() -> None:
    rows = np.random.default_rng(1).permutation(ROWS)[:60]
    exactly = in_fours(rows, 15, None)
    made = in_fours(rows, 15, np.random.default_rng(0))
    means = [LENGTHS[batch].mean() for batch in made]
    assert means != sorted(means)
    made.sort(key=lambda batch: LENGTHS[batch].mean())
    assert {frozenset(batch) for batch in made} != {frozenset(batch) for batch in exactly}
    for one, other in zip(made, exactly):
        assert LENGTHS[one].mean() == pytest.approx(LENGTHS[other].mean(), rel=0.2, abs=1)


def padding_share(made: Sequence[np.ndarray]) -> float:
    real = sum(LENGTHS[rows].sum() for rows in made)
    return 1 - real / sum(LENGTHS[rows].max() * len(rows) for rows in made)


def test_pooling_saves_padding_and_one_batch_a_pool_leaves_the_order_alone() -> None:
    rows = np.arange(60)
    alone = in_fours(rows, 1, None)
    assert np.concatenate(alone).tolist() == rows.tolist()
    assert padding_share(in_fours(rows, 8, None)) < 0.5 * padding_share(alone)
    jittered = in_fours(rows, 8, np.random.default_rng(0))
    assert padding_share(jittered) < 0.7 * padding_share(alone)


@pytest.mark.parametrize("windowing", [[ROWS], [1] * ROWS, [10, 3, 0, ROWS - 13]])
def test_batches_do_not_depend_on_how_rows_arrive(windowing: list[int]) -> None:
    rows = np.random.default_rng(2).permutation(ROWS)
    ends = np.cumsum([0, *windowing])
    parts = [rows[a:b] for a, b in itertools.pairwise(ends)]
    made, whole = (
        in_one_lane(
            given,
            lengths_of,
            sizes=[4, 3] * (ROWS // 7),
            pool=2,
            generator=np.random.default_rng(0),
        )
        for given in (parts, [rows])
    )
    assert [b.tolist() for b in made] == [b.tolist() for b in whole]


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 20])
def test_shares_are_equally_long_and_make_up_the_batch(workers: int) -> None:
    for size in (1, 2, 7, 8, 21):
        rows = np.random.default_rng(size).permutation(100)[:size]
        shares = [share_of(rows, rank, workers) for rank in range(workers)]
        assert {len(share) for share in shares} == {-(-size // workers)}
        together = np.concatenate(shares)
        assert sorted(together[together != PADDING_ROW]) == sorted(rows)
        assert np.count_nonzero(together == PADDING_ROW) < workers


LANED = BatchConfig(size=16, window_rows=36, pool_batches=2)
LANED_ROWS = [6] * 23 + [2]


def shares(workers: int, *, rows: Sequence[int], config: BatchConfig) -> tuple[list[Any], int]:
    """Each worker's batches, as rows and how many of each lane; and the number of lanes."""
    found = order_of(
        rows,
        rows,
        seed=5,
        epoch=2,
        most_rows=config.window_rows,
        most_bytes=10**9,
        batch=config.size,
    )
    total, steps = sum(rows), -(-sum(rows) // config.size)
    lengths = np.random.default_rng(1).integers(1, 90, total)
    made = []
    for rank in range(workers):
        read = lanes_read(found.lane_rows, rank, workers)
        assert read is not None
        cut = batches_by_length(
            found.rows_of(window for window in found.windows if read[window.lane]),
            lambda asked: lengths[asked],
            lane_rows=found.lane_rows,
            sizes=np.diff(np.arange(steps + 1) * total // steps),
            pool=config.pool_batches,
            generator=np.random.default_rng(7),
            read=read,
        )
        made.append(list(cut))
    return made, len(found.lane_rows)


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_that_read_some_lanes_share_the_batches_of_one(workers: int) -> None:
    ((alone,), lanes), (parts, _) = (
        shares(number, rows=LANED_ROWS, config=LANED) for number in (1, workers)
    )
    assert lanes == 4
    assert sorted(np.concatenate([rows for rows, _ in alone])) == list(range(sum(LANED_ROWS)))
    for (rows, counts), *share in zip(alone, *parts, strict=True):
        assert counts.sum() == len(rows)
        together = np.concatenate([part for part, _ in share])
        assert sorted(together) == sorted(rows)
        for part, same in share:
            assert same.tolist() == counts.tolist()
            assert len(part) <= largest_share(counts, workers) <= -(-len(rows) // workers) + 1
        assert max(len(part) for part, _ in share) == largest_share(counts, workers)
    shard_of = np.repeat(np.arange(len(LANED_ROWS)), LANED_ROWS)
    read = [{int(shard_of[row]) for rows, _ in part for row in rows} for part in parts]
    assert sum(map(len, read)) == len(set.union(*read)) == len(LANED_ROWS)


@pytest.mark.parametrize("lane_rows", [[50], [40, 40, 40], [90, 30, 61, 0, 7]])
@pytest.mark.parametrize("piece", [1 << 16, 25])
def test_lanes_advance_evenly(
    lane_rows: list[int], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "_PIECE", piece)
    rows = np.array(lane_rows)
    of = np.concatenate(list(lane_sequence(rows)))
    assert np.bincount(of, minlength=len(rows)).tolist() == lane_rows
    counts = np.cumsum(of[:, None] == np.arange(len(rows)), axis=0)
    ideal = np.arange(1, len(of) + 1)[:, None] * rows / rows.sum()
    assert np.abs(counts - ideal).max() < 2


@pytest.mark.parametrize(
    ("shards", "rows", "batch", "lanes"),
    [
        (2, 32768, 64, 1),  # one window
        (100, 512, 64, 1),
        (1000, 512, 64, 32),  # two rows of each in a batch
        (1000, 512, 512, 64),
        (1000, 20_000, 512, 2),  # shards in a window
        (1000, 100_000, 512, 1),
        (140, 512, 3, 1),
    ],
)
def test_the_number_of_lanes(shards: int, rows: int, batch: int, lanes: int) -> None:
    sizes = [rows] * shards
    assert lanes_of(sizes, sizes, most_rows=65536, most_bytes=1 << 30, batch=batch) == lanes


def test_lanes_that_workers_cannot_share_evenly_are_read_by_all() -> None:
    even = np.full(16, 100)
    assert [lanes_read(even, 0, n) is None for n in (1, 2, 3, 4, 5, 16, 17)] == [
        *(False, False, False, False),
        *(True, False, True),
    ]
    assert lanes_read(np.array([300, 100]), 0, 2) is None
    read = [lanes_read(even, rank, 3) for rank in range(3)]
    assert np.sum(read, axis=0).tolist() == [1] * 16
    assert padded(np.array([4, 2]), 3).tolist() == [4, 2, PADDING_ROW]
