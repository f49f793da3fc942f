"""A run's starts, as its driver heard of them: from where, how far, and what was done twice.

The checkpoints know nothing of steps that were lost with a crash; the driver heard of them. Pure:
no Ray, no MLflow.
"""

import itertools
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from raymc.events import EpochEnded, Event, Saved, Started, Stepped
from raymc.runs import write_whole

ATTEMPTS_FILE = "attempts.json"
SECONDS_BETWEEN_WRITES = 1.0


@dataclass(frozen=True)
class Attempt:
    """One start of a run.

    Attributes:
        workers: that shared the batches.
        steps_per_epoch: optimizer steps of an epoch.
        first_step: steps of the whole run that were done before.
        last_step: of the whole run that the driver heard of; a few may have been done after it.
        started: when the workers were ready, in seconds since 1970.
        went_on: when the first news of a step came; 0: none did.
        heard: when the last news came.
    """

    workers: int
    steps_per_epoch: int
    first_step: int
    last_step: int
    started: float
    went_on: float = 0.0
    heard: float = 0.0


@dataclass(frozen=True)
class Restart:
    """What a start after the first one cost.

    Attributes:
        repeated_steps: done again, because no checkpoint held them; at least so many.
        seconds: from the last news of the attempt before to the first of a new step.
    """

    repeated_steps: int
    seconds: float


def restarts(attempts: Sequence[Attempt]) -> list[Restart]:
    """Return what each start but the first cost."""
    return [
        Restart(
            repeated_steps=max(0, before.last_step - after.first_step),
            seconds=max(0.0, (after.went_on or after.heard) - before.heard),
        )
        for before, after in itertools.pairwise(attempts)
    ]


def load_attempts(folder: Path) -> list[Attempt]:
    """Return the attempts noted in a run's folder; none if there is no such note."""
    try:
        return [Attempt(**values) for values in json.loads((folder / ATTEMPTS_FILE).read_text())]
    except (OSError, ValueError, TypeError):
        return []


class AttemptRecorder:
    """Notes a run's attempts in its folder as the events come in.

    Args:
        folder: the run's.
        clock: seconds since 1970.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        self._attempts, self._written = load_attempts(folder), 0.0

    def __call__(self, event: Event) -> None:
        """Note an event, if it tells how far the run is."""
        now = self._clock()
        if isinstance(event, Started):
            first = (event.first_epoch - 1) * event.steps_per_epoch + event.first_step
            attempt = Attempt(
                event.workers, event.steps_per_epoch, first, first, started=now, heard=now
            )
            self._attempts.append(attempt)
            self._write(now)
        elif self._attempts and isinstance(event, Stepped | Saved | EpochEnded):
            self._move(event, now)

    def _move(self, event: Stepped | Saved | EpochEnded, now: float) -> None:
        last = self._attempts[-1]
        epochs = event.epoch - 1 if isinstance(event, Stepped) else event.epoch
        steps = 0 if isinstance(event, EpochEnded) else event.step
        done = max(last.last_step, epochs * last.steps_per_epoch + steps)
        went_on = last.went_on or (now if done > last.first_step else 0.0)
        self._attempts[-1] = replace(last, last_step=done, went_on=went_on, heard=now)
        if now - self._written >= SECONDS_BETWEEN_WRITES or not isinstance(event, Stepped):
            self._write(now)

    def _write(self, now: float) -> None:
        told = json.dumps([asdict(attempt) for attempt in self._attempts], indent=1)
        with suppress(OSError):  # a full disk must not end the training; the next event tries again
            write_whole(self._folder / ATTEMPTS_FILE, told)
            self._written = now
