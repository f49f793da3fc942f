"""What early stopping is worth, what a trial costs the driver, what sharing a GPU brings.

Top layer.
"""

import io
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
from rich.console import Console

from jobs.bench.tune_parts.runs import Course, Run
from jobs.bench.tune_parts.ways import Task
from raymc.cli.display import TrialsDisplay
from raymc.data.shards import open_dataset
from raymc.runtime.connect import connect
from raymc.search.sweep import sweep
from raymc.search.trials import Trial
from raymc.tracking import open_tracker
from raymc.tracking.notes import markdown_table
from raymc.tracking.recording import SweepRecorder
from raymc.training.on_ray import equip
from raymc.training.runs import open_run


@dataclass(frozen=True)
class Mark:
    """The driver when a trial has ended: its CPU seconds since the start, and its memory."""

    trials: int
    cpu_seconds: float
    resident_bytes: int


def run_growth(task: Task) -> list[Mark]:
    """Search and record; returns how the driver fared as trial after trial ended."""
    config, marks, driver = task.config, list[Mark](), psutil.Process()
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
                marks.append(Mark(len(marks) + 1, time.process_time(), memory))

        sweep(run, dataset, listener=listen)
    return marks


def growth_text(marks: Sequence[Mark], few: int) -> str:
    """Return what a trial cost the driver among the first few trials, and among the last few."""
    parts = {f"the first {few}": marks[:few], f"the last {few} of {len(marks)}": marks[-few:]}
    rows = []
    for name, part in parts.items():
        cpu = (part[-1].cpu_seconds - part[0].cpu_seconds) / (len(part) - 1)
        rows.append([name, f"{1000 * cpu:.0f}", f"{part[-1].resident_bytes / 2**20:,.0f}"])
    table = markdown_table(["trials", "driver's CPU ms a trial", "driver's MiB by then"], rows)
    return f"### Growth\n\nTrials of one small epoch, recorded in MLflow.\n\n{table}"


def stopping_text(courses: Sequence[Course]) -> str:
    """Return what it took with and without early stopping to the best value that both reached."""
    both = {
        name: [course for course in courses if course.scheduler == name]
        for name in ("none", "asha")
    }
    targets = [min(a.best, b.best) for a, b in zip(both["none"], both["asha"], strict=True)]
    rows = [_stopping_row(name, found, targets) for name, found in both.items()]
    header = ["scheduler", "best", "epochs", "seconds", "until the best of both: epochs", "seconds"]
    return (
        "### Early stopping\n\nThe same trials in the same order, stopped by ASHA after at least "
        f"one epoch, or never; {len(targets)} rounds in turns, medians.\n\n"
        f"{markdown_table(header, rows)}"
    )


def _stopping_row(name: str, courses: Sequence[Course], targets: Sequence[float]) -> list[str]:
    until = [course.until(target) for course, target in zip(courses, targets, strict=True)]
    middle = statistics.median
    return [
        name,
        f"{middle(course.best for course in courses):.4f}",
        f"{middle(len(course.values) for course in courses):.0f}",
        f"{middle(course.seconds[-1] for course in courses):.1f}",
        f"{middle(epochs for _, epochs in until):.0f}",
        f"{middle(seconds for seconds, _ in until):.1f}",
    ]


def packed_text(runs: Sequence[Run], device: str) -> str:
    """Return trials an hour of many trials that share a device, beside one at a time."""
    kinds = dict.fromkeys(run.at_a_time for run in runs)
    found = {n: [run.trials_an_hour for run in runs if run.at_a_time == n] for n in kinds}
    rows = [
        [
            str(n),
            str(len(next(run for run in runs if run.at_a_time == n).spans)),
            f"{statistics.median(hours):,.0f}",
            f"{min(hours):,.0f} to {max(hours):,.0f}",
            f"{statistics.median(a / b for a, b in zip(hours, found[1], strict=True)):.2f}",
        ]
        for n, hours in found.items()
    ]
    header = ["at a time", "trials", "trials an hour", "spread", "÷ one at a time"]
    where = f"Trials that share one {device} device."
    if device == "cpu":
        where = "**Not run on a GPU here**: trials that share the CPUs, which gains nothing."
    return f"### Packed trials\n\n{where}\n\n{markdown_table(header, rows)}"
