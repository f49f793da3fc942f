"""What a sweep's study holds of a trial: its epochs as they came, and how it ended.

Optuna itself knows one value an epoch. One attribute more an epoch, and one where a trial failed,
are all that is written besides: each is a transaction of its own, and a disk makes it wait. Pure:
no Ray, no MLflow.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial

_EPOCH, _END = "epoch {}", "end"


@dataclass(frozen=True)
class Outcome:
    """What a trial has come to.

    Attributes:
        best: all metrics of its best epoch, and that `epoch`; empty before the first.
        checkpoint: of that epoch; empty before the first.
        seconds: the time it had a worker.
        message: why it failed; empty if it didn't.
    """

    best: Mapping[str, float]
    checkpoint: str
    seconds: float
    message: str


@dataclass(frozen=True)
class Epoch:
    """An epoch of a trial: its number, all its metrics, and its checkpoint.

    `seconds` is the time the trial has had a worker by its end.
    """

    number: int
    metrics: Mapping[str, float]
    seconds: float
    checkpoint: str

    def attribute(self) -> tuple[str, dict[str, Any]]:
        """Return the name and the value of what the study keeps of the epoch."""
        facts = {"metrics": self.metrics, "seconds": self.seconds, "checkpoint": self.checkpoint}
        return _EPOCH.format(self.number), facts


def note_epoch(trial: optuna.Trial, epoch: Epoch, value: float) -> None:
    """Write an epoch into the study; its value last, which makes it count, unless it is NaN."""
    trial.set_user_attr(*epoch.attribute())
    if not math.isnan(value):
        trial.report(value, epoch.number)


def note_failure(trial: optuna.Trial, message: str, seconds: float) -> None:
    """Write into the study why a trial failed, and how long it had a worker."""
    trial.set_user_attr(_END, failure(message, seconds)[_END])


def failure(message: str, seconds: float) -> dict[str, Any]:
    """Return what `note_failure` writes, by name."""
    return {_END: {"message": message, "seconds": seconds}}


def epochs_of(trial: FrozenTrial) -> list[Epoch]:
    """Return a trial's epochs that count, in order."""
    noted = ((e, trial.user_attrs[_EPOCH.format(e)]) for e in sorted(trial.intermediate_values))
    return [Epoch(epoch, **facts) for epoch, facts in noted]


def outcome_of(trial: FrozenTrial) -> Outcome:
    """Return what a trial has come to, ended or not; of equal epochs the first is best."""
    epochs, end = epochs_of(trial), trial.user_attrs.get(_END, {})
    seconds = end.get("seconds", epochs[-1].seconds if epochs else 0.0)
    message = end.get("message", "")
    if not epochs:
        return Outcome({}, "", seconds, message)
    best = max(epochs, key=lambda epoch: trial.intermediate_values[epoch.number])
    metrics = {**best.metrics, "epoch": best.number}
    return Outcome(metrics, best.checkpoint, seconds, message)
