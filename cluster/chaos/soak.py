"""A long sweep of short trials to which something happens all the time: does memory stay flat?"""

import os
import random
import signal
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from cluster.chaos.faults import Fault, nothing
from cluster.chaos.processes import resident_bytes
from cluster.chaos.run import prepared_scene
from cluster.chaos.scene import Scene
from raymc.tracking.notes import markdown_table

_FAULT_SECONDS = 20.0
_TRIALS_PER_MINUTE = 60  # of two cores: 65 were seen with few faults, 35 with one every 20 s
_SAMPLE_SECONDS = 2.0


@dataclass
class Soak:
    """What was seen.

    Attributes:
        faults: What happened, in order.
        driver: Bytes of memory of the driver, over time.
        head: Bytes of memory of all processes of the head, over time.
        is_right: Whether the sweep ended with a bundle, by itself.
        problems: What is wrong in MLflow, the study and the bundle.
        lost_trials: Trials that failed or are missing.
        seconds: How long it took.
    """

    faults: list[str] = field(default_factory=list)
    driver: list[int] = field(default_factory=list)
    head: list[int] = field(default_factory=list)
    is_right: bool = False
    problems: list[str] = field(default_factory=list)
    lost_trials: int = 0
    seconds: float = 0.0


def run_soak(console: Console, *, minutes: float, seed: int = 0) -> Soak:
    """Run a sweep of so many minutes or more with a fault every 20 s; prints a table."""
    trials = max(4, round(minutes * _TRIALS_PER_MINUTE))
    settings = {
        "train": {"epochs": 3, "max_failures": 20},
        "search": {"trials": trials, "concurrent": 2},
    }
    fault = Fault(name="soak", title="soak", command="tune", happen=nothing, settings=settings)
    seen, began = Soak(), time.monotonic()
    with prepared_scene(fault, random.Random(seed)) as scene:
        scene.submit()
        _watch(scene, seen, limit_seconds=360 * minutes + 120)
        seen.is_right = scene.finish(attempts=1, patience_seconds=1.0)
        seen.problems = scene.problems() if seen.is_right else _last_lines(scene.log)
        seen.lost_trials = scene.lost_trials() if seen.is_right else trials
    seen.seconds = time.monotonic() - began
    console.print(soak_table(seen, trials), soft_wrap=True, markup=False, highlight=False)
    return seen


def _watch(scene: Scene, seen: Soak, *, limit_seconds: float) -> None:
    """Have faults happen, and note the memory, until the driver ends."""
    began = time.monotonic()
    due = None
    while not scene.has_ended() and time.monotonic() - began < limit_seconds:
        time.sleep(_SAMPLE_SECONDS)
        if scene.epochs() == 0:
            continue
        due = due or time.monotonic() + _FAULT_SECONDS
        seen.driver.append(resident_bytes([scene.driver_pid]))
        seen.head.append(resident_bytes(list(scene.cluster.pids(scene.cluster.head))))
        if time.monotonic() >= due:
            due += _FAULT_SECONDS
            seen.faults.append(_harm(scene))


def _harm(scene: Scene) -> str:
    """Do one of the faults that come without a notice; returns which."""
    workers = scene.workers()
    if workers and scene.random.random() < 0.6:
        os.kill(scene.random.choice(workers), signal.SIGKILL)
        return "worker killed"
    scene.cluster.kill_node(scene.random.choice(scene.cluster.nodes))
    scene.cluster.add_node(gpus=1)
    return "node killed, another added"


def soak_table(seen: Soak, trials: int) -> str:
    """Return what a soak saw: its end, and memory in its quarters."""
    header = ("", "first quarter", "second", "third", "last")
    rows = [
        (name, *(f"{part / 2**20:.0f} MiB" for part in _quarters(values)))
        for name, values in (("driver", seen.driver), ("head", seen.head))
    ]
    how = "ended complete" if seen.is_right and not seen.problems else "DID NOT END WELL"
    told = f"{trials} trials in {seen.seconds:.0f} s, {len(seen.faults)} faults: {how}"
    lines = [f"{told}, {seen.lost_trials} trials lost", *seen.problems]
    return "\n".join(lines) + "\n\n" + markdown_table(header, rows)


def _quarters(values: list[int]) -> list[float]:
    """Return the median of each quarter."""
    size = max(1, len(values) // 4)
    parts = [values[at * size : (at + 1) * size] or [0] for at in range(4)]
    return [float(statistics.median(part)) for part in parts]


def _last_lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-12:]
