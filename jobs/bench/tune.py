"""Trials an hour of `raymc tune` beside Optuna alone and Ray's documented pattern.

Every way runs the same trials, each way in its own process, in turns. Other parts compare
sweeps with and without early stopping, measure how the driver's cost grows with the number of
trials, and compare trials that share a GPU. `tune_ways.py` has the ways of running trials.
"""

import io
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import optuna
import psutil
import ray
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from jobs.bench.measure import Columns, Measurement, apart, median, publish, ratios, shown, table
from jobs.bench.tune_ways import WAYS, Span, Task, run_raymc
from raymc.cli.demo import SETTINGS as DEMO
from raymc.cli.display import TrialsDisplay
from raymc.config import Config, from_dict, override
from raymc.data.shards import open_dataset
from raymc.errors import ConfigError
from raymc.formats.prepare import prepare_dataset
from raymc.runtime.connect import connect
from raymc.search.study import distributions, open_study
from raymc.search.sweep import sweep
from raymc.search.trials import Trial, trial_of
from raymc.tracking import open_tracker
from raymc.tracking.recording import SweepRecorder
from raymc.training.on_ray import equip
from raymc.training.runs import open_run

Result = TypeVar("Result")
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
    ways: tuple[str, ...] = Field(default=tuple(WAYS), description="A way of running trials.")
    documented_trials: int = Field(
        default=4,
        ge=1,
        description="Trials of Ray's documented pattern, which take half a minute each.",
    )
    parts: tuple[str, ...] = Field(default=PARTS, description="A part of the benchmark.")
    packed: int = Field(default=8, ge=2, description="Trials that share a GPU.")
    device: str = Field(default="cpu", description="Where packed trials compute: cpu or cuda.")

    def trials_of(self, way: str) -> int:
        """Return how many trials a way runs."""
        return min(self.trials, self.documented_trials) if way == DOCUMENTED else self.trials


def bench_tune(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Compare ways of running trials, with and without early stopping; see how costs grow.

    Raises:
        ConfigError: there is no such way or part, or too few trials for a rate.
    """
    _check(settings.ways, list(WAYS), "way")
    _check(settings.parts, list(PARTS), "part")
    fewest = min(map(settings.trials_of, settings.ways))
    if "ways" in settings.parts and fewest <= max(settings.at_a_time):
        raise ConfigError(
            f"--at-a-time {max(settings.at_a_time)}: expected less than the {fewest} trials of a "
            "way, because the first trial of each process isn't counted"
        )
    with TemporaryDirectory(prefix="raymc-tune-") as folder:
        bench = Bench(settings, Path(folder), console)
        texts, measured = [], list[Measurement]()
        for part in settings.parts:
            text, found = getattr(bench, part)()
            texts.append(text)
            measured += found
    publish("Tune", "\n".join(texts), measured, console, out)


class Bench:
    """The benchmark's parts; each returns its text and what it measured."""

    def __init__(self, settings: Settings, folder: Path, console: Console) -> None:
        self.settings, self.folder, self.console = settings, folder, console
        self._prepared: set[str] = set()

    def ways(self) -> tuple[str, list[Measurement]]:
        """Compare ways of running the same trials to their end."""
        settings = self.settings
        # Ray's documented pattern runs only with the most trials at a time
        kinds = [
            (n, way)
            for n in settings.at_a_time
            for way in settings.ways
            if way != DOCUMENTED or n == max(settings.at_a_time)
        ]
        found = {(n, way): Measurement(way, {"at_a_time": n}) for n, way in kinds}
        for number in range(settings.rounds):
            for n, way in kinds:
                task = self.task(f"{way}-{n}-{number}", n)
                task = Task(task.config, task.trials[: settings.trials_of(way)], n)
                with self.console.status(f"{way}, {n} at a time, round {number + 1}"):
                    run_task(found[n, way], task)
        return ways_text(settings, list(found.values())), list(found.values())

    def stopping(self) -> tuple[str, list[Measurement]]:
        """Compare a sweep that stops weak trials early with one that doesn't."""
        found = {name: Measurement(name) for name in ("none", "asha")}
        for number in range(self.settings.rounds):
            for name, one in found.items():
                task = self.task(
                    f"{name}-{number}", max(self.settings.at_a_time), **{"search.scheduler": name}
                )
                with self.console.status(f"scheduler {name}, round {number + 1}"):
                    one.add(**apart(with_own_ray, run_stopping, task))
        return stopping_text(*found.values()), list(found.values())

    def growth(self) -> tuple[str, list[Measurement]]:
        """Measure what a trial costs the driver in a sweep of four times as many trials."""
        given = {"trials": 4 * self.settings.trials, "epochs": 1, "clips": 64}
        small = Settings(**{**vars(self.settings), **given})
        task = Bench(small, self.folder, self.console).task("growth", max(small.at_a_time))
        with self.console.status(f"{small.trials} trials of one small epoch"):
            driver = apart(with_own_ray, run_growth, task)
        return growth_text(driver, self.settings.trials), [driver]

    def packed(self) -> tuple[str, list[Measurement]]:
        """Compare trials that share a GPU with one trial at a time."""
        counts = (self.settings.packed, 1)
        found = {n: Measurement("packed", {"at_a_time": n}) for n in counts}
        for number in range(self.settings.rounds):
            for n, one in found.items():
                task = self.task(f"packed-{n}-{number}", n, **self._share(n))
                with self.console.status(f"{n} trials on one device"):
                    run_task(one, task)
        return packed_text(list(found.values()), self.settings.device), list(found.values())

    def task(self, name: str, at_a_time: int, **given: Any) -> Task:
        """Return the trials as a task of that name, its dataset written if it isn't there yet."""
        settings = self.settings
        config = override(
            from_dict(SETTINGS),
            {
                "data.path": str(self.folder / f"digits-{settings.clips}"),
                "data.make.name": "digits",
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

    def _share(self, at_a_time: int) -> dict[str, Any]:
        if self.settings.device == "cpu":
            return {"search.cpus_per_trial": 1 / at_a_time}
        return {"train.device": "gpu", "search.gpus_per_trial": 1 / at_a_time}


def trials_of(config: Config, count: int) -> tuple[Mapping[str, Any], ...]:
    """Return the settings of as many trials, drawn from the space; the same for all ways."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return tuple(study.ask(distributions(config)).params for _ in range(count))


def with_own_ray(run: Callable[[Task], Result], task: Task) -> Result:
    """Run trials and end the Ray that they started; to be run apart."""
    try:
        return run(task)
    finally:
        ray.shutdown()


def run_task(found: Measurement, task: Task) -> None:
    """Run trials in their own process and add a round of figures; `packed` are raymc's, too."""
    began = time.time()
    spans = apart(with_own_ray, WAYS.get(found.name, run_raymc), task)
    found.add(**figures_of(spans, task.at_a_time, began=began, ended=time.time()))


def figures_of(
    spans: Sequence[Span], at_a_time: int, *, began: float, ended: float
) -> dict[str, Any]:
    """Return the figures of one round.

    Args:
        spans: The trials.
        at_a_time: How many ran at a time. The first of each process is kept apart, since its
            process had to start.
        began: When the command began, by the clock.
        ended: When it had ended.

    Returns:
        `slot_seconds` from the end of one trial to the end of the next, NaN if each process had
        only one; `trials_an_hour` by that; mean seconds of the first trials (`first_seconds`) and
        of the later ones (`later_seconds`); seconds `before` the first trial and `after` the last.
    """
    by_start = sorted(spans, key=lambda span: span.began)
    first, later = (
        [span.ended - span.began for span in some]
        for some in (by_start[:at_a_time], by_start[at_a_time:])
    )
    ends = sorted(span.ended for span in spans)
    mean, slot = statistics.mean, math.nan
    if later:
        slot = at_a_time * (mean(ends[-at_a_time:]) - mean(ends[:at_a_time])) / len(later)
    return {
        "spans": [vars(span) for span in spans],
        "slot_seconds": slot,
        "trials_an_hour": 3600 * at_a_time / slot,
        "first_seconds": mean(first),
        "later_seconds": mean(later) if later else math.nan,
        "before": by_start[0].began - began,
        "after": ended - ends[-1],
    }


def ways_text(settings: Settings, found: Sequence[Measurement]) -> str:
    """Return the table of the ways, with a note on what it says."""
    measured = {(one.case["at_a_time"], one.name): one for one in found}

    def beside(m: Measurement, way: str) -> Measurement:
        return measured.get((m.case["at_a_time"], way), Measurement(way))

    def ratio(m: Measurement, way: str) -> str:
        pairs = ratios(m["trials_an_hour"], beside(m, way)["trials_an_hour"])
        return shown("{:.2f}", median(pairs))

    def beyond(m: Measurement) -> float:
        bare = beside(m, "optuna")["later_seconds"]
        return median(slot - later for slot, later in zip(m["slot_seconds"], bare))

    columns: Columns = {
        "at a time": lambda m: str(m.case["at_a_time"]),
        "way": lambda m: m.name,
        **HOURS,
        "÷ Optuna": lambda m: ratio(m, "optuna"),
        "÷ documented": lambda m: ratio(m, DOCUMENTED),
        "s a trial beyond the bare loop": lambda m: shown("{:.2f}", beyond(m)),
        "first trials, s": lambda m: f"{m.median('first_seconds'):.1f}",
        "before them, s": lambda m: f"{m.median('before'):.1f}",
        "after, s": lambda m: f"{m.median('after'):.1f}",
    }
    rows = [measured[kind] for kind in sorted(measured)]
    same = all(math.isclose(a, b, rel_tol=1e-6) for a, b in _pairs_of_values(found))
    values = "All ways reached the same value in every trial."
    return (
        f"Trials of {settings.epochs} epochs of {settings.clips:,} clips of `digits`, one thread "
        f"each; {settings.rounds} rounds in turns, medians. Trials an hour are those after the "
        "first of each process, which is shown separately, as are the start and end of the whole "
        "command (for raymc with Ray's start, MLflow, the bundle and the report; the others import "
        "more here than they would need). Optuna alone trains in a bare loop "
        "over rows in memory: in its own process one at a time, else in several processes that "
        "share a journal. Ray's documented pattern is a `TorchTrainer` in every trial, with the "
        "same loop.\n\n"
        f"{table(columns, rows)}\n{values if same else 'The values of trials differ!'}\n"
    )


HOURS: Columns = {
    "trials": lambda m: str(len(m["spans"][0])),
    "trials an hour": lambda m: f"{m.median('trials_an_hour'):,.0f}",
    "spread": lambda m: "{:,.0f} to {:,.0f}".format(*m.spread("trials_an_hour")),
}


def _pairs_of_values(found: Sequence[Measurement]) -> list[tuple[float, float]]:
    """Each trial's value in each run, beside that of the first run that has it."""
    known: dict[tuple[tuple[str, Any], ...], float] = {}
    return [
        (known.setdefault(tuple(sorted(span["params"].items())), span["best"]), span["best"])
        for one in found
        for spans in one["spans"]
        for span in spans
    ]


def run_stopping(task: Task) -> dict[str, list[float]]:
    """Run a sweep; returns each epoch of any trial by time: `seconds` since the start, `values`."""
    run_raymc(task)
    study = open_study(open_run(task.config, sweep=True))
    starts = [t.datetime_start.timestamp() for t in study.trials if t.datetime_start is not None]
    points = sorted(
        (start + epoch.seconds - min(starts), epoch.value)
        for start, trial in zip(starts, study.trials, strict=True)
        for epoch in trial_of(trial, task.config).epochs
    )
    seconds, values = zip(*points)
    return {"seconds": list(seconds), "values": list(values)}


def stopping_text(never: Measurement, asha: Measurement) -> str:
    """Return what it took with and without early stopping to the best value that both reached."""
    targets = [min(max(a), max(b)) for a, b in zip(never["values"], asha["values"], strict=True)]

    def until(m: Measurement) -> list[int]:
        """The epoch of all trials at which the target was reached, by round."""
        return [
            next(at for at, value in enumerate(values) if value >= target)
            for values, target in zip(m["values"], targets, strict=True)
        ]

    columns: Columns = {
        "scheduler": lambda m: m.name,
        "best": lambda m: f"{median(map(max, m['values'])):.4f}",
        "epochs": lambda m: f"{median(map(len, m['values'])):.0f}",
        "seconds": lambda m: f"{median(seconds[-1] for seconds in m['seconds']):.1f}",
        "epochs until the best of both": lambda m: f"{median(at + 1 for at in until(m)):.0f}",
        "seconds until then": lambda m: (
            f"{median(seconds[at] for seconds, at in zip(m['seconds'], until(m))):.1f}"
        ),
    }
    return (
        "### Early stopping\n\nThe same trials in the same order, stopped by ASHA after at least "
        f"one epoch, or never; {len(targets)} rounds in turns, medians.\n\n"
        f"{table(columns, (never, asha))}"
    )


def run_growth(task: Task) -> Measurement:
    """Search and record; returns the driver's CPU seconds and memory at the end of each trial."""
    config, found, driver = task.config, Measurement("driver"), psutil.Process()
    dataset, run = open_dataset(config.data.path), open_run(config, sweep=True)
    connect(run.folder / "ray.log")
    run = equip(run)
    with open_tracker(config.tracking, config.run.folder) as tracker:
        display = TrialsDisplay(Console(file=io.StringIO()), config.search.trials)
        record = SweepRecorder(run, dataset.manifest, tracker, display.update)

        def listen(trial: Trial) -> None:
            record(trial)
            if trial.is_over:
                memory = driver.memory_info().rss
                found.add(cpu_seconds=time.process_time(), resident_bytes=memory)

        sweep(run, dataset, listener=listen)
    return found


def growth_text(driver: Measurement, few: int) -> str:
    """Return what a trial cost the driver among the first few trials, and among the last few."""
    parts = {
        f"the first {few}": slice(few),
        f"the last {few} of {len(driver['cpu_seconds'])}": slice(-few, None),
    }

    def cpu_ms(m: Measurement) -> float:
        seconds = driver["cpu_seconds"][parts[m.name]]
        return 1000 * (seconds[-1] - seconds[0]) / (len(seconds) - 1)

    columns: Columns = {
        "trials": lambda m: m.name,
        "driver's CPU ms a trial": lambda m: f"{cpu_ms(m):.0f}",
        "driver's MiB by then": lambda m: (
            f"{driver['resident_bytes'][parts[m.name]][-1] / 2**20:,.0f}"
        ),
    }
    rows = table(columns, map(Measurement, parts))
    return f"### Growth\n\nTrials of one small epoch, recorded in MLflow.\n\n{rows}"


def packed_text(found: Sequence[Measurement], device: str) -> str:
    """Return trials an hour of many trials that share a device, beside one at a time."""
    alone = next(one for one in found if one.case["at_a_time"] == 1)["trials_an_hour"]
    columns: Columns = {
        "at a time": lambda m: str(m.case["at_a_time"]),
        **HOURS,
        "÷ one at a time": lambda m: f"{median(ratios(m['trials_an_hour'], alone)):.2f}",
    }
    where = f"Trials that share one {device} device."
    if device == "cpu":
        where = "**Not run on a GPU here**: these trials share the CPUs, which gains nothing."
    return f"### Packed trials\n\n{where}\n\n{table(columns, found)}"


def _check(given: Sequence[str], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"--{what} {name}: expected one of {', '.join(known)}")
