"""The audit of a run: which rows its last checkpoint was trained on, and what restarts cost.

Checkpoints record the rows that were used (`row_log.py`); steps lost in a crash are in none, so
the driver notes each attempt in the run's folder.
"""

import itertools
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pyarrow import fs
from rich.table import Table

from raymc.data.storage import open_address, reaching, write_text
from raymc.errors import CheckpointError
from raymc.events import EpochEnded, Event, Saved, Started, Stepped
from raymc.terminal import plain
from raymc.training import checkpoint
from raymc.training.checkpoint import Found
from raymc.training.row_log import EpochAudit, RowLog, audit
from raymc.training.runs import ATTEMPTS_FILE, Run, dataset_of

SECONDS_BETWEEN_WRITES = 1.0


@dataclass(frozen=True)
class Attempt:
    """One start of a run. Steps count from the start of the run, times are seconds since 1970.

    Attributes:
        workers: Number that shared the batches.
        steps_per_epoch: Optimizer steps of an epoch.
        first_step: Steps done before this attempt.
        last_step: Last step that the driver heard of; a few more may have been done.
        started: When the workers were ready.
        went_on: When the driver heard of the first new step; 0: never.
        heard: When the driver last heard of the workers.
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
    """The cost of a start after the first one.

    Attributes:
        repeated_steps: Steps, at least, done again because no checkpoint held them.
        seconds: From the last event of the attempt before to the first new step.
    """

    repeated_steps: int
    seconds: float


def restarts(attempts: Sequence[Attempt]) -> list[Restart]:
    """Return the cost of each start but the first."""
    return [
        Restart(
            repeated_steps=max(0, before.last_step - after.first_step),
            seconds=max(0.0, (after.went_on or after.heard) - before.heard),
        )
        for before, after in itertools.pairwise(attempts)
    ]


def load_attempts(folder: Path) -> list[Attempt]:
    """Return the attempts noted in a run's folder; none if there are no readable notes."""
    try:
        return [Attempt(**values) for values in json.loads((folder / ATTEMPTS_FILE).read_text())]
    except (OSError, ValueError, TypeError):
        return []


class AttemptRecorder:
    """Notes a run's attempts in its folder, from the run's events.

    Args:
        folder: The run's.
        clock: Returns seconds since 1970.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        self._attempts, self._written = load_attempts(folder), 0.0

    def __call__(self, event: Event) -> None:
        """Note an event if it shows progress."""
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
        notes = json.dumps([asdict(attempt) for attempt in self._attempts], indent=1)
        with suppress(OSError):  # a full disk must not end the training; the next event retries
            write_text(self._folder / ATTEMPTS_FILE, notes)
            self._written = now


@dataclass(frozen=True)
class RunAudit:
    """How the rows of a run were used.

    Attributes:
        name: The run's, or the trial's number.
        checkpoint: The checkpoint whose record was read.
        rows: Rows of the training split.
        epochs: In order; the last one may be unfinished.
        restarts: The cost of each start but the first.
    """

    name: str
    checkpoint: str
    rows: int
    epochs: Sequence[EpochAudit]
    restarts: Sequence[Restart]

    @property
    def is_right(self) -> bool:
        """Whether every epoch used every row once."""
        return all(epoch.is_right for epoch in self.epochs)


def audit_run(run: Run) -> RunAudit:
    """Read which rows the last intact checkpoint of a run was trained on.

    Raises:
        CheckpointError: It has no intact checkpoint.
        ConfigError: Its dataset was replaced.
        DataError: Its dataset or its checkpoints can't be reached.
    """
    rows = dataset_of(run).manifest.rows(run.config.data.train)
    last, log = _last_record(run.storage)
    progress = last.progress
    is_part = progress.part.steps > 0
    return RunAudit(
        name=run.name,
        checkpoint=last.path,
        rows=rows,
        epochs=audit(log, rows=rows, epochs=progress.epoch, is_part=is_part),
        restarts=restarts(load_attempts(run.folder)),
    )


def _last_record(address: str) -> tuple[Found, RowLog]:
    filesystem, path = open_address(address)
    found, _ = checkpoint.find(filesystem, path)
    for one in found:
        try:
            return one, record_of(filesystem, one.path)
        except CheckpointError:
            continue
    raise CheckpointError(f"nothing to audit: {address} has no intact checkpoint")


def record_of(filesystem: fs.FileSystem, path: str) -> RowLog:
    """Return which rows a checkpoint was trained on; checks all its files first.

    Raises:
        CheckpointError: One of its files is damaged.
        DataError: The checkpoint can't be reached.
    """
    with TemporaryDirectory(prefix="raymc-") as folder:
        local = Path(path)
        if not isinstance(filesystem, fs.LocalFileSystem):
            local = Path(folder)
            with reaching(path):
                fs.copy_files(path, folder, source_filesystem=filesystem)
        checkpoint.verify(local)
        return RowLog.from_json(checkpoint.load_rows(local))


def audit_table(found: RunAudit) -> Table:
    """Return a table with a row for each epoch."""
    title = plain(f"run {found.name}: {found.rows:,} rows an epoch")
    table = Table(title=title, title_justify="left")
    for column in ("epoch", "steps", "seen once", "lost", "repeated", "workers", "attempts", ""):
        table.add_column(column, justify="left" if column == "workers" else "right")
    for epoch in found.epochs:
        numbers = (epoch.epoch, epoch.steps, epoch.once, epoch.lost, epoch.repeated)
        note = "" if epoch.is_over else "unfinished"
        workers = "→".join(str(number) for number in epoch.workers)
        cells = [f"{number:,}" for number in numbers]
        style = "" if epoch.is_right else "red"
        table.add_row(*cells, workers, str(epoch.attempts), note, style=style)
    return table


def restarts_line(found: RunAudit) -> str:
    """Return what restarts cost as a sentence; empty if there was none."""
    if not found.restarts:
        return ""
    steps = sum(restart.repeated_steps for restart in found.restarts)
    longest = max(restart.seconds for restart in found.restarts)
    times = "once" if len(found.restarts) == 1 else f"{len(found.restarts)} times"
    return (
        f"resumed {times} from a checkpoint: about {steps:,} steps were repeated, and the longest "
        f"pause took {longest:,.0f} s"
    )
