"""Injects faults one after the other, and prints a table of what became of the runs."""

import json
import math
import os
import random
import shutil
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from cluster.chaos.faults import FAULTS, Fault
from cluster.chaos.scene import Scene, small_config
from cluster.chaos.services import (
    PostgresServer,
    Service,
    mlflow_server,
    redis_server,
    refuse_without_root,
    running,
    small_disk,
)
from cluster.local import LocalCluster, Shape
from raymc.config import override
from raymc.errors import ResourceError
from raymc.formats.prepare import prepare_dataset
from raymc.tracking.notes import markdown_table

_SHAPE = Shape(head_cpus=2, gpu_nodes=(2, 2), spot=True)
_HEAD_APART = Shape(head_cpus=0, cpu_nodes=1, gpu_nodes=(2, 2), node_cpus=2, spot=True, apart=True)
_SCRIPTS = Path(sys.executable).parent  # where jobs find the command raymc
_LOG_LINES = 12  # of a driver that failed
_HEADER = (
    "fault",
    "done to",
    "times",
    "ended right",
    "by itself",
    "rows lost, doubled",
    "steps repeated",
    "trials lost",
    "MLflow, Optuna consistent",
    "seconds to the next epoch",
)


@dataclass
class Outcome:
    """What became of one run or sweep.

    Attributes:
        fault: Name of the fault.
        is_right: Whether it ended with a bundle.
        submissions: How often it was submitted; once means it ended by itself.
        lost: Rows that were not used, over all epochs; None if not counted.
        doubled: Rows that were used twice, over all epochs; None if not counted.
        repeated_steps: Steps that were done again; None if not counted.
        lost_trials: Trials that failed or are missing.
        problems: What is wrong in MLflow, the study and the bundle.
        recoveries: Seconds from each fault to the next epoch.
        seconds: From the start to the end.
        log: The end of the driver's output, if something went wrong.
    """

    fault: str
    is_right: bool
    submissions: int
    lost: int | None
    doubled: int | None
    repeated_steps: int | None
    lost_trials: int
    problems: list[str]
    recoveries: list[float]
    seconds: float
    log: list[str] = field(default_factory=list)


def run_chaos(
    console: Console,
    *,
    faults: Sequence[str] = (),
    times: int | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Inject faults into runs on clusters on this machine; print a table.

    Args:
        console: Where to print the table, and a line for each run.
        faults: Names of faults; none for all that leave the rest of the machine alone.
        times: How often to inject each one, in place of its default.
        seed: Seed of the random moments and victims.
        out: Folder to which the outcomes are appended as JSON lines. The table shows all of
            them, so that the faults can be injected in several calls.
    """
    chosen = [fault for fault in FAULTS if fault.name in faults or not (faults or fault.is_rude)]
    if any(fault.wants_root for fault in chosen):
        refuse_without_root()
    outcomes = []
    turns = [(fault, turn) for fault in chosen for turn in range(times or fault.times)]
    for fault, turn in turns:
        try:
            outcome = do_fault(fault, random.Random(f"{seed} {fault.name} {turn}"))
        except ResourceError as error:
            show(console, f"{fault.name}: could not be injected: {error}")
            continue
        outcomes.append(outcome)
        show(console, outcome_line(outcome))
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            with (out / "outcomes.jsonl").open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
    if out is not None:
        lines = (out / "outcomes.jsonl").read_text().splitlines()
        outcomes = [Outcome(**json.loads(line)) for line in lines]
    show(console, fault_table(outcomes))


def show(console: Console, text: str) -> None:
    """Print a text unchanged: neither wrapped nor coloured."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def do_fault(fault: Fault, moments: random.Random) -> Outcome:
    """Start a run on a new cluster, inject a fault, and return what became of the run."""
    began = time.monotonic()
    with prepared_scene(fault, moments) as scene:
        scene.submit()
        scene.wait_for_moment(fault.moment)
        fault.happen(scene)
        return outcome_of(scene, fault, ended=scene.finish(), began=began)


def outcome_of(
    scene: Scene, fault: Fault, *, ended: bool, began: float, audit: bool = True
) -> Outcome:
    """Return what became of a run.

    Args:
        scene: The run.
        fault: What happened to it.
        ended: Whether it ended with a bundle.
        began: When it began, in seconds of the monotonic clock.
        audit: Whether to count the rows and steps of its epochs.
    """
    problems = scene.problems() if ended else []
    audits = scene.audits() if ended and audit else []
    epochs = [epoch for each in audits for epoch in each.epochs]
    restarts = [restart for each in audits for restart in each.restarts]
    log = [] if ended and not problems else scene.log.read_text(errors="replace").splitlines()
    return Outcome(
        fault=fault.name,
        is_right=ended,
        submissions=scene.submissions,
        lost=sum(epoch.lost for epoch in epochs) if audits else None,
        doubled=sum(epoch.repeated for epoch in epochs) if audits else None,
        repeated_steps=sum(restart.repeated_steps for restart in restarts)
        if fault.command == "train"
        else None,
        lost_trials=scene.lost_trials() if ended else 0,
        problems=problems,
        recoveries=scene.recoveries,
        seconds=time.monotonic() - began,
        log=log[-_LOG_LINES:],
    )


@contextmanager
def prepared_scene(fault: Fault, moments: random.Random) -> Iterator[Scene]:
    """Provide a cluster, a dataset and what else a fault needs during the block."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="chaos-")))
        shutil.copytree(_dataset().name, folder, dirs_exist_ok=True)
        folder.chmod(0o711)  # Postgres runs as another user
        services, addresses, of_head = _start_services(fault, folder, stack)
        if "disk" in fault.needs:
            stack.enter_context(small_disk(folder / "runs"))
        if "storage" in fault.needs:
            addresses["run.storage"] = str(folder / "storage")
            stack.enter_context(small_disk(folder / "storage"))
        config = override(small_config(folder, **fault.settings), addresses)
        rays = {**fault.rays, "PATH": f"{_SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
        shape = _HEAD_APART if of_head else _SHAPE
        cluster = stack.enter_context(LocalCluster(shape, rays, of_head))
        scene = Scene(
            cluster,
            config,
            fault.command,
            folder,
            moments,
            services,
            is_job=fault.is_job or bool(of_head),
            retries=fault.retries,
        )
        try:
            yield scene
        finally:
            if not scene.has_ended():
                scene.kill_driver()


def _start_services(
    fault: Fault, folder: Path, stack: ExitStack
) -> tuple[dict[str, Service], dict[str, str], dict[str, str]]:
    """Start the servers that a fault needs; return them, and what makes raymc and Ray use them.

    Returns:
        The servers by name, the settings with their addresses, and the head's environment.
    """
    services: dict[str, Service] = {}
    addresses: dict[str, str] = {}
    of_head: dict[str, str] = {}
    database = ""
    if "postgres" in fault.needs:
        services["postgres"] = postgres = PostgresServer(folder / "postgres", ("mlflow", "optuna"))
        database = postgres.address("mlflow")
        addresses["search.storage"] = postgres.address("optuna")
    if "mlflow" in fault.needs:
        services["mlflow"] = mlflow = mlflow_server(folder, database)
        addresses["tracking.uri"] = mlflow.address
    if "redis" in fault.needs:
        services["redis"] = redis = redis_server(folder)
        of_head = {
            "RAY_REDIS_ADDRESS": redis.address,
            "RAY_external_storage_namespace": folder.name,
        }
    for service in services.values():
        stack.enter_context(running(service))
    return services, addresses, of_head


@cache
def _dataset() -> TemporaryDirectory[str]:
    """Make the dataset once; its folder is removed when this process ends."""
    folder = TemporaryDirectory(prefix="chaos-data-")
    prepare_dataset(small_config(Path(folder.name)))
    return folder


def outcome_line(outcome: Outcome) -> str:
    """Return an outcome in one line."""
    waits = ", ".join(f"{each:.1f}" for each in outcome.recoveries)
    parts = [
        f"{outcome.fault}: {'ended' if outcome.is_right else 'DID NOT END'}",
        f"{outcome.submissions} submissions",
        f"{outcome.seconds:.0f} s",
        *([f"next epoch after {waits} s"] if waits else []),
        *outcome.problems,
        *outcome.log,
    ]
    return "; ".join(parts)


def fault_table(outcomes: Sequence[Outcome]) -> str:
    """Return a table with a row for each fault."""
    found = ((fault, [one for one in outcomes if one.fault == fault.name]) for fault in FAULTS)
    rows = [_fault_row(fault, its) for fault, its in found if its]
    return markdown_table(_HEADER, rows)


def _fault_row(fault: Fault, found: Sequence[Outcome]) -> list[str]:
    right = [one for one in found if one.is_right]
    count = len(found)
    return [
        fault.title,
        f"raymc {fault.command}",
        str(count),
        f"{len(right)} of {count}",
        f"{sum(one.submissions == 1 for one in right)} of {count}",
        f"{_sum_text(one.lost for one in found)}, {_sum_text(one.doubled for one in found)}",
        _sum_text(one.repeated_steps for one in found),
        _sum_text(one.lost_trials if fault.command == "tune" else None for one in found),
        f"{sum(not one.problems for one in right)} of {count}",
        _seconds_text([wait for one in found for wait in one.recoveries]),
    ]


def _sum_text(numbers: Iterable[int | None]) -> str:
    counted = [number for number in numbers if number is not None]
    return str(sum(counted)) if counted else "–"


def _seconds_text(waits: Sequence[float]) -> str:
    if not waits:
        return "–"
    if len(waits) == 1 or math.inf in waits:
        return ", ".join(f"{wait:.1f}" for wait in waits)
    return f"{statistics.median(waits):.1f} ({min(waits):.1f} to {max(waits):.1f})"
