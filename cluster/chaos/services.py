"""What runs and clusters depend on, started here so that it can fail: servers, a disk, a clock."""

import getpass
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cluster.processes import free_ports, spawn, wait_until
from raymc.errors import ResourceError
from raymc.tracking import check_reachable, ui_command

_TMPFS_BYTES = 192 << 20
_POSTGRES_COMMANDS = "usr/lib/postgresql/*/bin"  # where Debian installs them, outside PATH


@dataclass
class Server:
    """A server process with a log, which can be killed and started again with its data.

    Attributes:
        address: Where it answers.
        command: Returns the command that starts it.
        answers: Whether it answers.
        log: File for its output, beside its data.
    """

    address: str
    command: Callable[[], Sequence[str]]
    answers: Callable[[], bool]
    log: Path

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ResourceError: it is not installed or does not answer.
        """
        command = self.command()  # that of MLflow sets a variable for its server
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._process = spawn(command, self.log, cwd=self.log.parent, env=environment)
        wait_until(self.answers, self._process, log=self.log)

    def kill(self) -> None:
        """Kill it and its children."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def mlflow_server(folder: Path, database: str = "") -> Server:
    """Return MLflow's server, with its records in a database; by default a file in the folder."""
    (port,) = free_ports(1)
    address, file = f"http://127.0.0.1:{port}", folder / "mlflow.db"

    def answers() -> bool:
        with suppress(ResourceError):
            check_reachable(address, create=False)
            return True
        return False

    def command() -> Sequence[str]:
        file.touch()
        return ui_command(database or f"sqlite:///{file}", int(port))

    return Server(address, command, answers, folder / "mlflow.log")


def redis_server(folder: Path) -> Server:
    """Return Redis, which writes every change to a file in the folder."""
    (port,) = free_ports(1)
    where = ["--port", port, "--bind", "127.0.0.1", "--dir", str(folder)]
    kept = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
    ping = ["redis-cli", "-p", port, "ping"]
    return Server(
        f"127.0.0.1:{port}",
        lambda: [_installed("redis-server", "Redis"), *where, *kept],
        lambda: subprocess.run(ping, capture_output=True).stdout == b"PONG\n",
        folder / "redis.log",
    )


@dataclass
class PostgresServer:
    """Postgres with its own data, open to every user of this machine.

    It refuses to run as root; for root it runs as the system's user `postgres`.

    Attributes:
        folder: A new folder for its files.
        databases: Names of its databases.
    """

    folder: Path
    databases: tuple[str, ...]
    port: str = field(default_factory=lambda: free_ports(1)[0])

    def address(self, database: str) -> str:
        """Return the address of one of its databases."""
        return f"postgresql+psycopg2://raymc@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, create its databases the first time, and wait until it answers.

        Raises:
            ResourceError: it is not installed or does not answer.
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
        """Kill it; when started again it recovers from its log."""
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


Service = Server | PostgresServer


@contextmanager
def running(service: Service) -> Iterator[None]:
    """Run a service during the block."""
    service.start()
    try:
        yield
    finally:
        with suppress(ResourceError, ProcessLookupError):  # a fault may have killed it
            service.kill()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a disk of 192 MiB as a folder during the block."""
    folder.mkdir()
    size = f"size={_TMPFS_BYTES}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def clock_ahead(seconds: float) -> Iterator[None]:
    """Set this machine's clock ahead during the block."""
    began, before = time.time(), time.monotonic()
    time.clock_settime(time.CLOCK_REALTIME, began + seconds)
    try:
        yield
    finally:
        time.clock_settime(time.CLOCK_REALTIME, began + time.monotonic() - before)


def refuse_without_root() -> None:
    """Refuse faults that only root can inject.

    Raises:
        ResourceError: we are not root.
    """
    if os.geteuid() != 0:
        raise ResourceError(
            "faults of disks, the head, Redis and the clock need root: run as root, or name other "
            "faults with --faults"
        )


def _installed(command: str, package: str, elsewhere: str = "") -> str:
    folders = Path("/").glob(elsewhere) if elsewhere else ()
    path = os.pathsep.join([os.environ.get("PATH", ""), *sorted(map(str, folders))])
    if found := shutil.which(command, path=path):
        return found
    raise ResourceError(f"{command} is not installed: install {package}")
