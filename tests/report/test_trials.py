"""The numbers of a sweep against sums by hand, and importances against a function we know."""

import math
from dataclasses import replace

import numpy as np
import pytest
from optuna.distributions import FloatDistribution

from raymc.report.drawing import percentages
from raymc.report.trial_sections import hours
from raymc.report.trials import best_so_far, costs_of, importances
from raymc.search.trials import Epoch, Trial, TrialState

SPACE = {name: FloatDistribution(0.0, 1.0) for name in ("loss.margin", "loss.temperature")}


def trial(
    number: int, values: list[float], *, state: TrialState = "complete", seconds: float = 60.0
) -> Trial:
    made = Trial(number, {}, planned=4)
    for epoch, value in enumerate(values, 1):
        made = made.after(Epoch(epoch, value, {}, seconds, ""))
    return replace(made, state=state, seconds=seconds)


TRIALS = [
    trial(0, [0.2, 0.5, 0.4, 0.4]),
    trial(1, [0.3], state="pruned", seconds=30.0),
    trial(2, [0.9, 0.9], state="failed", seconds=10.0),
    trial(3, [], state="failed", seconds=0.0),
    trial(4, [0.5, 0.6, 0.7, 0.8]),
    trial(5, [0.6, 0.6], state="pruned", seconds=50.0),
]


def test_what_failed_has_no_value() -> None:
    values = [one.score for one in TRIALS]
    assert np.array_equal(values, [0.5, 0.3, math.nan, math.nan, 0.8, 0.6], equal_nan=True)
    assert best_so_far(TRIALS) == [0.5, 0.5, 0.5, 0.5, 0.8, 0.8]
    assert np.isnan(best_so_far(TRIALS[2:4])).all()


@pytest.mark.parametrize(("gpus", "unit"), [(0.0, "worker time"), (0.5, "GPU time")])
def test_costs(gpus: float, unit: str) -> None:
    costs = costs_of(TRIALS, workers=2, gpus=gpus, price=3.0)
    share = gpus or 1.0
    assert costs.unit == unit
    assert costs.hours == pytest.approx((60 + 30 + 10 + 60 + 50) * 2 * share / 3600)
    # three epochs of 30 s that trial 1 didn't run, two of 25 s of trial 5
    assert costs.saved_hours == pytest.approx((3 * 30 + 2 * 25) * 2 * share / 3600)
    assert (costs.epochs, costs.saved_epochs) == (4 + 1 + 2 + 4 + 2, 5)
    assert costs.money == pytest.approx(3 * costs.hours)
    assert costs.saved_money == pytest.approx(3 * costs.saved_hours)
    unpriced = costs_of(TRIALS, workers=2, gpus=gpus)
    assert (unpriced.money, unpriced.saved_money) == (None, None)


def test_times_and_shares_as_people_say_them() -> None:
    said = {
        0.00278: "10 s",
        0.0732: "4 min",
        0.99: "59 min",
        3.21: "3.21 hours",
        4321: "4,321 hours",
    }
    assert [hours(float(value)) for value in said] == list(said.values())
    assert percentages([0.95, 0.975, 1.0]) == ["95.0%", "97.5%", "100.0%"]
    assert percentages([0.5, 0.6000000000000001]) == ["50%", "60%"]
    assert percentages([0.99125]) == ["99.125%"]
    assert percentages([1 / 3]) == ["33.3333%"]


def sampled(count: int, weight: float) -> list[Trial]:
    """Trials whose value is `weight` × margin, plus a hundredth of the temperature."""
    drawn = np.random.default_rng(0).random((count, 2))
    return [
        replace(
            trial(number, [float(weight * margin + 0.01 * temperature)]),
            params={"loss.margin": float(margin), "loss.temperature": float(temperature)},
            state="pruned" if number % 2 else "complete",
        )
        for number, (margin, temperature) in enumerate(drawn)
    ]


@pytest.mark.slow
def test_importances_know_what_made_the_difference() -> None:
    shares = importances(sampled(12, 1.0), SPACE)
    assert list(shares) == ["loss.margin", "loss.temperature"]
    assert shares["loss.margin"] > 0.95
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares == importances(sampled(12, 1.0), SPACE)
    assert next(iter(importances(sampled(12, 0.0), SPACE))) == "loss.temperature"


def test_importances_of_too_little() -> None:
    assert importances(sampled(3, 1.0), SPACE) == {}
    same = [replace(one, value=0.5) for one in sampled(10, 1.0)]
    assert importances(same, SPACE) == {}
