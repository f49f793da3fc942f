"""What a sweep's study holds of a trial: its epochs as they came, and how it ended.

Optuna itself knows one value an epoch. One attribute more an epoch, and one where a trial failed,
are all that is written besides: each is a transaction of its own, and a disk makes it wait. Pure:
no Ray, no MLflow.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

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


# Trials as a table, best first: what displays, comparisons and reports share. May import rich;
# knows neither Ray nor MLflow.


TrialState = Literal["running", "complete", "pruned", "failed", "stopped"]


@dataclass(frozen=True)
class TrialView:
    """One trial as displays and comparisons show it.

    `params` holds what the sweep chose for it, by dotted config key; `value` its best metric
    so far (larger is better; None before the first evaluation); `seconds` its wall time;
    `others` further metrics at that best epoch, by column name.
    """

    number: int
    params: Mapping[str, object]
    state: TrialState
    epoch: int
    epochs: int
    value: float | None = None
    seconds: float = 0.0
    others: Mapping[str, float] = field(default_factory=dict)


def ranked(views: Sequence[TrialView]) -> list[TrialView]:
    """Return the trials best first; then those without a value, the failed ones last."""
    return sorted(views, key=lambda view: (-_score(view), view.state == "failed", view.number))


def best_trial(views: Sequence[TrialView]) -> TrialView | None:
    """Return the trial with the best value; None where none that didn't fail has one."""
    first = next(iter(ranked(views)), None)
    return first if first is not None and math.isfinite(_score(first)) else None


def duration(seconds: float) -> str:
    """Return wall time for people: `4.2 s`, `3:07`, `1:02:09`."""
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def value_text(value: float | None) -> str:
    """Return a metric for a table cell; empty where there is none."""
    return "" if value is None or math.isnan(value) else f"{value:.4f}"


def param_text(value: object) -> str:
    """Return a param for a table cell: numbers, also as MLflow's text, to four digits."""
    if isinstance(value, bool):
        return str(value)
    try:
        return f"{float(str(value)):.4g}"
    except ValueError:
        return str(value)


def _score(view: TrialView) -> float:
    if view.state == "failed" or view.value is None or math.isnan(view.value):
        return -math.inf
    return view.value
