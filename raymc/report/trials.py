"""The numbers of a sweep: its course, which settings mattered, what its trials cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from raymc.search.trials import Trial

FEWEST_FOR_IMPORTANCES = 4


@dataclass(frozen=True)
class Costs:
    """What a sweep cost, and an estimate of what stopping trials early saved.

    The unit is `GPU time`, or `worker time` if no GPU was used. The epochs that pruned trials
    didn't run count as saved, at each trial's own pace. The price is that of an hour, if known.
    """

    unit: str
    hours: float
    saved_hours: float
    epochs: int
    saved_epochs: int
    price: float | None

    @property
    def money(self) -> float | None:
        """What the sweep cost."""
        return None if self.price is None else self.hours * self.price

    @property
    def saved_money(self) -> float | None:
        """What the epochs that were not run would have cost, estimated."""
        return None if self.price is None else self.saved_hours * self.price


def best_so_far(trials: Sequence[Trial]) -> list[float]:
    """Return the best value after each trial; NaN before the first."""
    best, course = math.nan, []
    for trial in trials:
        best = trial.score if not best >= trial.score and not math.isnan(trial.score) else best
        course.append(best)
    return course


def importances(trials: Sequence[Trial], space: Mapping[str, BaseDistribution]) -> dict[str, float]:
    """Return each setting's share of the differences between trials, the largest first.

    Functional ANOVA (F. Hutter, H. Hoos and K. Leyton-Brown 2014, *An Efficient Approach for
    Assessing Hyperparameter Importance*, ICML) as Optuna computes it, over the best value of
    every trial that didn't fail.

    Returns:
        Shares that sum to 1. Empty if fewer than `FEWEST_FOR_IMPORTANCES` trials have a value,
        or all values are equal.
    """
    scored = [trial for trial in trials if not math.isnan(trial.score)]
    if len(scored) < FEWEST_FOR_IMPORTANCES or len({trial.score for trial in scored}) == 1:
        return {}
    study = optuna.create_study(direction="maximize")
    for trial in scored:
        study.add_trial(
            optuna.trial.create_trial(
                params=dict(trial.params), distributions=dict(space), value=trial.score
            )
        )
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def costs_of(
    trials: Sequence[Trial], *, workers: int, gpus: float, price: float | None = None
) -> Costs:
    """Return what trials of so many workers, and each worker of so many GPUs, cost.

    The price is that of a GPU for an hour, or of a worker if they had no GPU.
    """
    hours_per_second = workers * (gpus or 1.0) / 3600
    pruned = [trial for trial in trials if trial.state == "pruned" and trial.epoch]
    saved = [(trial.planned - trial.epoch, trial.seconds / trial.epoch) for trial in pruned]
    return Costs(
        unit="GPU time" if gpus else "worker time",
        hours=sum((trial.seconds for trial in trials), 0.0) * hours_per_second,
        saved_hours=sum((epochs * seconds for epochs, seconds in saved), 0.0) * hours_per_second,
        epochs=sum(trial.epoch for trial in trials),
        saved_epochs=sum(epochs for epochs, _ in saved),
        price=price,
    )
