"""A Ray cluster of several nodes on this machine.

Each node is real: it has its own raylet and object store. GPUs are stand-ins, the custom resource
`fake_gpu`. Nodes are fixed, or Ray's own autoscaler starts and ends them, with the node provider
that Ray uses in its tests. Everything listens on loopback, on free ports, with its files in a
temporary folder. A variable that only its own processes get marks them, so that exactly those end:
programs that use the cluster, or that were started from a shell that does, go on. Linux only.
"""

import json
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from argparse import REMAINDER, ArgumentParser
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FakeMultiNodeProvider,
)

from cluster.processes import (
    HEAD_ASKED_SECONDS,
    end_in_order,
    free_ports,
    kill_marked,
    marked,
    spawn,
    wait_until,
    without_ray,
)
from raymc.errors import ResourceError
from raymc.runtime.connect import GROWS_TO

FAKE_GPU = "fake_gpu"
_MARK, _NODE_MARK = "RAYMC_LOCAL_CLUSTER", "RAYMC_LOCAL_NODE"
_SPOT = {"ray.io/market-type": "spot"}
_STORE_BYTES = 100 << 20  # of each node; Ray needs at least 75 MiB
_RAY = Path(sys.executable).with_name("ray")
_COMMANDS = (  # Ray's loader requires these keys, although nothing is set up here
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The nodes of a cluster.

    Attributes:
        head_cpus: CPUs of the head.
        cpu_nodes: Number of fixed nodes with `node_cpus` CPUs.
        gpu_nodes: Fewest and most nodes with `node_cpus` CPUs and a stand-in GPU; Ray's
            autoscaler chooses the number in between.
        node_cpus: CPUs of each node except the head.
        idle_seconds: Time after which the autoscaler ends an idle node.
        token: Token that clients must send; if empty, everyone on this machine has access.
        spot: Whether nodes with a GPU are labelled as spot machines, on which no job's driver runs.
        apart: Whether each node sees only its own processes, as on a machine of its own; needs
            root. Otherwise Ray takes every driver for one on the head, because it looks for a
            raylet among all processes.
    """

    head_cpus: int = 2
    cpu_nodes: int = 0
    gpu_nodes: tuple[int, int] = (0, 0)
    node_cpus: int = 1
    idle_seconds: float = 15.0
    token: str = ""
    spot: bool = False
    apart: bool = False

    @property
    def grows(self) -> bool:
        """Whether the autoscaler starts and ends nodes."""
        return self.gpu_nodes[0] < self.gpu_nodes[1]


@dataclass(frozen=True)
class Node:
    """A node: Ray's id for it, and the value that marks its processes."""

    id: str
    mark: str


@dataclass
class LocalCluster:
    """A cluster that runs as long as its `with` block.

    Attributes:
        shape: Its nodes.
        extra: Added to the environment of all its processes, such as Ray's own switches.
        of_head: Added to the environment of the head's processes.
        nodes: Fixed nodes that are up, without the head.
    """

    shape: Shape
    extra: Mapping[str, str] = field(default_factory=dict)
    of_head: Mapping[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)

    def __enter__(self) -> "LocalCluster":
        """Start the head, then the fixed nodes.

        Raises:
            ResourceError: a node does not start.
        """
        self._mark = secrets.token_hex(8)
        self._folder = TemporaryDirectory(prefix="ray-")  # Ray's sockets need a short path
        self.folder = Path(self._folder.name)
        self._ports = free_ports(4)
        self.address = f"127.0.0.1:{self._ports[0]}"
        self.dashboard = f"http://127.0.0.1:{self._ports[1]}"
        self.head = replace(self._new_node(), id=FAKE_HEAD_NODE_ID)
        try:
            self.start_head()
            gpu_nodes = 0 if self.shape.grows else self.shape.gpu_nodes[0]
            for gpus in [0] * self.shape.cpu_nodes + [1] * gpu_nodes:
                self.add_node(gpus=gpus)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End every process of the cluster, and remove its folder."""
        kill_marked(_MARK, self._mark)
        self.nodes.clear()
        wait_until(self._is_removed)  # a killed process may finish a write first
        self._folder.cleanup()

    def _is_removed(self) -> bool:
        shutil.rmtree(self.folder, ignore_errors=True)
        return not self.folder.exists()

    @property
    def mark(self) -> dict[str, str]:
        """What marks a process as the cluster's own, so that it ends with the cluster."""
        return {_MARK: self._mark}

    @property
    def environment(self) -> dict[str, str]:
        """What a driver needs in its environment, besides ours."""
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.shape.token}
        return {
            **(token if self.shape.token else {"RAY_AUTH_MODE": "disabled"}),
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": self.dashboard,
            "RAY_TMPDIR": str(self.folder),
            "RAYMC_SHARED_FOLDER": "/",  # all nodes are this machine
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # makes Ray listen on 127.0.0.1, on Linux too
            **({GROWS_TO: self._limits()} if self.shape.grows else {}),
            **self.extra,
        }

    def start_head(self) -> None:
        """Start the head, also after it was killed.

        Raises:
            ResourceError: it does not start.
        """
        if not self.shape.grows:  # a dead node cannot join again under the same id
            self.head = self._new_node()
        gcs, dashboard, agent, client = self._ports
        command = [_RAY, "start", "--head", "--port", gcs, "--dashboard-port", dashboard]
        command += ["--dashboard-agent-listen-port", agent, "--ray-client-server-port", client]
        command += ["--min-worker-port", "0", "--max-worker-port", "0"]  # free ones
        command += ["--temp-dir", str(self.folder), "--num-cpus", str(self.shape.head_cpus)]
        command += ["--object-store-memory", str(_STORE_BYTES)]
        more, given = self._autoscaling() if self.shape.grows else ([], {})
        self.head = self._start(self.head, [*command, *more], {**self.of_head, **given})

    def add_node(self, *, gpus: int = 0, labels: Mapping[str, str] | None = None) -> Node:
        """Start one more node and wait until it has joined.

        Args:
            gpus: Its stand-in GPUs.
            labels: Its labels, besides that of a spot machine.

        Raises:
            ResourceError: it does not start.
        """
        node = self._new_node()
        given = {
            "gcs_address": self.address,
            "redis_address": self.address,
            "num_cpus": self.shape.node_cpus,
            "num_gpus": 0,
            "object_store_memory": _STORE_BYTES,
            "resources": {FAKE_GPU: gpus} if gpus else {},
            "labels": {**(_SPOT if gpus and self.shape.spot else {}), **(labels or {})},
            "include_log_monitor": False,
            # a node deletes the job files it no longer needs; in a shared folder others still do
            "runtime_env_dir_name": f"runtime_resources-{node.mark}",
        }
        starter = [sys.executable, "-m", "cluster.local_node", json.dumps(given)]
        apart = ["unshare", "--pid", "--fork", "--mount-proc"] if self.shape.apart else []
        node = self._start(node, [*apart, *starter])
        self.nodes.append(node)
        return node

    def kill_node(self, node: Node) -> None:
        """Kill all processes of a node at once, as when a machine dies."""
        kill_marked(_NODE_MARK, node.mark)
        if node in self.nodes:
            self.nodes.remove(node)

    def drain(self, node: Node, *, seconds: int = 15) -> None:
        """Announce to Ray that a node will be taken away, as a spot market does; it stays up."""
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        when = ["--deadline-remaining-seconds", str(seconds)]
        which = ["--address", self.address, "--node-id", node.id]
        self.run([_RAY, "drain-node", *which, *reason, *when], check=True)

    def run(self, command: Sequence[str | Path], **given: Any) -> subprocess.CompletedProcess[str]:
        """Run a command as a driver of the cluster, and wait until it ends."""
        return subprocess.run(
            list(map(str, command)), env={**without_ray(), **self.environment}, text=True, **given
        )

    def alive(self) -> list[dict[str, Any]]:
        """Return the nodes that Ray considers alive, as its state API describes them."""
        request = urllib.request.Request(f"{self.dashboard}/api/v0/nodes?detail=1&limit=1000")
        if self.shape.token:
            request.add_header("Authorization", f"Bearer {self.shape.token}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            found = json.load(answer)["data"]["result"]["result"]
        return [node for node in found if node["state"] == "ALIVE"]

    def head_serves(self) -> bool:
        """Whether the process that holds the cluster's state is running."""
        return any("gcs_server" in name for name in self.pids(self.head).values())

    def gpu_nodes_alive(self) -> int:
        """Return the number of live nodes with stand-in GPUs."""
        return sum(FAKE_GPU in (node["resources_total"] or {}) for node in self.alive())

    def pids(self, node: Node) -> dict[int, str]:
        """Return the processes of a node: id to command line."""
        return marked(_NODE_MARK, node.mark)

    def processes(self) -> dict[int, str]:
        """Return the processes of all nodes, and others with its mark: id to command line."""
        return marked(_MARK, self._mark)

    def _new_node(self) -> Node:
        return Node(secrets.token_hex(28), secrets.token_hex(8))

    def _limits(self) -> str:
        shape = self.shape
        cpus = shape.head_cpus + (shape.cpu_nodes + shape.gpu_nodes[1]) * shape.node_cpus
        return f"CPU={cpus},{FAKE_GPU}={shape.gpu_nodes[1]}"

    def _start(
        self, node: Node, command: Sequence[str | Path], given: Mapping[str, str] | None = None
    ) -> Node:
        """Run a command that starts a node and leaves it running; return the node."""
        log = self.folder / f"{node.mark}.log"
        for is_last in (False, False, True):
            own = {**self.mark, _NODE_MARK: node.mark, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node.id}
            environment = {**without_ray(), **self.environment, **own, **(given or {})}
            del environment["RAY_ADDRESS"]
            if node.mark == self.head.mark:  # `ray start` refuses where another head was
                (self.folder / "ray_current_cluster").unlink(missing_ok=True)
            process = spawn(command, log, env=environment)
            try:
                wait_until(
                    lambda id=node.id: self._has_joined(id),
                    process,
                    log=log,
                    every=HEAD_ASKED_SECONDS,
                )
                return node
            except ResourceError:  # a busy machine may need more than the 30 s that Ray allows
                if is_last:
                    raise
                kill_marked(_NODE_MARK, node.mark)
                node = node if self.shape.grows else replace(node, id=self._new_node().id)
        raise AssertionError

    def _has_joined(self, id: str) -> bool:
        try:
            return id in {each["node_id"] for each in self.alive()}
        except (OSError, KeyError, TypeError, ValueError):
            return False

    def _autoscaling(self) -> tuple[list[str], dict[str, str]]:
        """Return the arguments and environment that make the head start nodes."""
        shape = self.shape
        resources = {"CPU": shape.node_cpus, FAKE_GPU: 1, "object_store_memory": _STORE_BYTES}
        definition = {
            "cluster_name": "local",
            "max_workers": shape.gpu_nodes[1],
            "idle_timeout_minutes": shape.idle_seconds / 60,
            "provider": {
                "type": "external",
                "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
                "gcs_address": self.address,
                "head_node_id": self.head.id,
                "launch_multiple": True,
                "disable_node_updaters": True,
            },
            "auth": {},
            **{name: [] for name in _COMMANDS},
            "head_node_type": "ray.head.default",
            "available_node_types": {
                "ray.head.default": {
                    "resources": {"CPU": shape.head_cpus},
                    "node_config": {},
                    "max_workers": 0,
                },
                "gpu": {
                    "resources": resources,
                    "node_config": {},
                    "min_workers": shape.gpu_nodes[0],
                    "max_workers": shape.gpu_nodes[1],
                },
            },
        }
        file = self.folder / "autoscaling.json"
        file.write_text(json.dumps(definition))
        return ["--autoscaling-config", str(file)], {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": self.head.id,
        }


def node_range(text: str) -> tuple[int, int]:
    """Return the fewest and most nodes of `N` or `FEWEST:MOST`."""
    fewest, _, most = text.partition(":")
    return int(fewest), int(most or fewest)


def make_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = ArgumentParser(
        usage="python -m cluster.local [OPTIONS] [-- COMMAND ...]",
        description="Run COMMAND on a Ray cluster of several nodes on this machine, and end the "
        "cluster afterwards. Without a COMMAND, print how to join the cluster and keep it until "
        "Ctrl-C.",
    )
    add = parser.add_argument
    add("--head-cpus", type=int, default=2, help="CPUs of the head (default: 2)")
    add("--cpu-nodes", type=int, default=0, help="nodes without a GPU (default: 0)")
    add(
        "--gpu-nodes",
        type=node_range,
        default=(0, 0),
        metavar="N or FEWEST:MOST",
        help=f"nodes with a stand-in GPU, the resource {FAKE_GPU}; for a range such as 0:2, Ray's "
        "autoscaler starts and ends them on demand (default: 0)",
    )
    add("--node-cpus", type=int, default=1, help="CPUs of each other node (default: 1)")
    add(
        "--idle-seconds",
        type=float,
        default=15.0,
        help="time after which the autoscaler ends an idle node (default: 15)",
    )
    add("--token", action="store_true", help="require a token to join")
    add("command", nargs=REMAINDER, metavar="-- COMMAND", help="what to run on the cluster")
    return parser


def main() -> int:
    """Start a cluster, run the command on it, end the cluster; return the command's exit code."""
    given = vars(make_parser().parse_args())
    command = given.pop("command")
    command = command[1:] if command[:1] == ["--"] else command
    given["token"] = secrets.token_hex(32) if given["token"] else ""
    end_in_order()
    with LocalCluster(Shape(**given)) as cluster, suppress(KeyboardInterrupt):
        if command:
            return cluster.run(command).returncode
        for name, value in cluster.environment.items():
            print(f"export {name}={shlex.quote(value)}")
        print("# Ctrl-C ends the cluster.", flush=True)
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
