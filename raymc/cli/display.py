"""What a person sees while raymc works: a live view in a terminal, plain lines elsewhere.

Only the process that was started draws, from the events and trials that reach it. Workers never
write to a terminal.
"""

import math
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_args

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
)

from raymc.cli.tables import rows_table
from raymc.events import Ended, EpochEnded, Event, ExtractProgress, Started, Stepped, Warned
from raymc.search.trials import (
    Trial,
    TrialState,
    best_trial,
    duration,
    param_text,
    ranked,
    value_text,
)
from raymc.terminal import plain, print_line

_LIVE_ROWS = 10
_SECONDS_A_LINE, _SECONDS_A_TICK = 10.0, 0.5  # between lines without a terminal, and looks at them
_SECONDS_OF_FIRST = 1.0  # in which what is told is one batch, whose parts say nothing of the speed
Display = TypeVar("Display", bound="_LiveDisplay")
_EPOCH_COLUMNS = ("train/loss", "val/loss", "val/mAP", "val/R80")


class _LiveDisplay(ABC):
    """Is drawn in a terminal while the work runs; elsewhere lines are printed.

    Where nothing was printed for `_SECONDS_A_LINE`, a line says how far the work has come.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._began = self._said = clock()
        live = Live(self, console=console, transient=True, refresh_per_second=4)
        self._live = live if console.is_interactive else None
        self._is_over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="raymc-progress", daemon=True)

    def __enter__(self: Display) -> Display:
        if self._live is not None:
            self._live.start()
        else:
            self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self._live is not None:
            self._live.stop()
        else:
            self._ticker.join()

    @abstractmethod
    def __rich__(self) -> Group: ...

    @abstractmethod
    def _line(self) -> str:
        """Return how far the work has come, and the time left."""

    def _tick(self) -> None:
        while not self._is_over.wait(_SECONDS_A_TICK):
            self.say_if_due()

    def say_if_due(self) -> None:
        """Print a line where there is no terminal and the last one is old."""
        if self._live is None and self._clock() - self._said >= _SECONDS_A_LINE:
            self._print(self._line() or f"working for {duration(self._clock() - self._began)}")

    def _print(self, line: str, style: str = "") -> None:
        self._said = self._clock()
        if self._live is None:
            print_line(self._console, line)
        else:
            self._console.print(plain(line, style))


class TrainDisplay(_LiveDisplay):
    """Shows a run from its events; safe to call from any thread.

    A terminal shows a line per epoch, and below it live bars of epochs and steps with speed, loss,
    best value and time left, which disappear when the run ends. Elsewhere only lines are printed.
    """

    def __init__(
        self,
        console: Console,
        *,
        metric: str = "val/mAP",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(console, clock)
        self._metric = metric
        self._lock = threading.Lock()
        self._plan = Started(epochs=1, steps_per_epoch=1, rows=0, parameters=0)
        self._now = ""  # what is under way within an epoch
        self._best = ""
        self._loss = math.nan
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", style="cyan", markup=False),
            expand=True,
        )
        self._epochs = self._progress.add_task("epoch", total=1, note="")
        self._steps = self._progress.add_task("step", total=1, note="")

    def __rich__(self) -> Group:
        """Return the live part: two bars and a line with loss and best value."""
        parts = [f"loss {self._loss:.4g}" if math.isfinite(self._loss) else "", self._best]
        status = plain("  ".join(part for part in parts if part), no_wrap=True, overflow="ellipsis")
        return Group(self._progress, status)

    def handle(self, event: Event) -> None:
        """Show one event of the run."""
        with self._lock:
            match event:
                case Started():
                    self._started(event)
                case Stepped():
                    self._stepped(event)
                case EpochEnded():
                    self._epoch_ended(event)
                case Warned():
                    self._print(f"warning: {event.message}", style="yellow")
                case Ended():
                    self._print(_ended_line(event))

    def _started(self, event: Started) -> None:
        self._plan = event
        self._began = self._clock()
        done = event.first_epoch - 1
        self._progress.update(self._epochs, total=event.epochs, completed=done, note="")
        steps, begun = event.steps_per_epoch, event.first_step
        self._progress.update(self._steps, total=steps, completed=begun, note="")
        after = f" after step {begun:,}" if begun else ""
        start = f"resuming at epoch {event.first_epoch}{after} of" if done or begun else "training"
        shared = f", {event.workers} workers" if event.workers > 1 else ""
        rows = f"{event.rows:,} rows, {event.parameters:,} parameters{shared}"
        if event.first_epoch > event.epochs:
            self._print(f"all {event.epochs} epochs were trained before: {rows}")
        else:
            self._print(f"{start} {event.epochs} epochs of {steps:,} steps: {rows}")

    def _stepped(self, event: Stepped) -> None:
        self._loss = event.loss
        speed = f"{event.samples_per_second:,.0f} samples/s"
        self._progress.update(self._steps, completed=event.step, note=speed)
        done = event.epoch - 1.0 + event.step / max(1, self._plan.steps_per_epoch)
        left = self._time_left(done)
        self._progress.update(self._epochs, completed=event.epoch - 1, note=left)
        step = f"step {event.step:,}/{self._plan.steps_per_epoch:,}"
        parts = (f"epoch {event.epoch}/{self._plan.epochs}", step, f"loss {event.loss:.4f}", left)
        self._now = "  ".join(part for part in parts if part)

    def _epoch_ended(self, event: EpochEnded) -> None:
        if event.is_best and self._metric in event.metrics:
            value = event.metrics[self._metric]
            self._best = f"best {self._metric} {value:.4f} (epoch {event.epoch})"
        self._loss = event.metrics.get("train/loss", self._loss)
        note = self._time_left(float(event.epoch))
        self._progress.update(self._epochs, completed=event.epoch, note=note)
        line = _epoch_line(event, self._plan.epochs, self._metric)
        self._print(line, style="bold" if event.is_best else "")

    def _time_left(self, epochs_done: float) -> str:
        """Estimate from the speed since this process started or resumed the run."""
        first = self._plan.first_epoch - 1 + self._plan.first_step / self._plan.steps_per_epoch
        if epochs_done <= first:
            return ""
        speed = (self._clock() - self._began) / (epochs_done - first)
        return f"{duration(speed * (self._plan.epochs - epochs_done))} left"

    def _line(self) -> str:
        return self._now


class TrialsDisplay(_LiveDisplay):
    """Shows a sweep of `trials` trials, or what `hours` allow; safe to call from any thread.

    A terminal shows a live table of the running trials and the ten best, which disappears when the
    sweep ends. Elsewhere a line is printed whenever a trial ends.
    """

    def __init__(
        self,
        console: Console,
        trials: int,
        *,
        hours: float | None = None,
        metric: str = "val/mAP",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(console, clock)
        self._planned, self._metric = trials, metric
        self._until = math.inf if hours is None else clock() + 3600 * hours
        self._lock = threading.Lock()
        self._seen: dict[int, Trial] = {}

    @property
    def trials(self) -> list[Trial]:
        """Every trial seen, as it was last, by number."""
        with self._lock:
            return [trial for _, trial in sorted(self._seen.items())]

    @property
    def _all(self) -> int:
        """The number of trials: as planned, or more if an earlier command asked for more."""
        return max(self._planned, len(self._seen))

    def update(self, trial: Trial) -> None:
        """Take a trial that changed; a terminal shows it within a quarter second."""
        with self._lock:
            before = self._seen.get(trial.number)
            self._seen[trial.number] = trial
        ended = trial.is_over and not (before and before.is_over)
        if ended and self._live is None:
            self._print(self._line_of(trial))

    def __rich__(self) -> Group:
        """Return the live part: counts, best so far and time left, above the trials."""
        trials = self.trials
        running = [trial for trial in trials if trial.state == "running"]
        ended = ranked([trial for trial in trials if trial.is_over])
        shown = [*running[:_LIVE_ROWS], *ended[:_LIVE_ROWS]]
        table = rows_table(shown, trials, self._metric, joined=True)
        table.expand = True
        params = table.columns[-1]
        params.ratio, params.no_wrap, params.overflow = 1, True, "ellipsis"
        lines = (self._counts(trials), self._outlook(trials))
        return Group(*(plain(line, no_wrap=True, overflow="ellipsis") for line in lines), table)

    def _counts(self, trials: Sequence[Trial]) -> str:
        counts = Counter(trial.state for trial in trials)
        shown = [f"{counts[state]} {state}" for state in get_args(TrialState) if counts[state]]
        return f"{self._all} trials: " + (", ".join(shown) or "none started")

    def _outlook(self, trials: Sequence[Trial]) -> str:
        """Return the best value so far and the time left, if all trials take the mean time."""
        ended = [trial.seconds for trial in trials if trial.is_over]
        running = [trial.seconds for trial in trials if trial.state == "running"]
        if not ended or not running:
            return _best_so_far(trials)
        mean = sum(ended) / len(ended)
        begun = mean * len(running) - sum(min(seconds, mean) for seconds in running)
        due = mean * (self._all - len(ended) - len(running))
        most = len(running) * max(0.0, self._until - self._clock())
        left = f"about {duration((begun + min(due, most)) / len(running))} left"
        return "  ".join(part for part in (_best_so_far(trials), left) if part)

    def _line(self) -> str:
        trials = self.trials
        return "  ".join(part for part in (self._counts(trials), self._outlook(trials)) if part)

    def _line_of(self, trial: Trial) -> str:
        trials = self.trials
        ended = sum(other.is_over for other in trials)
        chosen = (
            f"{key.rpartition('.')[2]}={param_text(item)}" for key, item in trial.params.items()
        )
        parts = [
            f"{ended}/{self._all} ended: trial {trial.number} {trial.state}",
            f"{self._metric} {value_text(trial.value) or 'none'}",
            f"epoch {trial.epoch}/{trial.planned}",
            duration(trial.seconds),
            *chosen,
            _best_so_far(trials),
        ]
        return "  ".join(part for part in parts if part)


def _best_so_far(trials: Sequence[Trial]) -> str:
    best = best_trial(trials)
    return "" if best is None else f"best {value_text(best.value)} (trial {best.number})"


def _epoch_line(event: EpochEnded, epochs: int, metric: str) -> str:
    parts = [f"epoch {event.epoch:>{len(str(epochs))}}/{epochs}"]
    for name in dict.fromkeys((*_EPOCH_COLUMNS, metric)):
        if name in event.metrics:
            best = " (best)" if name == metric and event.is_best else ""
            parts.append(f"{name} {event.metrics[name]:.4f}{best}")
    speed = event.metrics.get("train/samples_per_second")
    if speed is not None:
        parts.append(f"{speed:,.0f} samples/s")
    return "  ".join([*parts, duration(event.seconds)])


def _ended_line(event: Ended) -> str:
    best = [f"{name} {event.best[name]:.4f}" for name in _EPOCH_COLUMNS if name in event.best]
    return "  ".join([f"{event.reason}, best was epoch {event.best_epoch}", *best])


class CountDisplay(_LiveDisplay):
    """Shows work that is counted: a bar in a terminal, a line every 10 s elsewhere."""

    def __init__(
        self, console: Console, unit: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(console, clock)
        self._unit = unit
        self._first: tuple[int, float] | None = None  # done at first, and the time of it
        self._done, self._all, self._notes = 0, 0, ""
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", style="cyan", markup=False),
            expand=True,
        )
        self._task = self._progress.add_task(unit, total=None, note="")

    def __rich__(self) -> Group:
        """Return the bar."""
        return Group(self._progress)

    def count(self, done: int, total: int) -> None:
        """Show that so much is done."""
        self._count(done, total, ())

    def _count(self, done: int, total: int, notes: Sequence[str]) -> None:
        now = self._clock()
        then = self._first[1] if self._first else now
        if now - then < _SECONDS_OF_FIRST or self._first is None:
            self._first = done, then
        self._done, self._all = done, total
        self._notes = "  ".join([*notes, *self._time_left(now)])
        shown: dict[str, Any] = {"description": self._unit, "note": self._notes}
        self._progress.update(self._task, total=total, completed=done, **shown)
        self.say_if_due()

    def _line(self) -> str:
        counted = f"{self._done:,}/{self._all:,} {self._unit}"
        if self._first is None:  # nothing is done yet
            counted += f" after {duration(self._clock() - self._began)}"
        return f"{counted}  {self._notes}".rstrip() if self._all else ""

    def begin(self, done: int, total: int) -> None:
        """Show what is to be done, before any of it is; what was done earlier counts as done."""
        self._done, self._all = done, total
        self._progress.update(self._task, total=total, completed=done, description=self._unit)

    def _time_left(self, now: float) -> list[str]:
        """Estimate from the speed since the first calls; before, processes were starting."""
        assert self._first is not None
        done, then = self._first
        if self._done in (done, self._all):
            return []
        return [f"{duration((self._all - self._done) * (now - then) / (self._done - done))} left"]


class ExtractDisplay(CountDisplay):
    """Shows the progress through media files, with speed and failures, or through rows."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, "files", clock=clock)

    def rows(self, done: int, total: int) -> None:
        """Show that so many rows of a dataset are done."""
        self._unit = "rows"
        self.count(done, total)

    def handle(self, event: ExtractProgress) -> None:
        """Show the progress of the job; the last line always."""
        if not event.clips and not event.failed_files and event.done_files < event.files:
            self.begin(event.done_files, event.files)
            return
        seconds = max(self._clock() - self._began, 1e-9)
        notes = [f"{event.clips / seconds:,.1f} clips/s"]
        notes += [f"{event.seconds / seconds:,.1f} h of video/h"]
        notes += [f"{event.failed_files:,} failed"] if event.failed_files else []
        if event.done_files == event.files:
            self._said = -math.inf
        self._count(event.done_files, event.files, notes)


class StagesDisplay(CountDisplay):
    """Shows things that are done one after the other, each counted in its unit."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, "", clock=clock)

    def show(self, unit: str, done: int, total: int) -> None:
        """Show that so much is done."""
        if unit != self._unit:
            self._unit, self._first = unit, None
        if done:
            self.count(done, total)
        else:
            self.begin(done, total)
