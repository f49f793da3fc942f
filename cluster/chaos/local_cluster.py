"""A Ray cluster of several nodes on this machine: to try things, and to break them.

Every node is a real one, with a raylet and an object store of its own. A GPU is a custom resource,
`fake_gpu`, since there may be none. Nodes are fixed, or started and ended by Ray's own
autoscaler on the provider that Ray tests it with. All listens on loopback, on free ports, below
a temporary folder; what is ended is what was started, told by a mark in its environment. Linux.
"""

import json
import secrets
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from cluster.chaos.processes import free_ports, kill_marked, marked, title, wait_until, without_ray
from raymc.runtime.connect import GROWS_TO

FAKE_GPU = "fake_gpu"
_MARK, _NODE_MARK = "RAYMC_LOCAL_CLUSTER", "RAYMC_LOCAL_NODE"
_STORE_BYTES = 100 << 20  # of each node; Ray wants 75 MiB at least
_RAY = Path(sys.executable).with_name("ray")
_COMMANDS = (  # that Ray's loader wants named, though nothing is set up here
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
    """What a cluster is made of.

    Attributes:
        head_cpus: CPUs of the head.
        cpu_nodes: Fixed nodes of `node_cpus` CPUs.
        gpu_nodes: Fewest and most nodes of `node_cpus` CPUs and a stand-in GPU; between them
            Ray's autoscaler decides.
        node_cpus: CPUs of each node but the head.
        idle_seconds: After which the autoscaler ends a node that does nothing.
        token: What everyone must know to be let in; empty: everyone on this machine is.
        apart: Whether each node sees its own processes alone, as machines do; needs root. Else a
            driver that runs on some node belongs to the head for Ray, which looks for a raylet
            among all processes.
    """

    head_cpus: int = 2
    cpu_nodes: int = 0
    gpu_nodes: tuple[int, int] = (0, 0)
    node_cpus: int = 1
    idle_seconds: float = 15.0
    token: str = ""
    apart: bool = False

    @property
    def grows(self) -> bool:
        """Say whether nodes come and go."""
        return self.gpu_nodes[0] < self.gpu_nodes[1]


@dataclass(frozen=True)
class Node:
    """A node that was started here: Ray's id of it, and what marks its processes."""

    id: str
    mark: str


@dataclass
class LocalCluster:
    """A cluster that lasts as long as its `with` block.

    Attributes:
        shape: What it is made of.
        extra: Added to the environment of all its processes, such as Ray's own switches.
        of_head: Added to the environment of the head's.
        nodes: Fixed nodes that are up, without the head.
    """

    shape: Shape
    extra: Mapping[str, str] = field(default_factory=dict)
    of_head: Mapping[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)

    def __enter__(self) -> "LocalCluster":
        """Start the head, then the fixed nodes.

        Raises:
            ResourceError: one doesn't start.
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
            for _ in range(self.shape.cpu_nodes):
                self.add_node()
            for _ in range(0 if self.shape.grows else self.shape.gpu_nodes[0]):
                self.add_node(gpus=1)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End every process that was started here or by what was, and remove the folder."""
        kill_marked(_MARK, self._mark)
        wait_until(self._is_removed)  # what was killed may finish a write first
        self._folder.cleanup()

    def _is_removed(self) -> bool:
        shutil.rmtree(self.folder, ignore_errors=True)
        return not self.folder.exists()

    @property
    def environment(self) -> dict[str, str]:
        """What a driver needs in its environment, besides our own."""
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.shape.token}
        return {
            **(token if self.shape.token else {"RAY_AUTH_MODE": "disabled"}),
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": self.dashboard,
            "RAY_TMPDIR": str(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # has Ray listen on 127.0.0.1, on Linux too
            _MARK: self._mark,
            **({GROWS_TO: self._limits()} if self.shape.grows else {}),
            **self.extra,
        }

    def start_head(self) -> None:
        """Start the head; again, if it was killed.

        Raises:
            ResourceError: it doesn't start.
        """
        (self.folder / "ray_current_cluster").unlink(missing_ok=True)
        if not self.shape.grows:  # a node that died can't join again under its id
            self.head = self._new_node()
        gcs, dashboard, agent, client = self._ports
        command = [_RAY, "start", "--head", "--port", gcs, "--dashboard-port", dashboard]
        command += ["--dashboard-agent-listen-port", agent, "--ray-client-server-port", client]
        command += ["--min-worker-port", "0", "--max-worker-port", "0"]  # free ones
        command += ["--temp-dir", str(self.folder), "--num-cpus", str(self.shape.head_cpus)]
        command += ["--object-store-memory", str(_STORE_BYTES)]
        more, given = self._autoscaling() if self.shape.grows else ([], {})
        self._start(self.head, [*command, *more], {**self.of_head, **given})

    def add_node(
        self, *, gpus: int = 0, labels: Mapping[str, str] | None = None, wait: bool = True
    ) -> Node:
        """Start one more node.

        Args:
            gpus: Its stand-in GPUs.
            labels: Its own, such as ray.io/market-type.
            wait: Until it has joined.

        Raises:
            ResourceError: it doesn't start.
        """
        node = self._new_node()
        given = {
            "gcs_address": self.address,
            "redis_address": self.address,
            "num_cpus": self.shape.node_cpus,
            "num_gpus": 0,
            "object_store_memory": _STORE_BYTES,
            "resources": {FAKE_GPU: gpus} if gpus else {},
            "labels": dict(labels or {}),
            "include_log_monitor": False,
            # each node deletes files of jobs that it doesn't need, and others would miss them
            "runtime_env_dir_name": f"runtime_resources-{node.mark}",
        }
        starter = [sys.executable, "-m", "cluster.chaos.local_node", json.dumps(given)]
        apart = ["unshare", "--pid", "--fork", "--mount-proc"] if self.shape.apart else []
        self._start(node, [*apart, *starter], wait=wait)
        self.nodes.append(node)
        return node

    def kill_node(self, node: Node) -> None:
        """End a node and all its processes at once, as a machine that dies does."""
        kill_marked(_NODE_MARK, node.mark)
        if node in self.nodes:
            self.nodes.remove(node)

    def drain(self, node: Node, *, seconds: int = 15) -> None:
        """Tell Ray that a node will be taken away, as a spot market does; it isn't taken yet."""
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        when = ["--deadline-remaining-seconds", str(seconds)]
        which = ["--address", self.address, "--node-id", node.id]
        self.run([_RAY, "drain-node", *which, *reason, *when], check=True)

    def run(self, command: Sequence[str | Path], **given: Any) -> subprocess.CompletedProcess[str]:
        """Run a command as a driver of the cluster, and wait for its end."""
        return subprocess.run(
            list(map(str, command)), env={**without_ray(), **self.environment}, text=True, **given
        )

    def alive(self) -> list[dict[str, Any]]:
        """Return the nodes that Ray holds for alive, as its state API describes them."""
        request = urllib.request.Request(f"{self.dashboard}/api/v0/nodes?detail=1&limit=1000")
        if self.shape.token:
            request.add_header("Authorization", f"Bearer {self.shape.token}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            found = json.load(answer)["data"]["result"]["result"]
        return [node for node in found if node["state"] == "ALIVE"]

    def head_serves(self) -> bool:
        """Say whether the process that holds the cluster's state lives; it may end by itself."""
        return any("gcs_server" in name for name in self.pids(self.head).values())

    def gpu_nodes_alive(self) -> int:
        """Return how many nodes with stand-in GPUs are alive."""
        return sum(FAKE_GPU in (node["resources_total"] or {}) for node in self.alive())

    def pids(self, node: Node) -> dict[int, str]:
        """Return the processes of a node, with how each calls itself."""
        return {pid: title(pid) for pid in marked(_NODE_MARK, node.mark)}

    def _new_node(self) -> Node:
        return Node(secrets.token_hex(28), secrets.token_hex(8))

    def _limits(self) -> str:
        shape = self.shape
        cpus = shape.head_cpus + (shape.cpu_nodes + shape.gpu_nodes[1]) * shape.node_cpus
        return f"CPU={cpus},{FAKE_GPU}={shape.gpu_nodes[1]}"

    def _start(
        self,
        node: Node,
        command: Sequence[str | Path],
        given: Mapping[str, str] | None = None,
        *,
        wait: bool = True,
    ) -> None:
        """Run what starts a node and leaves it behind."""
        own = {_NODE_MARK: node.mark, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node.id}
        environment = {**without_ray(), **self.environment, **own, **(given or {})}
        del environment["RAY_ADDRESS"]
        log = self.folder / f"{node.mark}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        if wait:
            wait_until(lambda: self._has_joined(node), process, log=log)

    def _has_joined(self, node: Node) -> bool:
        try:
            return node.id in {each["node_id"] for each in self.alive()}
        except (OSError, KeyError, TypeError, ValueError):
            return False

    def _autoscaling(self) -> tuple[list[str], dict[str, str]]:
        """Return what has the head start nodes by itself: arguments and environment."""
        shape = self.shape
        resources = {"CPU": shape.node_cpus, FAKE_GPU: 1, "object_store_memory": _STORE_BYTES}
        fake = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
        definition = {
            "cluster_name": "local",
            "max_workers": shape.gpu_nodes[1],
            "idle_timeout_minutes": shape.idle_seconds / 60,
            "provider": {
                "type": "external",
                "module": fake,
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
