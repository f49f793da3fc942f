"""Which checkpoints of a run are kept, by the score that they are given."""

import itertools
import random

import pytest

from raymc.training.keeping import KEPT, keep_score

STEPS = 5


def reports(values: list[float]) -> list[tuple[int, int, int]]:
    """Epochs that ended, steps of the next and the best epoch, of a run with these metrics."""
    found, best = [], 0
    for epoch, value in enumerate(values, start=1):
        found += [(epoch - 1, step, best) for step in range(1, STEPS)]
        best = epoch if not best or value > values[best - 1] else best
        found.append((epoch, 0, best))
    return found


@pytest.mark.parametrize("seed", range(30))
def test_the_best_and_the_last_two_are_kept(seed: int) -> None:
    generator = random.Random(seed)
    values = [generator.random() for _ in range(8)]
    kept: list[tuple[int, int, int]] = []
    for before, report in itertools.pairwise([None, *reports(values)]):
        kept = sorted([*kept, report], key=lambda one: keep_score(*one))[-KEPT:]
        last_epochs = [one for one in reports(values) if one <= report and one[1] == 0]
        best = [one for one in last_epochs if one[0] == report[2]]
        assert {report, before} - {None} | set(best) <= set(kept)


def test_scores_of_a_long_run_still_rise() -> None:
    scores = [keep_score(100, step, 100) for step in (0, 1, 2, 1000, 1001, 10_000, 10_001)]
    assert scores[0] == 100.0
    assert all(99 < one < other < 100 for one, other in itertools.pairwise(scores[1:]))
