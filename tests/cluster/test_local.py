"""Clusters of several nodes on this machine: they grow, shrink, lose nodes, and leave nothing."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from drivers import write_config
from sockets import LOOPBACK, addresses_of

from cluster import local
from cluster.local import FAKE_GPU, LocalCluster, Shape
from cluster.processes import HEAD_ASKED_SECONDS, marked, wait_until
from raymc.config import Config, override

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_a_pending_run_brings_a_gpu_node_which_goes_when_it_is_idle(
    tiny_config: Config, tmp_path: Path, runs_folder: Path
) -> None:
    settings = {
        "run.folder": str(tmp_path / "runs"),
        "tracking.uri": f"sqlite:///{runs_folder / 'mlflow.db'}",
        "train.worker_resources": {FAKE_GPU: 1},
    }
    file = write_config(override(tiny_config, settings), tmp_path / "run.yaml")
    with LocalCluster(Shape(gpu_nodes=(0, 1), idle_seconds=5.0)) as cluster:
        (mark,) = cluster.mark.items()
        own = subprocess.Popen(["sleep", "600"], env={**os.environ, **cluster.environment})
        assert cluster.gpu_nodes_alive() == 0
        done = cluster.run([sys.executable, "-m", "raymc", "train", file], capture_output=True)
        assert done.returncode == 0, done.stderr
        addresses = addresses_of(marked(*mark))
        told = {int(each.rpartition(":")[2]) for each in (cluster.address, cluster.dashboard)}
        assert told <= {port for _, port in addresses}
        assert {host for host, _ in addresses} <= LOOPBACK
        assert "\nwaiting for 1 fake_gpu: the cluster starts nodes\n" in done.stdout
        assert list((tmp_path / "runs").glob("*/bundle/bundle.json"))
        wait_until(lambda: cluster.gpu_nodes_alive() == 0, every=HEAD_ASKED_SECONDS)
        folder = cluster.folder
        refused = cluster.run(
            [sys.executable, "-m", "raymc", "train", file, "run.name=two", "train.workers=2"],
            capture_output=True,
        )
        assert refused.returncode == 2
        assert "each with 1 fake_gpu, but this Ray cluster has 1 fake_gpu" in refused.stderr
    assert marked(*mark) == {}
    assert not folder.exists()
    assert own.poll() is None  # a program of one's own that had joined goes on
    own.kill()
    own.wait()


def test_fixed_nodes_come_are_drained_and_die_and_need_the_token() -> None:
    token = "the-token-of-this-test"
    with LocalCluster(Shape(head_cpus=1, gpu_nodes=(1, 1), token=token)) as cluster:
        assert [answer(cluster.dashboard, each) for each in ("", "wrong", token)] == [401, 403, 200]
        (first,) = cluster.nodes
        second = cluster.add_node(labels={"ray.io/market-type": "spot"})
        alive = {node["node_id"]: node for node in cluster.alive()}
        assert alive[first.id]["resources_total"][FAKE_GPU] == 1
        assert alive[second.id]["labels"]["ray.io/market-type"] == "spot"
        assert any("raylet" in title for title in cluster.pids(second).values())
        cluster.drain(second)
        cluster.kill_node(second)
        assert cluster.pids(second) == {}
        wait_until(
            lambda: {node["node_id"] for node in cluster.alive()} == {cluster.head.id, first.id},
            every=HEAD_ASKED_SECONDS,
        )


def answer(dashboard: str, token: str) -> int:
    """Return what the dashboard answers to someone with a token, or without one."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urlopen(Request(f"{dashboard}/api/jobs/", headers=headers)) as found:
            return found.status
    except HTTPError as error:
        return error.code


def test_the_command_line_runs_a_command_on_the_cluster_that_it_describes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[Shape] = []

    class Cluster(LocalCluster):
        """Starts nothing; its commands run all the same."""

        address = dashboard = "127.0.0.1:1"
        folder = Path("/tmp")

        def __enter__(self) -> "Cluster":
            started.append(self.shape)
            return self

        def __exit__(self, *_: object) -> None:
            started.append(self.shape)

    told = "import os; raise SystemExit(len(os.environ['RAY_AUTH_TOKEN']))"
    words = ["--token", "--head-cpus", "1", "--gpu-nodes", "0:2", "--", sys.executable, "-c", told]
    monkeypatch.setattr(local, "LocalCluster", Cluster)
    monkeypatch.setattr(local, "end_in_order", lambda: None)
    monkeypatch.setattr(sys, "argv", ["local", *words])
    assert local.main() == 64
    shape, ended = started
    assert shape == ended == Shape(head_cpus=1, gpu_nodes=(0, 2), token=shape.token)
