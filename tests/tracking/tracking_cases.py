"""What the tests of tracking share: runs read back, MLflow unreachable, ports and servers."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from raymc.errors import ResourceError
from raymc.tracking import Tracker
from raymc.tracking.connect import check_reachable


def runs_of(tracker: Tracker) -> list[Run]:
    return list(MlflowClient(tracker.uri).search_runs([tracker.experiment_id]))


def steps(run: Run, metric: str, uri: str) -> list[tuple[int, float]]:
    history = MlflowClient(uri).get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value) for point in history)


def start(tracker: Tracker, key: str = "a", **params: object) -> str:
    return tracker.start_run(f"name of {key}", key=key, params=params, tags={})


@contextmanager
def away(monkeypatch: pytest.MonkeyPatch, *, stores: bool = False) -> Iterator[list[str]]:
    """MLflow fails on every write; with `stores` it does the work first (a lost answer)."""
    calls: list[str] = []

    def failing(name: str) -> Callable[..., object]:
        real = getattr(MlflowClient, name)

        def call(client: MlflowClient, *args: Any, **kwargs: Any) -> object:
            calls.append(name)
            if stores:
                real(client, *args, **kwargs)
            raise MlflowException("connection refused")

        return call

    with monkeypatch.context() as patch:
        for name in ("create_run", "search_runs", "log_batch", "set_tag", "set_terminated"):
            if not (stores and name == "search_runs"):
                patch.setattr(MlflowClient, name, failing(name))
        yield calls


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def run_server(
    command: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start one of MLflow's servers and wait until it answers."""
    environment = {**os.environ, **(environment or {})}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    port = int(command[command.index("--port") + 1])
    end = time.monotonic() + 300
    while True:
        assert process.poll() is None, (folder / "server.log").read_text()
        assert time.monotonic() < end, "waited in vain"
        try:
            check_reachable(f"http://127.0.0.1:{port}", create=False)
        except ResourceError:
            time.sleep(0.2)
        else:
            return process


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
