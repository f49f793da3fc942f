"""What a sweep pays for on a cluster that starts and ends nodes: GPU-hours used and needed.

The cluster is real, on this machine (`cluster/local.py`): Ray's own autoscaler starts and ends
nodes with one stand-in GPU each. Trials wait instead of training, with ASHA, several to a GPU.
Needed is the time in which trials trained; used is the time in which nodes were up, as a cloud
would bill it, from their start until the autoscaler has ended the last.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from cluster.local import LocalCluster, Shape
from cluster.processes import spawn, without_ray
from jobs.bench.measure import Columns, Measurement, publish, shown, table
from raymc.errors import ResourceError

WAYS = ("raymc", "tune")
_TITLES = {"raymc": "raymc tune", "tune": "Tune alone, its own defaults"}
_ROOT = Path(__file__).parents[2]
_SAMPLE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """The sweep, the cluster and the price."""

    trials: int = Field(default=32, ge=1, description="Trials of the sweep.")
    nodes: int = Field(default=4, ge=1, description="Most nodes, each with one GPU.")
    share: float = Field(default=0.5, gt=0, le=1, description="GPUs of each trial.")
    epochs: int = Field(default=24, ge=1, description="Epochs of a trial that ASHA does not stop.")
    epoch_seconds: float = Field(default=10.0, gt=0, description="Time of an epoch.")
    idle_seconds: float = Field(default=15.0, gt=0, description="Time after which a node ends.")
    price: float = Field(default=1.0, gt=0, description="Price of a GPU's hour.")
    ways: tuple[str, ...] = Field(default=WAYS, description="raymc, tune.")


def bench_autoscale(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Run the sweep in each way on a new cluster, and count the hours of its nodes."""
    found = [measured(way, settings) for way in settings.ways]
    text = (
        f"{settings.trials} trials of up to {settings.epochs} epochs of "
        f"{settings.epoch_seconds:g} s with ASHA, {settings.share:g} GPU each, on 0 to "
        f"{settings.nodes} nodes of one GPU that end after {settings.idle_seconds:g} idle seconds. "
        f"A GPU's hour costs {settings.price:g}.\n\n{table(COLUMNS, found)}"
    )
    publish("Autoscaling", text, found, console, out)


def measured(way: str, settings: Settings) -> Measurement:
    """Run a sweep from no node to none again.

    Raises:
        ResourceError: The sweep failed.
    """
    shape = Shape(
        gpu_nodes=(0, settings.nodes),
        node_cpus=max(1, round(1 / settings.share)),
        idle_seconds=settings.idle_seconds,
    )
    used = wall = 0.0
    nodes: list[int] = []
    with (
        TemporaryDirectory() as folder,
        LocalCluster(shape, {"PYTHONPATH": str(_ROOT)}) as cluster,
    ):
        given = json.dumps(asdict(settings))
        command = [sys.executable, "-m", "jobs.bench.autoscale_driver", way, folder, given]
        log = Path(folder, "driver.log")
        driver = spawn(command, log, env={**without_ray(), **cluster.environment}, cwd=_ROOT)
        began = before = time.monotonic()
        try:
            while driver.poll() is None or nodes[-1:] != [0]:
                time.sleep(_SAMPLE_SECONDS)
                nodes.append(cluster.gpu_nodes_alive())
                now = time.monotonic()
                used, before = used + nodes[-1] * (now - before), now
                if driver.poll() is None:
                    wall = now - began
        finally:
            driver.kill()
        if driver.wait():
            raise ResourceError(f"the sweep failed: {log.read_text().strip().splitlines()[-1]}")
        epochs = len(Path(folder, "epochs").read_text().splitlines())
    needed = epochs * settings.epoch_seconds * settings.share
    measurement = Measurement(_TITLES[way], case=asdict(settings))
    measurement.add(
        needed=needed / 3600,
        used=used / 3600,
        cost=settings.price * used / 3600,
        seconds=wall,
        nodes=max(nodes),
    )
    return measurement


COLUMNS: Columns = {
    "": lambda m: m.name,
    "GPU-hours needed": lambda m: shown("{:.3f}", m.median("needed")),
    "used": lambda m: shown("{:.3f}", m.median("used")),
    "needed ÷ used": lambda m: shown("{:.2f}", m.median("needed") / m.median("used")),
    "cost": lambda m: shown("{:.3f}", m.median("cost")),
    "cost of what was needed": lambda m: shown("{:.3f}", m.case["price"] * m.median("needed")),
    "most nodes": lambda m: shown("{:.0f}", m.median("nodes")),
    "seconds": lambda m: shown("{:.0f}", m.median("seconds")),
}
