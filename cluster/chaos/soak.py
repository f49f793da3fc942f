"""The soak test: a long sweep of short trials with a fault every 20 s; does memory stay flat?"""

import math
import random
import statistics
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from rich.console import Console

from cluster.chaos.faults import FAULTS, Fault, nothing
from cluster.chaos.run import Outcome, outcome_of, prepared_scene, show
from cluster.chaos.scene import Scene
from cluster.processes import resident_bytes
from raymc.errors import ResourceError
from raymc.tracking.notes import markdown_table

_FAULT_SECONDS = 20.0
_MOST_TRIALS_PER_MINUTE = 100  # on two cores 65 were seen with few faults; the hours end it
_SAMPLE_SECONDS = 2.0


@dataclass
class Watch:
    """What was observed while the sweep ran.

    Attributes:
        faults: Names of the faults, in order.
        driver: Memory of the driver over time, in bytes.
        head: Memory of all processes of the head over time, in bytes.
    """

    faults: list[str] = field(default_factory=list)
    driver: list[int] = field(default_factory=list)
    head: list[int] = field(default_factory=list)


def run_soak(console: Console, *, minutes: float, seed: int = 0) -> None:
    """Run a sweep of this many minutes with a fault every 20 s; print a table."""
    trials, polite = math.ceil(minutes * _MOST_TRIALS_PER_MINUTE), faults_of_soak()
    settings = {
        "train": {"epochs": 3, "max_failures": 20},
        "search": {"trials": trials, "hours": minutes / 60, "concurrent": 2},
    }
    fault = Fault(
        name="soak",
        title="soak",
        command="tune",
        happen=nothing,
        settings=settings,
        needs=tuple({need for each in polite for need in each.needs}),
        is_job=True,
        rays={name: value for each in polite for name, value in each.rays.items()},
    )
    began = time.monotonic()
    with prepared_scene(fault, random.Random(seed)) as scene:
        scene.submit()
        seen = _watch(scene, limit_seconds=90 * minutes + 600)
        ended = scene.finish(patience_seconds=1.0)
        outcome = outcome_of(scene, fault, ended=ended, began=began, audit=False)
        begun = scene.trials_begun()
    show(console, soak_table(outcome, seen, begun))


def faults_of_soak() -> list[Fault]:
    """Return a fault of each kind; the first of those that do the same to different runs."""
    kinds = {(each.happen, *each.rays): each for each in reversed(FAULTS) if not each.is_rude}
    return list(kinds.values())


def _watch(scene: Scene, *, limit_seconds: float) -> Watch:
    """Inject faults and sample the memory until the sweep ends."""
    seen, began, due = Watch(), time.monotonic(), 0.0
    nodes, waiting = len(scene.cluster.nodes), list[Fault]()
    while not scene.has_ended() and time.monotonic() - began < limit_seconds:
        time.sleep(_SAMPLE_SECONDS)
        if scene.epochs() == 0:
            continue
        due = due or time.monotonic() + _FAULT_SECONDS
        seen.driver.append(resident_bytes(scene.drivers()))
        seen.head.append(resident_bytes(list(scene.cluster.pids(scene.cluster.head))))
        if time.monotonic() >= due:
            if not waiting:
                waiting = [each for each in faults_of_soak() if each.happen is not nothing]
                scene.random.shuffle(waiting)
            fault = waiting.pop()
            with suppress(ResourceError):  # the sweep may have come to its end meanwhile
                fault.happen(scene)
                seen.faults.append(fault.name)
            _restore(scene, nodes)
            due = time.monotonic() + _FAULT_SECONDS
    return seen


def _restore(scene: Scene, nodes: int) -> None:
    """Bring the cluster back to its number of nodes, of which the newest ones have a GPU."""
    while len(scene.cluster.nodes) > nodes:
        scene.cluster.kill_node(scene.cluster.nodes[-1])
    while len(scene.cluster.nodes) < nodes:
        scene.cluster.add_node(gpus=1)


def soak_table(outcome: Outcome, seen: Watch, trials: int) -> str:
    """Return how a soak test ended, its faults, and a table of its memory by quarters."""
    header = ("", "first quarter", "second", "third", "last")
    rows = [
        (name, *(f"{part / 2**20:.0f} MiB" for part in _quarters(values)))
        for name, values in (("driver", seen.driver), ("head", seen.head))
    ]
    how = "ended complete" if outcome.is_right and not outcome.problems else "DID NOT END WELL"
    lost = outcome.lost_trials if outcome.is_right else trials
    summary = f"{trials} trials in {outcome.seconds:.0f} s, {len(seen.faults)} faults: {how}"
    faults = ", ".join(f"{name} {count}" for name, count in sorted(Counter(seen.faults).items()))
    again = f"submitted {outcome.submissions} times"
    lines = [f"{summary}, {lost} trials lost, {again}", faults, *outcome.problems, *outcome.log]
    return "\n".join(lines) + "\n\n" + markdown_table(header, rows)


def _quarters(values: list[int]) -> list[float]:
    """Return the median of each quarter."""
    size = max(1, len(values) // 4)
    parts = [values[at * size : (at + 1) * size] or [0] for at in range(4)]
    return [float(statistics.median(part)) for part in parts]
