"""Trials that were run, as the benchmark of tuning sees them. Top layer."""

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TypeVar

import ray

from jobs.bench.tune_parts.ways import WAYS, Span, Task, run_raymc
from raymc.search.study import open_study
from raymc.search.trials import trial_of
from raymc.training.runs import open_run

Result = TypeVar("Result")


@dataclass(frozen=True)
class Run:
    """A way's trials in one round, and when its process began and ended, in seconds."""

    way: str
    at_a_time: int
    round: int
    began: float
    ended: float
    spans: tuple[Span, ...]

    @property
    def slot_seconds(self) -> float:
        """From one trial's end to the next one's, of those that run in turn; NaN for one each."""
        ends, n = sorted(span.ended for span in self.spans), self.at_a_time
        later = len(ends) - n
        if later < 1:
            return math.nan
        return n * (statistics.mean(ends[-n:]) - statistics.mean(ends[:n])) / later

    @property
    def trials_an_hour(self) -> float:
        """Once every process has had its first trial."""
        return 3600 * self.at_a_time / self.slot_seconds

    @property
    def first_seconds(self) -> float:
        """What the first trial of each process took, on average."""
        return statistics.mean(span.ended - span.began for span in self._in_order[: self.at_a_time])

    @property
    def later_seconds(self) -> float:
        """What the other trials took, on average, from their own beginning to their end."""
        later = self._in_order[self.at_a_time :]
        return statistics.mean(s.ended - s.began for s in later) if later else math.nan

    @property
    def before(self) -> float:
        """Seconds before the first trial began."""
        return self._in_order[0].began - self.began

    @property
    def after(self) -> float:
        """Seconds after the last trial had ended."""
        return self.ended - max(span.ended for span in self.spans)

    @cached_property
    def _in_order(self) -> list[Span]:
        return sorted(self.spans, key=lambda span: span.began)

    def numbers(self) -> dict[str, Any]:
        """Return the run as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Course:
    """How a sweep's best value rose: after each epoch of any trial, by time.

    `seconds` count from the first trial's beginning; `values` are the epochs' own.
    """

    scheduler: str
    seconds: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def best(self) -> float:
        """The best value of all."""
        return max(self.values)

    def until(self, value: float) -> tuple[float, int]:
        """Return the seconds and the epochs that it took to a value."""
        at = next(i for i, found in enumerate(self.values) if found >= value)
        return self.seconds[at], at + 1

    def numbers(self) -> dict[str, Any]:
        """Return the course as plain JSON values."""
        return asdict(self)


def run_of(way: str, task: Task, number: int) -> Run:
    """Run trials in a process of their own; `packed` are raymc's, too."""
    began = time.time()
    spans = apart(WAYS.get(way, run_raymc), task)
    return Run(way, task.at_a_time, number, began, time.time(), tuple(spans))


def run_stopping(task: Task) -> Course:
    """Run a sweep; returns its course, as the study has it."""
    run_raymc(task)
    study = open_study(open_run(task.config, sweep=True))
    starts = [t.datetime_start.timestamp() for t in study.trials if t.datetime_start is not None]
    points = sorted(
        (start + epoch.seconds - min(starts), epoch.value)
        for start, trial in zip(starts, study.trials, strict=True)
        for epoch in trial_of(trial, task.config).epochs
    )
    seconds, values = zip(*points)
    return Course(task.config.search.scheduler, seconds, values)


def apart(run: Callable[[Task], Result], task: Task) -> Result:
    """Run trials in a process that starts its own Ray, and ends with it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_and_shut_down, run, task).result()


def _and_shut_down(run: Callable[[Task], Result], task: Task) -> Result:
    try:
        return run(task)
    finally:
        ray.shutdown()
