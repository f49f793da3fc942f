"""Processes on this machine, found and killed by a variable in their environment. Linux only."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from raymc.errors import ResourceError

HEAD_ASKED_SECONDS = 0.25  # between questions to the head, which cost it milliseconds each
PATIENCE_SECONDS = 300.0  # for what takes seconds on a quiet machine, and minutes on a busy one


def end_in_order() -> None:
    """Make SIGTERM end this process as Ctrl-C does; a second one does not interrupt the cleanup."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def free_ports(count: int) -> list[str]:
    """Return ports of this machine that nothing listens on."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [str(probe.getsockname()[1]) for probe in probes]


def wait_until(
    true: Callable[[], bool],
    process: "subprocess.Popen[Any] | None" = None,
    *,
    log: Path | None = None,
    seconds: float = PATIENCE_SECONDS,
    every: float = 0.05,
) -> float:
    """Wait until a condition holds; return the seconds it took.

    It is tried again `every` so many seconds; where the head is asked, `HEAD_ASKED_SECONDS`.

    Raises:
        ResourceError: it takes too long, or `process`, which writes `log`, fails.
    """
    began = time.monotonic()
    while not true():
        failed = process is not None and process.poll() not in (None, 0)
        if failed or time.monotonic() - began > seconds:
            lines = log.read_text(errors="replace").strip().splitlines() if log else []
            why = "the process failed" if failed else f"nothing happened in {seconds:g} s"
            raise ResourceError(f"{why}; {' '.join(lines[-3:])}")
        time.sleep(every)
    return time.monotonic() - began


def spawn(command: Sequence[str | Path], log: Path, **given: Any) -> "subprocess.Popen[Any]":
    """Start a command in a session of its own; its output is appended to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True, **given
        )


def marked(name: str, value: str) -> dict[int, str]:
    """Return the other processes with a variable in their environment: id to command line."""
    found = {}
    for process in _carriers(name, value):
        with suppress(psutil.Error):
            found[process.pid] = " ".join(process.cmdline()).strip()
    return found


def kill_marked(name: str, value: str) -> None:
    """Kill all processes with a variable in their environment, and those they start meanwhile.

    A process is known by its id and the time at which it started, so that none is killed that got
    the id of one that has ended.
    """
    while left := list(_carriers(name, value)):
        for process in left:
            with suppress(ChildProcessError, psutil.Error):
                process.kill()
                os.waitpid(process.pid, os.WNOHANG)
        time.sleep(0.01)


def _carriers(name: str, value: str) -> Iterator[psutil.Process]:
    wanted = f"{name}={value}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, psutil.Error):  # it has ended, is a zombie or is another user's
            if folder.name == str(os.getpid()) or not _carries(folder, wanted):
                continue
            process = psutil.Process(int(folder.name))
            if _carries(folder, wanted):  # still the one that was looked at
                yield process


def _carries(folder: Path, variable: bytes) -> bool:
    return variable in (folder / "environ").read_bytes().split(b"\0")


def resident_bytes(pids: Sequence[int]) -> int:
    """Return the memory that processes hold; those that have ended hold none."""
    pages = 0
    for pid in pids:
        with suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def without_ray() -> dict[str, str]:
    """Return our environment without the variables that another Ray may have set."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
