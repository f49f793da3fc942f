"""What can go wrong with a run or a sweep, done to one on a local cluster."""

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

from cluster.chaos.processes import wait_until
from cluster.chaos.scene import Scene
from cluster.chaos.services import clock_ahead
from raymc.errors import ResourceError
from raymc.training.bundle import WEIGHTS
from raymc.training.checkpoint import PROGRESS

_OUTAGE_SECONDS, _HEAD_AWAY_SECONDS, _RESTART_SECONDS = 30.0, 8.0, 5.0
_JUMP_SECONDS = 3600.0
Need = Literal["disk", "storage", "mlflow", "redis", "postgres"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: For the command line.
        title: For the table.
        command: What it is done to, `train` or `tune`.
        happen: Does it, at a random moment, and waits for the next epoch.
        settings: Of the configuration, by section.
        times: How often it is done by default, each to a new run.
        needs: What it leans on: the runs' folder, or the storage of their checkpoints, is a small
            disk of its own; MLflow is a server; the head keeps its state in Redis, so that it may
            be lost, and the driver is a job on another node; MLflow and the study keep theirs in
            Postgres.
        is_rude: Whether it happens to everything on this machine, and so is done only if named.
        rays: Ray's own switches, of all its processes.
    """

    name: str
    title: str
    command: Literal["train", "tune"]
    happen: Callable[[Scene], None]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    times: int = 1
    needs: tuple[Need, ...] = ()
    is_rude: bool = False
    rays: Mapping[str, str] = field(default_factory=dict)

    @property
    def wants_root(self) -> bool:
        """Say whether only root can do it: mount a disk, keep nodes apart, set the clock."""
        return self.is_rude or bool({"disk", "storage", "redis"} & set(self.needs))


def kill_worker(scene: Scene) -> None:
    """End a process that trains."""
    scene.wait_for_moment()
    os.kill(scene.random.choice(scene.workers()), signal.SIGKILL)
    scene.watch_recovery()


def kill_driver(scene: Scene) -> None:
    """End the driver."""
    scene.wait_for_moment()
    scene.kill_driver()
    scene.submit()
    scene.watch_recovery()


def kill_node(scene: Scene) -> None:
    """End the node on which something trains, all its processes at once."""
    scene.wait_for_moment()
    worker = scene.random.choice(scene.workers())
    node = next(node for node in scene.cluster.nodes if worker in scene.cluster.pids(node))
    scene.cluster.kill_node(node)
    scene.watch_recovery()


def drain_node(scene: Scene) -> None:
    """Announce the end of a node on which something trains, and end it 10 s later."""
    scene.wait_for_moment()
    worker = scene.random.choice(scene.workers())
    node = next(node for node in scene.cluster.nodes if worker in scene.cluster.pids(node))
    scene.cluster.drain(node, seconds=10)
    time.sleep(10)
    scene.cluster.kill_node(node)
    scene.watch_recovery()


def add_node(scene: Scene) -> None:
    """Start one more node."""
    scene.wait_for_moment()
    scene.cluster.add_node(gpus=1)
    scene.watch_recovery()


def kill_head(scene: Scene) -> None:
    """End all processes of the head, and start it again 8 s later."""
    scene.wait_for_moment()
    scene.cluster.kill_node(scene.cluster.head)
    time.sleep(_HEAD_AWAY_SECONDS)
    scene.cluster.start_head()
    scene.watch_recovery()


def kill_mlflow(scene: Scene) -> None:
    """End MLflow's server, and start it again half a minute later."""
    scene.wait_for_moment((0.05, 0.2))
    scene.services["mlflow"].kill()
    scene.watch_recovery()
    time.sleep(_OUTAGE_SECONDS)
    scene.services["mlflow"].start()


def restart_postgres(scene: Scene) -> None:
    """End Postgres, with MLflow's records and the study, and start it again 5 s later."""
    scene.wait_for_moment()
    scene.services["postgres"].kill()
    time.sleep(_RESTART_SECONDS)
    scene.services["postgres"].start()
    scene.watch_recovery()


def restart_redis(scene: Scene) -> None:
    """End Redis, and start it again 5 s later, and the head if it has not outlived that."""
    scene.wait_for_moment()
    scene.services["redis"].kill()
    time.sleep(_RESTART_SECONDS)
    scene.services["redis"].start()
    with suppress(ResourceError):
        wait_until(lambda: not scene.cluster.head_serves(), seconds=_HEAD_AWAY_SECONDS)
    if not scene.cluster.head_serves():
        scene.cluster.kill_node(scene.cluster.head)
        scene.cluster.start_head()
    scene.watch_recovery()


def move_clock(scene: Scene) -> None:
    """Put this machine's clock an hour ahead for ten seconds."""
    scene.wait_for_moment()
    with clock_ahead(_JUMP_SECONDS):
        time.sleep(10)
    scene.watch_recovery()


def truncate_checkpoint(scene: Scene) -> None:
    """End the driver, cut the newest checkpoint in half, and submit again."""
    scene.wait_for_moment()
    scene.kill_driver()
    files = scene.run_folder.glob(f"**/checkpoint_*/{PROGRESS}")
    newest = max(files, key=lambda file: file.stat().st_mtime).with_name(WEIGHTS)
    os.truncate(newest, newest.stat().st_size // 2)
    scene.submit()
    scene.watch_recovery()


def fill_storage(scene: Scene) -> None:
    """Fill the disk of runs for ten seconds."""
    scene.wait_for_moment()
    ballast = Path(scene.config.run.folder) / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                continue
        except OSError:
            pass
    time.sleep(10)
    ballast.unlink()
    scene.watch_recovery()


def lock_storage(scene: Scene) -> None:
    """Make the disk of checkpoints read-only for ten seconds."""
    scene.wait_for_moment()
    remount = ["mount", "-o", "remount,ro", scene.config.run.storage]
    # busy while a file is written
    wait_until(lambda: subprocess.run(remount, capture_output=True).returncode == 0)
    time.sleep(10)
    subprocess.run(["mount", "-o", "remount,rw", scene.config.run.storage], check=True)
    scene.watch_recovery()


def delete_shard(scene: Scene) -> None:
    """Take a shard away until the driver ends, or for ten seconds."""
    _without_shard(scene, lambda shard: shard.unlink())


def truncate_shard(scene: Scene) -> None:
    """Cut a shard in half until the driver ends, or for ten seconds."""
    _without_shard(scene, lambda shard: os.truncate(shard, shard.stat().st_size // 2))


def nothing(scene: Scene) -> None:
    """Let it be."""


def rpcs_of_ray() -> list[str]:
    """Return the names under which Ray's processes serve each other's RPCs.

    Named one by one: Ray's `*` also delays what a process posts to itself, and the messages of one
    connection then overtake each other, which no network does to them.
    """
    services = [
        service
        for module in (autoscaler_pb2, core_worker_pb2, gcs_service_pb2, node_manager_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    ]
    return [
        f"{service.name}.grpc_server.{method.name}"
        for service in services
        for method in service.methods
    ]


def _without_shard(scene: Scene, damage: Callable[[Path], None]) -> None:
    scene.wait_for_moment()
    shard = sorted(Path(scene.config.data.path, "train").glob("*.parquet"))[-1]
    copy = scene.folder / "copy.parquet"
    shutil.copy(shard, copy)
    damage(shard)
    with suppress(ResourceError):
        wait_until(scene.has_ended, seconds=10.0)
    shard.unlink(missing_ok=True)
    shutil.copy(copy, shard)
    scene.watch_recovery()


_WAITING_FOR_HEAD = {"RAY_gcs_rpc_server_reconnect_timeout_s": "180"}
_A_FIFTH = "-400000:100000"  # microseconds, of which a negative number is no delay
_SWEEP = {"train": {"epochs": 6}}
_LONG_SWEEP = {"train": {"epochs": 24}}
_SLOW = {"train": {"epochs": 80}}
# patient enough for ten seconds, however soon an attempt meets the damage
_STREAMED = {"data": {"cache": "off"}, "train": {"epochs": 8, "max_failures": 20}}
FAULTS = (
    Fault(name="none", title="none", command="tune", happen=nothing, settings=_SWEEP),
    Fault(name="worker", title="training worker killed", command="train", happen=kill_worker),
    Fault(
        name="trial",
        title="a trial's process killed",
        command="tune",
        happen=kill_worker,
        settings=_SWEEP,
    ),
    Fault(
        name="driver",
        title="driver of a sweep killed",
        command="tune",
        happen=kill_driver,
        settings=_SWEEP,
        times=5,
    ),
    Fault(
        name="node", title="worker node killed", command="tune", happen=kill_node, settings=_SWEEP
    ),
    Fault(name="drain", title="node drained, then killed", command="train", happen=drain_node),
    Fault(name="added", title="node added", command="tune", happen=add_node, settings=_SWEEP),
    Fault(
        name="mlflow",
        title=f"MLflow killed for {_OUTAGE_SECONDS:g} s",
        command="train",
        happen=kill_mlflow,
        settings=_SLOW,
        needs=("mlflow",),
    ),
    Fault(
        name="checkpoint",
        title="newest checkpoint truncated, driver killed",
        command="train",
        happen=truncate_checkpoint,
    ),
    Fault(
        name="full",
        title="storage full for 10 s",
        command="train",
        happen=fill_storage,
        needs=("disk",),
    ),
    Fault(
        name="readonly",
        title="storage of checkpoints read-only for 10 s",
        command="train",
        happen=lock_storage,
        needs=("storage",),
    ),
    Fault(
        name="deleted",
        title="shard deleted in an epoch",
        command="train",
        happen=delete_shard,
        settings=_STREAMED,
    ),
    Fault(
        name="truncated",
        title="shard truncated in an epoch",
        command="train",
        happen=truncate_shard,
        settings=_STREAMED,
    ),
    Fault(
        name="head",
        title=f"head killed, back after {_HEAD_AWAY_SECONDS:g} s; state in Redis",
        command="train",
        happen=kill_head,
        settings=_SLOW,
        needs=("redis",),
        rays=_WAITING_FOR_HEAD,
    ),
    Fault(
        name="redis",
        title=f"Redis killed, back after {_RESTART_SECONDS:g} s",
        command="train",
        happen=restart_redis,
        settings=_SLOW,
        needs=("redis",),
        rays=_WAITING_FOR_HEAD,
    ),
    Fault(
        name="postgres",
        title=f"Postgres killed, back after {_RESTART_SECONDS:g} s",
        command="tune",
        happen=restart_postgres,
        settings=_SWEEP,
        needs=("mlflow", "postgres"),
    ),
    Fault(
        name="clock",
        title="clock an hour ahead for 10 s",
        command="tune",
        happen=move_clock,
        settings=_LONG_SWEEP,
        is_rude=True,
    ),
    Fault(
        name="rpc",
        title="a fifth of all RPCs delayed by 0 to 100 ms",
        command="tune",
        happen=nothing,
        settings=_SWEEP,
        rays={"RAY_testing_asio_delay_us": ",".join(f"{rpc}={_A_FIFTH}" for rpc in rpcs_of_ray())},
    ),
)
