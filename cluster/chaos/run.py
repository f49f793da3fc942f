"""Faults, one after the other, and a table of what became of the runs they happened to."""

import json
import math
import os
import random
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from cluster.chaos.faults import FAULTS, Fault
from cluster.chaos.local_cluster import LocalCluster, Shape
from cluster.chaos.scene import Scene, small_config
from cluster.chaos.services import (
    MlflowServer,
    PostgresServer,
    RedisServer,
    Service,
    refuse_without_root,
    running,
    small_disk,
)
from raymc.config import override
from raymc.errors import ResourceError
from raymc.formats.prepare import prepare_dataset
from raymc.tracking.notes import markdown_table
from raymc.training.audit import RunAudit

_SHAPE = Shape(head_cpus=2, gpu_nodes=(2, 2))
_HEAD_APART = Shape(head_cpus=0, cpu_nodes=1, gpu_nodes=(1, 1), node_cpus=2, apart=True)
_SCRIPTS = Path(sys.executable).parent  # where jobs find the command raymc
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
        fault: The fault's name.
        is_right: Whether it ended with a bundle.
        submissions: How often it was submitted; once is by itself.
        lost: Rows of all epochs that weren't used; None: not told.
        doubled: Rows of all epochs that were used twice; None: not told.
        repeated_steps: Steps that were done again; None: not told.
        lost_trials: Trials that failed or are missing.
        problems: What is wrong in MLflow, the study and the bundle.
        recoveries: Seconds from a fault to the next epoch.
        seconds: From its start to its end.
        log: The end of what the driver printed, where something went wrong.
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
) -> list[Outcome]:
    """Do faults to runs on clusters on this machine; prints a table.

    Args:
        console: Where the table goes, and a line for each run.
        faults: Names; none: all that leave the machine alone.
        times: How often each is done, rather than its own number of times.
        seed: Of the moments.
        out: A folder for the outcomes, as JSON lines that are added to; the table is of all of
            them, so that parts can be run one after the other.
    """
    chosen = [fault for fault in FAULTS if fault.name in faults or not (faults or fault.is_rude)]
    if any(fault.wants_root for fault in chosen):
        refuse_without_root()
    outcomes = []
    for fault in chosen:
        for turn in range(times or fault.times):
            try:
                outcome = do_fault(fault, random.Random(f"{seed} {fault.name} {turn}"))
            except ResourceError as error:
                console.print(f"{fault.name}: could not be done: {error}", markup=False)
                continue
            outcomes.append(outcome)
            console.print(outcome_line(outcome), soft_wrap=True, markup=False, highlight=False)
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                with (out / "outcomes.jsonl").open("a") as file:
                    file.write(json.dumps(asdict(outcome)) + "\n")
    if out is not None:
        lines = (out / "outcomes.jsonl").read_text().splitlines()
        outcomes = [Outcome(**json.loads(line)) for line in lines]
    console.print(fault_table(outcomes), soft_wrap=True, markup=False, highlight=False)
    return outcomes


def do_fault(fault: Fault, moments: random.Random) -> Outcome:
    """Start a run on a new cluster, do something to it, and see what becomes of it."""
    began = time.monotonic()
    with prepared_scene(fault, moments) as scene:
        scene.submit()
        fault.happen(scene)
        ended = scene.finish()
        problems = scene.problems() if ended else []
        audits = scene.audits() if ended else []
        epochs = [epoch for audit in audits for epoch in audit.epochs]
        right = ended and not problems
        return Outcome(
            fault=fault.name,
            is_right=ended,
            submissions=scene.submissions,
            lost=sum(epoch.lost for epoch in epochs) if audits else None,
            doubled=sum(epoch.repeated for epoch in epochs) if audits else None,
            repeated_steps=_repeated_steps(audits) if fault.command == "train" else None,
            lost_trials=scene.lost_trials() if ended else 0,
            problems=problems,
            recoveries=scene.recoveries,
            seconds=time.monotonic() - began,
            log=[] if right else scene.log.read_text(errors="replace").splitlines()[-12:],
        )


def _repeated_steps(audits: Sequence[RunAudit]) -> int:
    return sum(restart.repeated_steps for audit in audits for restart in audit.restarts)


@contextmanager
def prepared_scene(fault: Fault, moments: random.Random) -> Iterator[Scene]:
    """Have a cluster, a dataset and what else a fault needs, for as long as it takes."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="chaos-")))
        shutil.copytree(_dataset().name, folder, dirs_exist_ok=True)
        folder.chmod(0o711)  # Postgres runs as somebody else
        services = _services(fault, folder, stack)
        if "disk" in fault.needs:
            stack.enter_context(small_disk(folder / "runs"))
        addresses = _addresses(services)
        if "storage" in fault.needs:
            addresses["run.storage"] = str(folder / "storage")
            stack.enter_context(small_disk(folder / "storage"))
        config = override(small_config(folder, **fault.settings), addresses)
        rays = {**fault.rays, "PATH": f"{_SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
        redis = services.get("redis")
        state = redis.environment if isinstance(redis, RedisServer) else {}
        cluster = stack.enter_context(LocalCluster(_HEAD_APART if redis else _SHAPE, rays, state))
        scene = Scene(
            cluster, config, fault.command, folder, moments, services, is_job=redis is not None
        )
        try:
            yield scene
        finally:
            if not scene.has_ended():
                scene.kill_driver()


def _services(fault: Fault, folder: Path, stack: ExitStack) -> dict[str, Service]:
    """Start the servers that a fault needs, each after those that it leans on."""
    services: dict[str, Service] = {}
    database = ""
    if "postgres" in fault.needs:
        services["postgres"] = postgres = PostgresServer(folder / "postgres", ("mlflow", "optuna"))
        database = postgres.address("mlflow")
    if "mlflow" in fault.needs:
        services["mlflow"] = MlflowServer(folder, database)
    if "redis" in fault.needs:
        services["redis"] = RedisServer(folder)
    for service in services.values():
        stack.enter_context(running(service))
    return services


def _addresses(services: Mapping[str, Service]) -> dict[str, str]:
    """Return the settings that say where MLflow's records and the study are."""
    found = {}
    if isinstance(mlflow := services.get("mlflow"), MlflowServer):
        found["tracking.uri"] = mlflow.address
    if isinstance(postgres := services.get("postgres"), PostgresServer):
        found["search.storage"] = postgres.address("optuna")
    return found


@cache
def _dataset() -> TemporaryDirectory[str]:
    """Make the dataset once; returns the folder that it is in, which lasts as long as we do."""
    folder = TemporaryDirectory(prefix="chaos-data-")
    prepare_dataset(small_config(Path(folder.name)))
    return folder


def outcome_line(outcome: Outcome) -> str:
    """Return an outcome in one line."""
    waits = ", ".join(f"{each:.1f}" for each in outcome.recoveries)
    told = [
        f"{outcome.fault}: {'ended' if outcome.is_right else 'DID NOT END'}",
        f"{outcome.submissions} submissions",
        f"{outcome.seconds:.0f} s",
        *([f"next epoch after {waits} s"] if waits else []),
        *outcome.problems,
        *outcome.log,
    ]
    return "; ".join(told)


def fault_table(outcomes: Sequence[Outcome]) -> str:
    """Return outcomes by fault, with counts."""
    rows = []
    for fault in FAULTS:
        found = [outcome for outcome in outcomes if outcome.fault == fault.name]
        if not found:
            continue
        count = len(found)
        waits = [wait for one in found for wait in one.recoveries]
        rows.append(
            (
                fault.title,
                f"raymc {fault.command}",
                str(count),
                f"{sum(one.is_right for one in found)} of {count}",
                f"{sum(one.is_right and one.submissions == 1 for one in found)} of {count}",
                f"{_sum_text([one.lost for one in found])}, "
                f"{_sum_text([one.doubled for one in found])}",
                _sum_text([one.repeated_steps for one in found]),
                str(sum(one.lost_trials for one in found)) if fault.command == "tune" else "–",
                f"{sum(one.is_right and not one.problems for one in found)} of {count}",
                _seconds_text(waits),
            )
        )
    return markdown_table(_HEADER, rows)


def _sum_text(numbers: Sequence[int | None]) -> str:
    told = [number for number in numbers if number is not None]
    return str(sum(told)) if told else "–"


def _seconds_text(waits: Sequence[float]) -> str:
    if not waits:
        return "–"
    if len(waits) == 1 or math.inf in waits:
        return ", ".join(f"{wait:.1f}" for wait in waits)
    return f"{statistics.median(waits):.1f} ({min(waits):.1f} to {max(waits):.1f})"
