"""What runs and clusters lean on, started here to be taken away: MLflow, Redis, a disk."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from raymc.chaos.processes import free_ports, wait_until
from raymc.errors import ResourceError
from raymc.tracking import check_reachable, ui_command

_TMPFS_BYTES = 48 << 20


def start_mlflow(folder: Path, port: int) -> None:
    """Start MLflow's server on a database in a folder, in whose `mlflow.pid` its process is."""
    database = f"sqlite:///{folder / 'mlflow.db'}"
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    (folder / "mlflow.db").touch()
    with (folder / "mlflow.log").open("ab") as log:
        server = subprocess.Popen(
            ui_command(database, port),
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (folder / "mlflow.pid").write_text(str(server.pid))
    wait_until(lambda: _answers(port), server, log=folder / "mlflow.log", seconds=90.0)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Run MLflow's server; yields its address."""
    (port,) = free_ports(1)
    start_mlflow(folder, int(port))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(int((folder / "mlflow.pid").read_text()), signal.SIGKILL)


@contextmanager
def redis_server(folder: Path) -> Iterator[Mapping[str, str]]:
    """Run Redis; yields the environment with which a head keeps its cluster's state there.

    Raises:
        ResourceError: it isn't installed.
    """
    if not shutil.which("redis-server"):
        raise ResourceError("there is no redis-server on this machine: install Redis")
    (port,) = free_ports(1)
    where = ["--port", port, "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    with (folder / "redis.log").open("wb") as log:
        server = subprocess.Popen(["redis-server", *where], stdout=log)
    try:
        yield {
            "RAY_REDIS_ADDRESS": f"127.0.0.1:{port}",
            "RAY_external_storage_namespace": folder.name,
        }
    finally:
        server.kill()
        server.wait()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Have a folder be a disk of its own, of some megabytes."""
    folder.mkdir()
    size = f"size={_TMPFS_BYTES}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _answers(port: int) -> bool:
    try:
        check_reachable(f"http://127.0.0.1:{port}", create=False)
    except ResourceError:
        return False
    return True


def refuse_without_root() -> None:
    """Refuse to mount file systems as somebody who can't.

    Raises:
        ResourceError: we aren't root.
    """
    if os.geteuid() != 0:
        raise ResourceError("a full or read-only disk is made with a tmpfs, which only root mounts")
