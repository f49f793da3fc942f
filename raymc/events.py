"""What a run tells the world while it works: small, plain records, each sent once.

The loop emits them, Ray carries them, displays and MLflow read them. Pure: imports nothing
of raymc, so that every layer may speak it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Started:
    """A run begins, or goes on from a checkpoint: `first_step` steps of `first_epoch` are done."""

    epochs: int
    steps_per_epoch: int
    rows: int
    parameters: int
    first_epoch: int = 1
    first_step: int = 0
    workers: int = 1


@dataclass(frozen=True)
class Stepped:
    """Some optimizer steps were taken; sent a few times a second at most."""

    epoch: int
    step: int
    loss: float
    samples_per_second: float


@dataclass(frozen=True)
class EpochEnded:
    """One epoch is trained and evaluated.

    `metrics` holds finished numbers by their MLflow names: `train/loss`, `train/lr`,
    `train/samples_per_second`, `train/waiting` (the share of an epoch's training in which the
    next batch wasn't there yet), `val/loss`, `val/mAP`, `val/R80`, …; `best_epoch` is the best
    epoch so far.
    """

    epoch: int
    metrics: Mapping[str, float]
    is_best: bool
    seconds: float
    is_last: bool = False
    best_epoch: int = 0


@dataclass(frozen=True)
class Saved:
    """A checkpoint is taken within an epoch.

    `epoch` epochs had ended, the best of them `best_epoch`, and `step` steps of the next one.
    """

    epoch: int
    step: int
    best_epoch: int


@dataclass(frozen=True)
class Warned:
    """Something went wrong that the run could help itself with."""

    message: str


@dataclass(frozen=True)
class Ended:
    """A run is over: `reason` is `finished` or `early stop`."""

    reason: str
    best_epoch: int
    best: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ExtractProgress:
    """How far an extraction is: files of all there are, and what this process got out of them.

    `done_files` and `failed_files` count those of an interrupted job too; `clips` and `seconds`,
    the length of their video, are what this process went through.
    """

    done_files: int
    files: int
    clips: int
    seconds: float
    failed_files: int


Event = Started | Stepped | Saved | EpochEnded | Warned | Ended
