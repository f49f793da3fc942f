"""A program of test_elastic.py: a run on a cluster whose second node comes, is drained and goes.

It has the node's process to itself, because Ray's clusters on one machine start from the main
thread. Prints what happened as JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

from drivers import kill, running, wait_until
from heads import free_ports

folder, config = Path(sys.argv[1]), sys.argv[2]
gcs, dashboard = free_ports(2)
address = f"127.0.0.1:{gcs}"
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}

from ray._raylet import GcsClient  # noqa: E402  # pyright: ignore[reportAttributeAccessIssue]
from ray.cluster_utils import Cluster  # noqa: E402
from ray.core.generated import autoscaler_pb2  # noqa: E402

from raymc.training.audit import Attempt, load_attempts  # noqa: E402
from raymc.training.checkpoint import FOLDER_PREFIX, PROGRESS  # noqa: E402

RUN = folder / "runs" / "elastic"
SIZE = 100 << 20


def last() -> Attempt | None:
    """The latest start of the run."""
    return next(iter(load_attempts(RUN)[::-1]), None)


def trains_on(workers: int) -> bool:
    """Say whether so many workers have taken some steps."""
    now = last()
    return now is not None and now.workers == workers and now.last_step >= now.first_step + 20


def positions() -> set[tuple[int, int]]:
    """Where the checkpoints are that there are now."""
    found = set()
    for path in RUN.glob(f"{FOLDER_PREFIX}*/{PROGRESS}"):
        try:
            progress = json.loads(path.read_text())
            found.add((progress["epoch"], progress["part"]["steps"]))
        except (OSError, ValueError):
            continue
    return found


def drain(node_id: str, seconds: int) -> float:
    """Tell Ray that a node is to go; returns the seconds until a checkpoint out of turn is there.

    Checkpoints of this run are at the ends of epochs; so any other was asked for.
    """
    reason = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION  # pyright: ignore
    deadline = round(1000 * (time.time() + seconds))
    # as `ray drain-node`, which takes seconds to start
    is_accepted, why = GcsClient(address=address).drain_node(node_id, reason, "spot", deadline)
    assert is_accepted, why
    told = time.monotonic()
    wait_until(lambda: any(steps for _, steps in positions()), driver, every=0.2)
    return time.monotonic() - told


cluster = Cluster(
    initialize_head=True,
    head_node_args={
        "num_cpus": 1,
        "gcs_server_port": int(gcs),
        "dashboard_port": int(dashboard),
        "include_dashboard": True,
        "object_store_memory": SIZE,
    },
)
environment = {name: x for name, x in os.environ.items() if name.startswith("RAY_")}
environment["RAY_ADDRESS"] = address
command = (sys.executable, Path(__file__).with_name("slow_steps.py"), "train", config)
try:
    with running(*command, log=folder / "log", environment=environment) as driver:
        wait_until(lambda: trains_on(1), driver, every=0.2)
        node = cluster.add_node(num_cpus=1, object_store_memory=SIZE)
        wait_until(lambda: trains_on(2), driver, every=0.2)
        seconds = drain(node.node_id, 10)
        time.sleep(max(0.0, 10 - seconds))  # Ray counts what dies before as a failure
        cluster.remove_node(node, allow_graceful=False)
        wait_until(lambda: trains_on(1), driver, every=0.2)
        kill(driver)
finally:
    cluster.shutdown()
print(json.dumps({"seconds": seconds}))
