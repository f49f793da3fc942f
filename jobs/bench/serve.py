"""The service under load on loopback: seconds to an answer, refusals, memory, by number of clients.

Beside it is `mlflow models serve` on the same model: once with the path of the same video, which is
the same work but for the upload, and once with its features, which leaves out decoding.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from jobs.bench.measure import Columns, Measurement, publish, table
from raymc.errors import ResourceError
from raymc.evaluation.media import plan_of
from raymc.features.extraction import EncodedClip, extract_here
from raymc.features.sources import list_sources
from raymc.tracking.models import LOADER
from raymc.training.bundle import Bundle, load_bundle

ARGUMENTS = {"bundle": "BUNDLE", "video": "VIDEO"}
_START_SECONDS = 180.0
Post = Callable[[http.client.HTTPConnection], int]


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """What is asked, and by how many."""

    bundle: str = Field(description="A bundle that says how its features were made.")
    video: str = Field(description="The video of all requests.")
    clients: tuple[int, ...] = Field(default=(1, 4, 16), description="Clients at a time.")
    requests: int = Field(default=40, ge=1, description="Requests of each number of clients.")
    queue: int = Field(default=8, ge=0, description="Videos that may wait in `raymc serve`.")


def bench_serve(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Put load on both services, one after the other; prints and writes a table.

    Raises:
        BundleError: The bundle doesn't say how its features were made.
        ResourceError: A service does not start.
    """
    bundle = load_bundle(settings.bundle)
    video = Path(settings.video).absolute()
    content, features = video.read_bytes(), _features(bundle, str(video))
    asked: dict[str, bytes] = {
        "mlflow, path": json.dumps({"dataframe_records": [{"path": str(video)}]}).encode(),
        "mlflow, features": json.dumps({"dataframe_records": features}).encode(),
    }
    found: list[Measurement] = []
    with TemporaryDirectory(prefix="raymc-bench-") as folder:
        with _raymc(bundle, settings, Path(folder)) as (process, port):
            found += _load("raymc serve", port, process, settings, _video(content))
        with _mlflow(bundle, Path(folder)) as (process, port):
            for name, body in asked.items():
                found += _load(name, port, process, settings, _invocation(body))
    columns: Columns = {
        "": lambda m: m.name,
        "clients": lambda m: str(m.case["clients"]),
        "p50, s": lambda m: _percentile(m, 50),
        "p95, s": lambda m: _percentile(m, 95),
        "answers a second": lambda m: f"{m['answers'][0] / m['wall'][0]:.1f}",
        "refused (503)": lambda m: f"{m['refused'][0]}",
        "errors": lambda m: f"{m['errors'][0]}",
        "memory, MB": lambda m: f"{m['memory'][0] / 1e6:.0f}",
    }
    about = (
        f"{settings.requests} requests by each number of clients, of one video of "
        f"{len(content) / 1e6:.2f} MB, {len(features)} clip{'s' * (len(features) != 1)}; "
        f"{settings.queue} may wait. Percentiles are of answers. Memory is that of all processes "
        "of the service (PSS)."
    )
    publish("Serve", f"{about}\n\n{table(columns, found)}", found, console, out)


def _features(bundle: Bundle, video: str) -> list[dict[str, object]]:
    """Return the video's clips as rows of nested lists."""
    clips = [
        item
        for _, item in extract_here(list(enumerate(list_sources(video))), plan_of(bundle))
        if isinstance(item, EncodedClip)
    ]
    return [
        {
            one.name: np.frombuffer(data, one.numpy_dtype).reshape(-1, one.dim).tolist()
            if (data := clip.tokens[one.name])
            else None
            for one in bundle.modalities
        }
        for clip in clips
    ]


def _video(content: bytes) -> Post:
    def post(connection: http.client.HTTPConnection) -> int:
        connection.request("POST", "/timeline", content)
        return _status(connection)

    return post


def _invocation(body: bytes) -> Post:
    def post(connection: http.client.HTTPConnection) -> int:
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        return _status(connection)

    return post


def _status(connection: http.client.HTTPConnection) -> int:
    answer = connection.getresponse()
    answer.read()
    return answer.status


def _load(
    name: str,
    port: int,
    process: "subprocess.Popen[bytes]",
    settings: Settings,
    post: Post,
) -> list[Measurement]:
    """Put load on a service with each number of clients, after one request that is not counted."""
    _ask(port, post, [1])
    measured = []
    for clients in settings.clients:
        shares = [settings.requests // clients] * clients
        began = time.perf_counter()
        seconds, statuses = _ask(port, post, shares)
        line = Measurement(name, {"clients": clients})
        line.add(
            wall=time.perf_counter() - began,
            answers=statuses.count(200),
            refused=statuses.count(503),
            errors=sum(status not in (200, 503) for status in statuses),
            memory=_memory(process),
        )
        line.figures["seconds"] = [s for s, status in zip(seconds, statuses) if status == 200]
        measured.append(line)
    return measured


def _ask(port: int, post: Post, shares: Sequence[int]) -> tuple[list[float], list[int]]:
    """Send each client's requests, one after another; a refused one is not sent again."""
    seconds: list[float] = []
    statuses: list[int] = []

    def client(requests: int) -> None:
        for _ in range(requests):
            began = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
            try:
                status = post(connection)
            except (OSError, http.client.HTTPException):
                status = 0
            finally:
                connection.close()
            seconds.append(time.perf_counter() - began)
            statuses.append(status)

    threads = [threading.Thread(target=client, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds, statuses


def _memory(process: "subprocess.Popen[bytes]") -> int:
    """Return the memory of a process and all that it started, shared pages divided."""
    parent = psutil.Process(process.pid)
    found = 0
    for one in (parent, *parent.children(recursive=True)):
        try:
            found += one.memory_full_info().pss
        except psutil.Error:  # it has just ended
            continue
    return found


def _percentile(line: Measurement, percent: float) -> str:
    return f"{np.percentile(line['seconds'], percent):.2f}" if line["seconds"] else "–"


@contextmanager
def _raymc(
    bundle: Bundle, settings: Settings, folder: Path
) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    port = _free_port()
    command = [sys.executable, "-m", "raymc", "serve", str(bundle.folder), "--port", str(port)]
    with _started([*command, "--queue", str(settings.queue)], folder / "raymc.log") as process:
        _wait_until_ready(process, port, "/health", folder / "raymc.log")
        yield process, port


@contextmanager
def _mlflow(bundle: Bundle, folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    import mlflow.pyfunc

    model, port = folder / "model", _free_port()
    mlflow.pyfunc.save_model(model, loader_module=LOADER, data_path=str(bundle.folder))
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model)]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    with _started(command, folder / "mlflow.log") as process:
        _wait_until_ready(process, port, "/ping", folder / "mlflow.log")
        yield process, port


@contextmanager
def _started(command: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "PATH": path}
        )
    try:
        yield process
    finally:
        parts = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(60)
        for part in parts:
            if part.is_running():
                part.kill()


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int, path: str, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            time.sleep(0.2)
        finally:
            connection.close()
    lines = log.read_text(errors="replace").strip().splitlines()
    raise ResourceError(f"the service does not start: {lines[-1] if lines else 'it says nothing'}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
