"""Events of a run, a sweep or an extraction: small plain records, each sent once.

The loop emits them, Ray carries them to the driver, the display and MLflow read them. This file
imports nothing of raymc, so that every room can use it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Started:
    """A run starts, or resumes with `first_step` steps of `first_epoch` done."""

    epochs: int
    steps_per_epoch: int
    rows: int
    parameters: int
    first_epoch: int = 1
    first_step: int = 0
    workers: int = 1


@dataclass(frozen=True)
class Stepped:
    """Optimizer steps were taken; sent at most a few times per second."""

    epoch: int
    step: int
    loss: float
    samples_per_second: float


@dataclass(frozen=True)
class EpochEnded:
    """An epoch was trained and validated.

    `metrics` holds numbers by their MLflow names: `train/loss`, `train/lr`,
    `train/samples_per_second`, `train/waiting` (the share of training time spent waiting for the
    next batch), `val/loss`, `val/mAP`, `val/R80`, …; `best_epoch` is the best epoch so far.
    """

    epoch: int
    metrics: Mapping[str, float]
    is_best: bool
    seconds: float
    is_last: bool = False
    best_epoch: int = 0


@dataclass(frozen=True)
class Saved:
    """A checkpoint was taken within an epoch.

    `epoch` epochs were finished, the best of them `best_epoch`, and `step` steps of the next.
    """

    epoch: int
    step: int
    best_epoch: int


@dataclass(frozen=True)
class Warned:
    """Something went wrong, and the run continues."""

    message: str


@dataclass(frozen=True)
class Ended:
    """A run has ended: `reason` is `finished` or `early stop`."""

    reason: str
    best_epoch: int
    best: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ExtractProgress:
    """Progress of an extraction: files done of all files, and what this process has extracted.

    `done_files` and `failed_files` include those of an interrupted job; `clips` and `seconds`, the
    length of their video, count only this process.
    """

    done_files: int
    files: int
    clips: int
    seconds: float
    failed_files: int


Event = Started | Stepped | Saved | EpochEnded | Warned | Ended
Listener = Callable[[Event], None]
Count = Callable[[int, int], None]  # takes how many rows are done, and how many there are


def unheard(*_: object) -> None:
    """Take an event, or a count, that nobody listens to."""


def tell_each(listeners: Sequence[Listener], event: Event, errors: list[Exception]) -> None:
    """Call every listener with an event, also after one of them raised; adds to `errors`."""
    for listener in listeners:
        try:
            listener(event)
        except Exception as error:
            errors.append(error)
