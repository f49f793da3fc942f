"""The record of rows says what was used, and the audit finds every row that was lost or doubled."""

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from raymc.errors import CheckpointError
from raymc.training.row_log import EpochAudit, RowLog, Segment, audit

N = 50


def log_of(*epochs: list[np.ndarray]) -> RowLog:
    """A record of epochs, each a list of steps' rows, with a segment for every two steps."""
    log = RowLog(N)
    for epoch, steps in enumerate(epochs, start=1):
        for first in range(0, len(steps), 2):
            rows = np.concatenate(steps[first : first + 2])
            last = min(first + 2, len(steps))
            log.add(epoch, rows, first_step=first, steps=last, workers=1)
    return log


def whole_epoch(seed: int) -> list[np.ndarray]:
    return np.array_split(np.random.default_rng(seed).permutation(N), 7)


def through_json(log: RowLog) -> RowLog:
    return RowLog.from_json(json.loads(json.dumps(log.to_json())))


def test_epochs_that_use_every_row_once() -> None:
    log = through_json(log_of(whole_epoch(1), whole_epoch(2)))
    found = audit(log, rows=N, epochs=2, is_part=False)
    assert found == [EpochAudit(epoch, 7, N, 0, 0, (1,), 1, is_over=True) for epoch in (1, 2)]
    assert all(one.is_right for one in found)


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_those_of_a_counter(seed: int) -> None:
    generator = np.random.default_rng(seed)
    steps = [generator.integers(0, N, size=generator.integers(0, 30)) for _ in range(9)]
    counted = Counter(np.concatenate(steps).tolist())
    [found] = audit(through_json(log_of(steps)), rows=N, epochs=1, is_part=False)
    assert found.once == sum(times == 1 for times in counted.values())
    assert found.repeated == sum(times > 1 for times in counted.values())
    assert found.lost == N - len(counted)
    assert found.is_right == (counted == Counter(range(N)))


@pytest.mark.parametrize("times", [255, 256, 300, 511, 512])
def test_a_row_used_ever_so_often_is_still_a_repeated_one(times: int) -> None:
    log = RowLog(N)
    for _ in range(2):
        log.add(1, np.zeros(times, dtype=np.int64), first_step=0, steps=1, workers=1)
    [found] = audit(log, rows=N, epochs=1, is_part=False)
    assert (found.once, found.repeated, found.lost) == (0, 1, N - 1)


def test_an_epoch_under_way_has_lost_nothing_yet() -> None:
    log = log_of(whole_epoch(0), whole_epoch(1)[:3])
    first, second = audit(log, rows=N, epochs=1, is_part=True)
    assert first.is_over
    assert (second.is_over, second.lost, second.steps) == (False, 0, 3)
    assert second.once == sum(len(rows) for rows in whole_epoch(1)[:3])
    assert second.is_right


def test_an_epoch_without_a_record_has_lost_all() -> None:
    found = audit(log_of(whole_epoch(0)), rows=N, epochs=2, is_part=False)
    assert [one.lost for one in found] == [0, N]


def test_rows_that_the_dataset_does_not_have() -> None:
    [found] = audit(log_of(whole_epoch(0)), rows=N - 3, epochs=1, is_part=False)
    assert (found.once, found.repeated) == (N - 3, 3)
    [found] = audit(log_of(whole_epoch(0)), rows=N + 3, epochs=1, is_part=False)
    assert (found.once, found.lost) == (N, 3)


def test_workers_and_attempts_in_order() -> None:
    log, steps = RowLog(N), whole_epoch(0)
    for first, (attempt, workers) in enumerate([(1, 1), (1, 1), (2, 2), (3, 2), (4, 1), (4, 3)]):
        log.attempt = attempt
        log.add(1, steps[first], first_step=first, steps=first + 1, workers=workers)
    [found] = audit(through_json(log), rows=N, epochs=0, is_part=True)
    assert (found.workers, found.attempts) == ((1, 2, 1, 3), 4)
    assert through_json(log).segments[2] == Segment(1, 2, 3, 2, 2, len(steps[2]))


def test_a_finished_epoch_takes_little_room() -> None:
    log = RowLog(1_000_000)
    log.add(1, np.arange(1_000_000), first_step=0, steps=1, workers=1)
    assert len(json.dumps(log.to_json())) < 2000


GOOD = log_of(whole_epoch(0)).to_json()
BAD: list[Any] = [
    {},
    {**GOOD, "segments": [[1]]},
    {**GOOD, "counts": {"1": "????"}},
    {**GOOD, "counts": {"1": "AAAA"}},
    {**GOOD, "counts": {"one": GOOD["counts"]["1"]}},
    {**GOOD, "counts": []},
    {**GOOD, "rows": None},
]


@pytest.mark.parametrize("values", BAD)
def test_a_record_that_is_none(values: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="the record of rows can't be read") as caught:
        RowLog.from_json(values)
    assert "\n" not in str(caught.value)
