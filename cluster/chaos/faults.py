"""The faults: what can go wrong with a run or a sweep, one function each, in the table's order."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ray.core.generated import (
    autoscaler_pb2,
    core_worker_pb2,
    gcs_service_pb2,
    node_manager_pb2,
)

from cluster.chaos.scene import Scene
from cluster.chaos.services import clock_ahead
from cluster.local import Node
from cluster.processes import wait_until
from raymc.errors import ResourceError
from raymc.runtime.kuberay import Placement
from raymc.training.bundle import WEIGHTS
from raymc.training.checkpoint import PROGRESS

_OUTAGE_SECONDS, _HEAD_AWAY_SECONDS, _RESTART_SECONDS = 30.0, 8.0, 5.0
_JUMP_SECONDS = 3600.0
_WAITING_FOR_HEAD = {"RAY_gcs_rpc_server_reconnect_timeout_s": "180"}
_A_FIFTH = "-400000:100000"  # microseconds; Ray draws evenly, and a negative number is no delay
_SWEEP = {"train": {"epochs": 6}}
_LONG_SWEEP = {"train": {"epochs": 24}}
_SLOW = {"train": {"epochs": 80}}
# enough attempts for ten seconds, even if each one fails at once
_STREAMED = {"data": {"cache": "off"}, "train": {"epochs": 8, "max_failures": 20}}

Command = Literal["train", "tune"]
Need = Literal["disk", "storage", "mlflow", "redis", "postgres"]
Happen = Callable[[Scene], None]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: Its name on the command line.
        title: Its name in the table.
        command: What it happens to, `raymc train` or `raymc tune`.
        happen: Injects it and waits for the next epoch.
        moment: The shares of all epochs between which it is injected, at random.
        settings: Settings of the run, by section.
        times: How often it is injected by default, each time into a new run.
        needs: `disk`: the runs' folder is a small disk; `storage`: the storage of checkpoints is
            one; `mlflow`: MLflow is a server; `redis`: the head keeps its state in Redis, so that
            it can be restarted, and the run is a job on another node; `postgres`: MLflow and
            the study keep their records in Postgres.
        is_job: Whether the run is submitted as a job; otherwise its driver is a process of ours.
        retries: How often KubeRay would start the job again, with a new cluster.
        is_rude: Whether it affects the whole machine, and so is injected only if named.
        rays: Ray's own switches, set for all its processes.
    """

    name: str
    title: str
    command: Command
    happen: Happen
    moment: tuple[float, float] = (0.15, 0.6)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    times: int = 1
    needs: tuple[Need, ...] = ()
    is_job: bool = False
    retries: int = 0
    is_rude: bool = False
    rays: Mapping[str, str] = field(default_factory=dict)

    @property
    def wants_root(self) -> bool:
        """Whether it mounts a disk, separates nodes or sets the clock, for which it needs root."""
        return self.is_rude or bool({"disk", "storage", "redis"} & set(self.needs))


FAULTS: list[Fault] = []


def _fault(name: str, title: str, command: Command, **more: Any) -> Callable[[Happen], Happen]:
    """Add a function to FAULTS; of several decorators, the lowest comes first."""

    def add(happen: Happen) -> Happen:
        FAULTS.append(Fault(name=name, title=title, command=command, happen=happen, **more))
        return happen

    return add


@_fault("none", "none", "tune", settings=_SWEEP)
def nothing(scene: Scene) -> None:
    """Leave the run alone."""


@_fault("trial", "a trial's process killed", "tune", settings=_SWEEP)
@_fault("worker", "training worker killed", "train")
def kill_worker(scene: Scene) -> None:
    """Kill a process that trains."""
    os.kill(scene.worker(), signal.SIGKILL)
    scene.watch_recovery()


@_fault(
    "rayjob",
    "driver of a RayJob's sweep killed",
    "tune",
    settings=_SWEEP,
    times=5,
    is_job=True,
    retries=Placement.retries,
)
@_fault("driver", "driver of a sweep killed", "tune", settings=_SWEEP, times=2)
def kill_driver(scene: Scene) -> None:
    """Kill the driver; somebody submits again, or KubeRay starts a RayJob again."""
    scene.kill_driver()
    scene.start_again()
    scene.watch_recovery()


@_fault("job-node", "worker node killed, submitted run", "train", is_job=True)
@_fault("sweep-node", "worker node killed, submitted sweep", "tune", settings=_SWEEP, is_job=True)
@_fault("node", "worker node killed", "tune", settings=_SWEEP)
def kill_node(scene: Scene) -> None:
    """Kill all processes of a node that trains."""
    scene.cluster.kill_node(_training_node(scene))
    scene.watch_recovery()


@_fault("drain", "node drained, then killed", "train")
def drain_node(scene: Scene) -> None:
    """Announce the end of a node that trains, and kill it 10 s later."""
    node = _training_node(scene)
    scene.cluster.drain(node, seconds=10)
    time.sleep(10)
    scene.cluster.kill_node(node)
    scene.watch_recovery()


def _training_node(scene: Scene) -> Node:
    worker = scene.worker()
    return next(node for node in scene.cluster.nodes if worker in scene.cluster.pids(node))


@_fault("added", "node added", "tune", settings=_SWEEP)
def add_node(scene: Scene) -> None:
    """Start one more node."""
    scene.cluster.add_node(gpus=1)
    scene.watch_recovery()


@_fault(
    "mlflow",
    f"MLflow killed for {_OUTAGE_SECONDS:g} s",
    "train",
    moment=(0.05, 0.2),
    settings=_SLOW,
    needs=("mlflow",),
)
def kill_mlflow(scene: Scene) -> None:
    """Kill MLflow's server, and start it again half a minute later."""
    scene.services["mlflow"].kill()
    scene.watch_recovery()
    time.sleep(_OUTAGE_SECONDS)
    scene.services["mlflow"].start()


@_fault("checkpoint", "newest checkpoint truncated, driver killed", "train")
def truncate_checkpoint(scene: Scene) -> None:
    """Kill the driver, truncate the newest checkpoint to half, and start again."""
    scene.kill_driver()
    files = scene.run_folder.glob(f"**/checkpoint_*/{PROGRESS}")
    newest = max(files, key=lambda file: file.stat().st_mtime).with_name(WEIGHTS)
    os.truncate(newest, newest.stat().st_size // 2)
    scene.start_again()
    scene.watch_recovery()


@_fault("full", "storage full for 10 s", "train", needs=("disk",))
def fill_storage(scene: Scene) -> None:
    """Fill the disk of runs for ten seconds."""
    ballast = Path(scene.config.run.folder) / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            continue
    time.sleep(10)
    ballast.unlink()
    scene.watch_recovery()


@_fault("readonly", "storage of checkpoints read-only for 10 s", "train", needs=("storage",))
def lock_storage(scene: Scene) -> None:
    """Make the disk of checkpoints read-only for ten seconds."""
    remount = ["mount", "-o", "remount,ro", scene.config.run.storage]
    # fails while a file is being written
    wait_until(lambda: subprocess.run(remount, capture_output=True).returncode == 0)
    time.sleep(10)
    subprocess.run(["mount", "-o", "remount,rw", scene.config.run.storage], check=True)
    scene.watch_recovery()


@_fault("deleted", "shard deleted in an epoch", "train", settings=_STREAMED)
def delete_shard(scene: Scene) -> None:
    """Delete a shard until the driver ends, or for ten seconds."""
    _without_shard(scene, Path.unlink)


@_fault("truncated", "shard truncated in an epoch", "train", settings=_STREAMED)
def truncate_shard(scene: Scene) -> None:
    """Truncate a shard to half until the driver ends, or for ten seconds."""
    _without_shard(scene, lambda shard: os.truncate(shard, shard.stat().st_size // 2))


def _without_shard(scene: Scene, damage: Callable[[Path], None]) -> None:
    shard = sorted(Path(scene.config.data.path, "train").glob("*.parquet"))[-1]
    copy = scene.folder / "copy.parquet"
    shutil.copy(shard, copy)
    damage(shard)
    with suppress(ResourceError):
        wait_until(scene.has_ended, seconds=10.0)
    shard.unlink(missing_ok=True)
    shutil.copy(copy, shard)
    scene.watch_recovery()


@_fault(
    "head",
    f"head killed, back after {_HEAD_AWAY_SECONDS:g} s; state in Redis",
    "train",
    settings=_SLOW,
    needs=("redis",),
    rays=_WAITING_FOR_HEAD,
)
def kill_head(scene: Scene) -> None:
    """Kill all processes of the head, and start it again 8 s later."""
    scene.cluster.kill_node(scene.cluster.head)
    time.sleep(_HEAD_AWAY_SECONDS)
    scene.cluster.start_head()
    scene.watch_recovery()


@_fault(
    "redis",
    f"Redis killed, back after {_RESTART_SECONDS:g} s",
    "train",
    settings=_SLOW,
    needs=("redis",),
    rays=_WAITING_FOR_HEAD,
)
def restart_redis(scene: Scene) -> None:
    """Kill Redis, and start it again 5 s later; then the head too, if that ended it."""
    _restart(scene, "redis")
    with suppress(ResourceError):
        wait_until(lambda: not scene.cluster.head_serves(), seconds=_HEAD_AWAY_SECONDS)
    if not scene.cluster.head_serves():
        scene.cluster.kill_node(scene.cluster.head)
        scene.cluster.start_head()
    scene.watch_recovery()


@_fault(
    "postgres",
    f"Postgres killed, back after {_RESTART_SECONDS:g} s",
    "tune",
    settings=_SWEEP,
    needs=("mlflow", "postgres"),
)
def restart_postgres(scene: Scene) -> None:
    """Kill Postgres, which has MLflow's records and the study, and start it again 5 s later."""
    _restart(scene, "postgres")
    scene.watch_recovery()


def _restart(scene: Scene, service: str) -> None:
    scene.services[service].kill()
    time.sleep(_RESTART_SECONDS)
    scene.services[service].start()


@_fault("clock", "clock an hour ahead for 10 s", "tune", settings=_LONG_SWEEP, is_rude=True)
def move_clock(scene: Scene) -> None:
    """Set this machine's clock an hour ahead for ten seconds."""
    with clock_ahead(_JUMP_SECONDS):
        time.sleep(10)
    scene.watch_recovery()


def rpcs_of_ray() -> list[str]:
    """Return the names of the RPCs between Ray's processes.

    Each by its own name: Ray's wildcard `*` also delays what a process posts to itself. The
    messages of one connection then overtake each other, which no network does.
    """
    modules = (autoscaler_pb2, core_worker_pb2, gcs_service_pb2, node_manager_pb2)
    services = [
        service for module in modules for service in module.DESCRIPTOR.services_by_name.values()
    ]
    return [
        f"{each.name}.grpc_server.{method.name}" for each in services for method in each.methods
    ]


_DELAYS = {"RAY_testing_asio_delay_us": ",".join(f"{rpc}={_A_FIFTH}" for rpc in rpcs_of_ray())}
_fault("rpc", "a fifth of all RPCs delayed by 0 to 100 ms", "tune", settings=_SWEEP, rays=_DELAYS)(
    nothing
)
