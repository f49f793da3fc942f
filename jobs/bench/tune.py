"""Trials an hour of `raymc tune` beside Optuna alone and Ray's documented pattern.

Top layer. Every way runs the same trials, each way in a process of its own, in turns; so do
sweeps with and without early stopping, and trials that share a GPU. No timing is asserted.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from jobs.bench.measure import publish
from jobs.bench.tune_parts.effects import growth_text, packed_text, run_growth, stopping_text
from jobs.bench.tune_parts.runs import Run, apart, run_of, run_stopping
from jobs.bench.tune_parts.ways import WAYS, Task
from raymc.cli.demo import SETTINGS as DEMO
from raymc.config import Config, from_dict, override
from raymc.errors import ConfigError
from raymc.formats.prepare import prepare_dataset
from raymc.search.study import distributions
from raymc.tracking.notes import markdown_table

PARTS = ("ways", "stopping", "growth", "packed")
BRIEF: Mapping[str, Any] = {
    "trials": 6,
    "clips": 300,
    "rounds": 1,
    "at_a_time": (2,),
    "documented_trials": 3,
    "parts": ("ways", "stopping", "growth"),
}
DOCUMENTED = "documented"
# The demo's model, and a space in which some trials are plainly bad.
SETTINGS: Mapping[str, Any] = {
    "batch": DEMO["batch"],
    "model": DEMO["model"],
    "search": {
        "try_default": False,
        "grace_epochs": 1,
        "space": {
            "loss.margin": {"low": 0.0, "high": 0.3},
            "loss.temperature": {"low": 0.05, "high": 0.5, "log": True},
            "optimizer.lr": {"low": 1e-4, "high": 3e-2, "log": True},
        },
    },
}


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """What is run, and how often."""

    trials: int = Field(default=16, ge=2, description="Trials of each way.")
    epochs: int = Field(default=6, ge=1, description="Epochs of each trial.")
    clips: int = Field(default=1200, ge=8, description="Clips of digits to train on.")
    rounds: int = Field(default=5, ge=1, description="How often each way is timed.")
    at_a_time: tuple[int, ...] = Field(default=(1, 2), description="Trials at a time.")
    ways: tuple[str, ...] = Field(default=tuple(WAYS), description="Of running trials.")
    documented_trials: int = Field(
        default=4, ge=1, description="Trials of Ray's documented pattern, each half a minute."
    )
    parts: tuple[str, ...] = Field(default=PARTS, description="Of the benchmark.")
    packed: int = Field(default=8, ge=2, description="Trials that share a GPU.")
    device: str = Field(default="cpu", description="Where packed trials compute: cpu or cuda.")

    def trials_of(self, way: str) -> int:
        """Return how many trials a way runs."""
        return min(self.trials, self.documented_trials) if way == DOCUMENTED else self.trials


def bench_tune(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Compare ways of running trials, with and without early stopping; see how costs grow.

    Raises:
        ConfigError: there is no such way or part, or too few trials to tell a rate from.
    """
    _check(settings.ways, list(WAYS), "way")
    _check(settings.parts, list(PARTS), "part")
    fewest = min(map(settings.trials_of, settings.ways))
    if "ways" in settings.parts and fewest <= max(settings.at_a_time):
        raise ConfigError(
            f"--at-a-time {max(settings.at_a_time)}: expected less than the {fewest} trials of a "
            "way, as the first of each process don't count"
        )
    with TemporaryDirectory(prefix="raymc-tune-") as folder:
        bench = Bench(settings, Path(folder), console)
        texts, figures = [], list[dict[str, Any]]()
        for part in settings.parts:
            text, found = getattr(bench, part)()
            texts.append(text)
            figures += found
    publish("Tune", "\n".join(texts), [], console, out, figures=figures)


class Bench:
    """The benchmark's parts; each returns its text, and its numbers as plain JSON values."""

    def __init__(self, settings: Settings, folder: Path, console: Console) -> None:
        self.settings, self.folder, self.console = settings, folder, console
        self._prepared: set[str] = set()

    def ways(self) -> tuple[str, list[dict[str, Any]]]:
        """Compare ways of running the same trials to their end."""
        settings, runs = self.settings, list[Run]()
        for number in range(settings.rounds):
            for at_a_time in settings.at_a_time:
                runs += [self._way(way, at_a_time, number) for way in self._ways_at(at_a_time)]
        return ways_text(settings, runs), [run.numbers() for run in runs]

    def stopping(self) -> tuple[str, list[dict[str, Any]]]:
        """Compare a sweep that stops weak trials early with one that doesn't."""
        courses = []
        for number in range(self.settings.rounds):
            for scheduler in ("none", "asha"):
                given = {"search.scheduler": scheduler}
                task = self.task(f"{scheduler}-{number}", max(self.settings.at_a_time), **given)
                with self.console.status(f"scheduler {scheduler}, round {number + 1}"):
                    courses.append(apart(run_stopping, task))
        return stopping_text(courses), [course.numbers() for course in courses]

    def growth(self) -> tuple[str, list[dict[str, Any]]]:
        """See what a trial costs the driver in a sweep of as many trials, and of four times."""
        given = {"trials": 4 * self.settings.trials, "epochs": 1, "clips": 64}
        small = Settings(**{**vars(self.settings), **given})
        bench = Bench(small, self.folder, self.console)
        with self.console.status(f"{small.trials} trials of one small epoch"):
            marks = apart(run_growth, bench.task("growth", max(small.at_a_time)))
        return growth_text(marks, self.settings.trials), [vars(mark) for mark in marks]

    def packed(self) -> tuple[str, list[dict[str, Any]]]:
        """Compare trials that share a GPU with one trial at a time."""
        runs, many = list[Run](), self.settings.packed
        for number in range(self.settings.rounds):
            for at_a_time in (many, 1):
                task = self.task(
                    f"packed-{at_a_time}-{number}", at_a_time, **self._share(at_a_time)
                )
                with self.console.status(f"{at_a_time} trials on one device"):
                    runs.append(run_of("packed", task, number))
        return packed_text(runs, self.settings.device), [run.numbers() for run in runs]

    def task(self, name: str, at_a_time: int, **given: Any) -> Task:
        """Return the trials as a task of that name, its dataset written if it isn't there yet."""
        settings = self.settings
        config = override(
            from_dict(SETTINGS),
            {
                "data.path": str(self.folder / f"digits-{settings.clips}"),
                "data.make.train_clips": settings.clips,
                "data.make.val_clips": max(8, settings.clips // 4),
                "data.make.test_clips": 8,
                "train.epochs": settings.epochs,
                "train.device": "cpu",
                "search.trials": settings.trials,
                "search.concurrent": at_a_time,
                "search.scheduler": "none",
                "run.name": name,
                "run.folder": str(self.folder / "runs"),
                **given,
            },
        )
        if config.data.path not in self._prepared:
            prepare_dataset(config)
            self._prepared.add(config.data.path)
        return Task(config, trials_of(config, settings.trials), at_a_time)

    def _ways_at(self, at_a_time: int) -> list[str]:
        """Return the ways that are run at this many trials at a time: Ray's only at the most."""
        most = at_a_time == max(self.settings.at_a_time)
        return [way for way in self.settings.ways if most or way != DOCUMENTED]

    def _way(self, way: str, at_a_time: int, number: int) -> Run:
        task = self.task(f"{way}-{at_a_time}-{number}", at_a_time)
        task = Task(task.config, task.trials[: self.settings.trials_of(way)], at_a_time)
        with self.console.status(f"{way}, {at_a_time} at a time, round {number + 1}"):
            return run_of(way, task, number)

    def _share(self, at_a_time: int) -> dict[str, Any]:
        if self.settings.device == "cpu":
            return {"search.cpus_per_trial": 1 / at_a_time}
        return {"train.device": "gpu", "search.gpus_per_trial": 1 / at_a_time}


def trials_of(config: Config, count: int) -> tuple[Mapping[str, Any], ...]:
    """Return the settings of as many trials, drawn from the space; the same for all ways."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return tuple(study.ask(distributions(config)).params for _ in range(count))


def ways_text(settings: Settings, runs: Sequence[Run]) -> str:
    """Return the table of the ways, and what it says."""
    kinds = sorted({(run.at_a_time, run.way) for run in runs})
    header = ["at a time", "way", "trials", "trials an hour", "spread", "÷ Optuna", "÷ documented"]
    header += ["s a trial beyond the bare loop", "first trials, s", "before them, s", "after, s"]
    rows = [_row([run for run in runs if (run.at_a_time, run.way) == kind], runs) for kind in kinds]
    same = all(math.isclose(a, b, rel_tol=1e-6) for a, b in _pairs_of_values(runs))
    values = "All ways reached the same value in every trial."
    return (
        f"Trials of {settings.epochs} epochs of {settings.clips:,} clips of `digits`, one thread "
        f"each; {settings.rounds} rounds in turns, medians. Trials an hour are those after the "
        "first of each process, whose start is told apart, as are the start and end of the whole "
        "command (for raymc with Ray's start, MLflow, the bundle and the report; the others "
        "import more here than they would need). Optuna alone trains in a bare loop over rows in "
        "memory: by itself one at a time, else in processes that share a journal. Ray's "
        "documented pattern is a `TorchTrainer` in every trial, with the same loop.\n\n"
        f"{markdown_table(header, rows)}\n{values if same else 'The values of trials differ!'}\n"
    )


def _row(runs: Sequence[Run], others: Sequence[Run]) -> list[str]:
    hours = [run.trials_an_hour for run in runs]
    optuna_ratio, ray_ratio = (_ratio(runs, others, way) for way in ("optuna", DOCUMENTED))
    bare = {(run.at_a_time, run.round): run for run in others if run.way == "optuna"}
    beyond = [
        run.slot_seconds - bare[key].later_seconds
        for run in runs
        if (key := (run.at_a_time, run.round)) in bare
    ]
    edges = [[r.first_seconds for r in runs], [r.before for r in runs], [r.after for r in runs]]
    return [
        str(runs[0].at_a_time),
        runs[0].way,
        str(len(runs[0].spans)),
        f"{statistics.median(hours):,.0f}",
        f"{min(hours):,.0f} to {max(hours):,.0f}",
        optuna_ratio,
        ray_ratio,
        f"{statistics.median(beyond):.2f}" if beyond else "",
        *(f"{statistics.median(seconds):.1f}" for seconds in edges),
    ]


def _ratio(runs: Sequence[Run], others: Sequence[Run], way: str) -> str:
    """Return the median ratio of trials an hour to another way's in the same round."""
    there = {(run.at_a_time, run.round): run for run in others if run.way == way}
    ratios = [
        run.trials_an_hour / there[key].trials_an_hour
        for run in runs
        if (key := (run.at_a_time, run.round)) in there
    ]
    return f"{statistics.median(ratios):.2f}" if ratios else ""


def _pairs_of_values(runs: Sequence[Run]) -> list[tuple[float, float]]:
    """Return each trial's value in each run beside that of the first run that has it."""
    known: dict[tuple[tuple[str, Any], ...], float] = {}
    return [
        (known.setdefault(tuple(sorted(span.params.items())), span.best), span.best)
        for run in runs
        for span in run.spans
    ]


def _check(given: Sequence[str], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"--{what} {name}: expected one of {', '.join(known)}")
