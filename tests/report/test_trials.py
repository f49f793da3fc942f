"""The numbers of a sweep against sums by hand, and importances against a function we know."""

import math
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from raymc.config import Config, override
from raymc.report.trials import Trial, best_so_far, costs_of, importances, trials_of
from raymc.search.trials import Epoch, failure

SPACE = {name: FloatDistribution(0.0, 1.0) for name in ("loss.margin", "loss.temperature")}


def trial(
    number: int, values: list[float], *, state: str = "complete", seconds: float = 60.0
) -> Trial:
    return Trial(
        number=number,
        state=state,
        params={},
        values=dict(enumerate(values, 1)),
        best={},
        planned=4,
        seconds=seconds,
        message="",
        checkpoint="",
    )


TRIALS = [
    trial(0, [0.2, 0.5, 0.4, 0.4]),
    trial(1, [0.3], state="pruned", seconds=30.0),
    trial(2, [0.9, 0.9], state="failed", seconds=10.0),
    trial(3, [], state="failed", seconds=0.0),
    trial(4, [0.5, 0.6, 0.7, 0.8]),
    trial(5, [0.6, 0.6], state="pruned", seconds=50.0),
]


def test_what_failed_has_no_value() -> None:
    values = [one.value for one in TRIALS]
    assert np.array_equal(values, [0.5, 0.3, math.nan, math.nan, 0.8, 0.6], equal_nan=True)
    assert best_so_far(TRIALS) == [0.5, 0.5, 0.5, 0.5, 0.8, 0.8]
    assert np.isnan(best_so_far(TRIALS[2:4])).all()


@pytest.mark.parametrize(("gpus", "unit"), [(0.0, "worker-hours"), (0.5, "GPU-hours")])
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


def test_importances_know_what_made_the_difference() -> None:
    shares = importances(sampled(40, 1.0), SPACE)
    assert list(shares) == ["loss.margin", "loss.temperature"]
    assert shares["loss.margin"] > 0.95
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares == importances(sampled(40, 1.0), SPACE)
    assert next(iter(importances(sampled(40, 0.0), SPACE))) == "loss.temperature"


def test_importances_of_too_little() -> None:
    assert importances(sampled(3, 1.0), SPACE) == {}
    same = [replace(one, values={1: 0.5}) for one in sampled(10, 1.0)]
    assert importances(same, SPACE) == {}


def test_trials_of_a_study(tiny_config: Config) -> None:
    config = override(tiny_config, {"train.epochs": 9})
    study = optuna.create_study(direction="maximize")
    best = {"val/mAP": 0.5, "val/R80": 0.25, "epoch": 2}
    first_epoch = Epoch(1, {"val/mAP": 0.4, "val/R80": 0.5}, 3.5, "/else/where")
    metrics = {"val/mAP": 0.5, "val/R80": 0.25}
    attributes = dict(
        epoch.attribute() for epoch in (first_epoch, Epoch(2, metrics, 7.5, "/some/where"))
    )
    values = {1: 0.4, 2: 0.5}
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED,
            params={"train.epochs": 5},
            distributions={"train.epochs": optuna.distributions.IntDistribution(1, 9)},
            intermediate_values=values,
            user_attrs=attributes,
        )
    )
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=failure("no luck", 0.5)))
    first, second = trials_of(study.trials, config)
    assert first == Trial(0, "pruned", {"train.epochs": 5}, values, best, 5, 7.5, "", "/some/where")
    assert (second.state, second.message, second.planned, second.epochs) == (
        "failed", "no luck", 9, 0,
    )  # fmt: skip
