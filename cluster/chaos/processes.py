"""Processes of this machine, found and ended by what stands in their environment. Linux alone."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from raymc.errors import ResourceError


def end_in_order() -> None:
    """Have SIGTERM end this process as Ctrl-C does; a second one does not stop the clearing up."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def free_ports(count: int) -> list[str]:
    """Return ports of this machine that nobody listens on."""
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
    seconds: float = 60.0,
) -> float:
    """Wait for what other processes bring about; returns the seconds it took.

    Raises:
        ResourceError: it takes too long, or `process`, which writes `log`, fails.
    """
    began = time.monotonic()
    while not true():
        ended = process is not None and process.poll() not in (None, 0)
        if ended or time.monotonic() - began > seconds:
            lines = log.read_text(errors="replace").strip().splitlines() if log else []
            why = "it failed" if ended else f"{seconds:g} s passed"
            raise ResourceError(f"waited in vain: {why}; {' '.join(lines[-3:])}")
        time.sleep(0.05)
    return time.monotonic() - began


def kill_marked(name: str, value: str) -> None:
    """End all processes that have a variable in their environment, and those they start."""
    while left := marked(name, value):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
            except (ChildProcessError, ProcessLookupError):
                continue
        time.sleep(0.01)


def marked(name: str, value: str) -> list[int]:
    """Return the living processes that have a variable in their environment, but for our own."""
    wanted, found = f"{name}={value}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and _has(entry, wanted):
            found.append(int(entry.name))
    return found


def _has(process: Path, wanted: bytes) -> bool:
    try:
        return wanted in (process / "environ").read_bytes().split(b"\0")
    except OSError:  # gone, a zombie, or not ours
        return False


def resident_bytes(pids: Sequence[int]) -> int:
    """Return how much memory processes hold, those that are gone none."""
    pages = 0
    for pid in pids:
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")


def title(pid: int) -> str:
    """Return how a process calls itself; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def without_ray() -> dict[str, str]:
    """Return our own environment, but for what another Ray may have left in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
