"""One record of a trial, for the study, the sweep, MLflow, the display and the report.

`trials_of` reads it from a study; `raymc.tracking.sweeps` reads it from MLflow. A study keeps of
each epoch its value, which Optuna knows, and one attribute with the rest; of a failed trial it
keeps one more. Each of these is a transaction, which costs a write to the disk, so nothing else
is stored.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from raymc.config import Config
from raymc.errors import SweepError

if TYPE_CHECKING:  # a table of trials should not have to wait for Optuna
    import optuna
    from optuna.trial import FrozenTrial

TrialState = Literal["waiting", "running", "complete", "pruned", "failed"]
STATES: Mapping[str, TrialState] = {  # by Optuna's names
    "WAITING": "waiting",
    "RUNNING": "running",
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
}
_EPOCH, _END = "epoch {}", "end"


@dataclass(frozen=True)
class Epoch:
    """An epoch of a trial, counted from 1; `value` is the monitored one of its metrics.

    `seconds` is how long the trial had had a worker at the end of this epoch.
    """

    number: int
    value: float
    metrics: Mapping[str, float]
    seconds: float
    checkpoint: str

    def attribute(self) -> tuple[str, dict[str, Any]]:
        """Return the name and the content of the attribute that the study keeps."""
        facts = {"metrics": self.metrics, "seconds": self.seconds, "checkpoint": self.checkpoint}
        return _EPOCH.format(self.number), facts


@dataclass(frozen=True)
class Trial:
    """A trial of a sweep.

    Attributes:
        number: In the study, from 0.
        params: What the sweep chose, by dotted config key.
        state: Where it stands.
        planned: How many epochs it is to run; 0 if unknown.
        epoch: The last epoch that ended; 0 before the first.
        epochs: Those that ended, in order; empty where MLflow's summary of the trial was read.
        value: The monitored metric at the best epoch (larger is better); None before the first.
        best: All metrics of the best epoch, and `epoch`; empty before the first.
        checkpoint: Of the best epoch; empty before the first.
        seconds: How long it has had a worker.
        message: Why it failed; empty if it didn't.
    """

    number: int
    params: Mapping[str, object]
    state: TrialState = "running"
    planned: int = 0
    epoch: int = 0
    epochs: Sequence[Epoch] = ()
    value: float | None = None
    best: Mapping[str, float] = field(default_factory=dict)
    checkpoint: str = ""
    seconds: float = 0.0
    message: str = ""

    @property
    def is_over(self) -> bool:
        """Whether the trial has ended, well or not."""
        return self.state in ("complete", "pruned", "failed")

    @property
    def score(self) -> float:
        """What ranks the trial: its value; NaN if it failed or has none."""
        return math.nan if self.value is None or self.state == "failed" else self.value

    @property
    def recall(self) -> float | None:
        """R80, which is shown beside the value; None where it isn't known."""
        return self.best.get("val/R80")

    def after(self, epoch: Epoch) -> "Trial":
        """Return the trial with one more epoch; of equal epochs the first stays the best."""
        epochs = (*self.epochs, epoch)
        trial = replace(self, epoch=epoch.number, epochs=epochs, seconds=epoch.seconds)
        if not epoch.value > (-math.inf if self.value is None else self.value):
            return trial
        best = {**epoch.metrics, "epoch": float(epoch.number)}
        return replace(trial, value=epoch.value, best=best, checkpoint=epoch.checkpoint)


def note_epoch(trial: "optuna.Trial", epoch: Epoch) -> None:
    """Write an epoch into the study.

    Its value comes last, because the value makes the epoch count. Optuna can't store NaN, so an
    epoch without a number never counts.
    """
    trial.set_user_attr(*epoch.attribute())
    if not math.isnan(epoch.value):
        trial.report(epoch.value, epoch.number)


def note_failure(trial: "optuna.Trial", message: str, seconds: float) -> None:
    """Write into the study why a trial failed, and how long it had a worker."""
    trial.set_user_attr(_END, failure(message, seconds)[_END])


def failure(message: str, seconds: float) -> dict[str, Any]:
    """Return the attributes that `note_failure` writes, by name."""
    return {_END: {"message": message, "seconds": seconds}}


def new_trial(number: int, params: Mapping[str, object], config: Config) -> Trial:
    """Return a trial that begins with these params, in a sweep of this configuration."""
    planned = params.get("train.epochs", config.train.epochs)
    return Trial(number, dict(params), planned=int(str(planned)))


def trials_of(study: "Iterable[FrozenTrial]", config: Config) -> list[Trial]:
    """Return a study's trials, in the order of their numbers."""
    return [trial_of(trial, config) for trial in study]


def trial_of(found: "FrozenTrial", config: Config) -> Trial:
    """Return what a study knows of a trial."""
    trial = new_trial(found.number, found.params, config)
    for number, value in sorted(found.intermediate_values.items()):
        trial = trial.after(Epoch(number, value, **found.user_attrs[_EPOCH.format(number)]))
    end = found.user_attrs.get(_END, {})
    return replace(trial, state=STATES[found.state.name], **end)


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials best first; then those without a value, the failed ones last."""
    return sorted(
        trials,
        key=lambda trial: (
            math.inf if math.isnan(trial.score) else -trial.score,
            trial.state == "failed",
            trial.number,
        ),
    )


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial with the best value; None if no trial has one, failed ones left out."""
    first = next(iter(ranked(trials)), None)
    return None if first is None or math.isnan(first.score) else first


def winner(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the best epoch, stopped early or not.

    Raises:
        SweepError: No trial finished an epoch; the message quotes the first error.
    """
    best = best_trial(trials)
    if best is None:
        messages = (trial.message for trial in trials if trial.message)
        first = next(messages, "no trial was started")
        raise SweepError(f"all {len(trials)} trials of the sweep failed; the first: {first}")
    return best


def duration(seconds: float) -> str:
    """Return a time as people write it: `4.2 s`, `3:07`, `1:02:09`."""
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def value_text(value: float | None) -> str:
    """Return a metric for a table cell; empty if there is none."""
    return "" if value is None or math.isnan(value) else f"{value:.4f}"


def param_text(value: object) -> str:
    """Return a param for a table cell: numbers, also as MLflow's text, to four digits."""
    if isinstance(value, bool):
        return str(value)
    try:
        return f"{float(str(value)):.4g}"
    except ValueError:
        return str(value)
