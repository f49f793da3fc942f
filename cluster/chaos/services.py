"""What runs and clusters lean on, made here to be broken: servers, a disk, a clock."""

import getpass
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.chaos.processes import free_ports, wait_until
from raymc.errors import ResourceError
from raymc.tracking import check_reachable, ui_command

_TMPFS_BYTES = 48 << 20
_POSTGRES_COMMANDS = "usr/lib/postgresql/*/bin"  # where Debian keeps them, out of the path


@dataclass
class MlflowServer:
    """MLflow's server.

    Attributes:
        folder: For its files, which must be there.
        database: Address of one; empty: a file in the folder.
    """

    folder: Path
    database: str = ""
    port: str = field(default_factory=lambda: free_ports(1)[0])

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ResourceError: it doesn't.
        """
        file = self.folder / "mlflow.db"
        file.touch()
        command = ui_command(self.database or f"sqlite:///{file}", int(self.port))
        given = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        log = self.folder / "mlflow.log"
        self._process = _start(command, log, cwd=self.folder, env={**os.environ, **given})
        wait_until(self._answers, self._process, log=log, seconds=90.0)

    def kill(self) -> None:
        """End it and its workers at once."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            check_reachable(self.address, create=False)
        except ResourceError:
            return False
        return True


@dataclass
class RedisServer:
    """Redis, which writes all that it is told to a file.

    Attributes:
        folder: For its files, which must be there.
    """

    folder: Path
    port: str = field(default_factory=lambda: free_ports(1)[0])

    @property
    def environment(self) -> Mapping[str, str]:
        """With which a head keeps its cluster's state here."""
        return {
            "RAY_REDIS_ADDRESS": f"127.0.0.1:{self.port}",
            "RAY_external_storage_namespace": self.folder.name,
        }

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ResourceError: it isn't installed, or doesn't answer.
        """
        command = _installed("redis-server", "Redis")
        where = ["--port", self.port, "--bind", "127.0.0.1", "--dir", str(self.folder)]
        kept = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        log = self.folder / "redis.log"
        self._process = _start([command, *where, *kept], log)
        ping = ["redis-cli", "-p", self.port, "ping"]
        wait_until(
            lambda: subprocess.run(ping, capture_output=True).stdout == b"PONG\n",
            self._process,
            log=log,
        )

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()


@dataclass
class PostgresServer:
    """Postgres with a cluster of databases of its own, which lets in everybody on this machine.

    It refuses to run as root, who has it run as the system's user `postgres`.

    Attributes:
        folder: For its files; is made.
        databases: Their names.
    """

    folder: Path
    databases: tuple[str, ...]
    port: str = field(default_factory=lambda: free_ports(1)[0])

    def address(self, database: str) -> str:
        """Return the address of one of its databases."""
        return f"postgresql+psycopg2://raymc@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, with new databases the first time, and wait until it answers.

        Raises:
            ResourceError: it isn't installed, or doesn't answer.
        """
        is_new = not self.folder.exists()
        if is_new:
            self.folder.mkdir()
            shutil.chown(self.folder, self._user)
            self._run("initdb", "--username", "raymc", "--auth", "trust", "--no-sync")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder}"
        self._run("pg_ctl", "start", "-w", "-o", options, "-l", str(self.folder / "log"))
        for database in self.databases if is_new else ():
            where = ["--host", "127.0.0.1", "--port", self.port, "--username", "raymc"]
            subprocess.run([_installed("createdb", "Postgres"), *where, database], check=True)

    def kill(self) -> None:
        """End it at once; when started again it recovers from its log."""
        self._run("pg_ctl", "stop", "-m", "immediate")

    @property
    def _user(self) -> str:
        return "postgres" if os.geteuid() == 0 else getpass.getuser()

    def _run(self, command: str, *arguments: str) -> None:
        found = _installed(command, "Postgres", _POSTGRES_COMMANDS)
        done = subprocess.run(
            [found, "--pgdata", str(self.folder / "data"), *arguments],
            cwd=self.folder,
            user=pwd.getpwnam(self._user).pw_uid,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            raise ResourceError(f"{command} failed: {' '.join(done.stderr.split())}")


# May be killed, and started again with what it had stored.
Service = MlflowServer | RedisServer | PostgresServer


@contextmanager
def running(service: Service) -> Iterator[None]:
    """Have a service run, and end it."""
    service.start()
    try:
        yield
    finally:
        with suppress(ResourceError, ProcessLookupError):  # something may have killed it before
            service.kill()


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


@contextmanager
def clock_ahead(seconds: float) -> Iterator[None]:
    """Have this machine's clock be ahead of the time, and put it right again."""
    began, before = time.time(), time.monotonic()
    time.clock_settime(time.CLOCK_REALTIME, began + seconds)
    try:
        yield
    finally:
        time.clock_settime(time.CLOCK_REALTIME, began + time.monotonic() - before)


def refuse_without_root() -> None:
    """Refuse to go on as somebody who may not do what faults want root for.

    Raises:
        ResourceError: we aren't root.
    """
    if os.geteuid() != 0:
        raise ResourceError(
            "full or read-only disks, a lost head and a moved clock need root; name other --faults"
        )


def _start(command: Sequence[str], log: Path, **given: Any) -> "subprocess.Popen[Any]":
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True, **given
        )


def _installed(command: str, package: str, elsewhere: str = "") -> str:
    """Return a command's path.

    Raises:
        ResourceError: it isn't installed.
    """
    folders = Path("/").glob(elsewhere) if elsewhere else ()
    path = os.pathsep.join([os.environ.get("PATH", ""), *sorted(map(str, folders))])
    if found := shutil.which(command, path=path):
        return found
    raise ResourceError(f"there is no {command} on this machine: install {package}")
