"""Commands as processes of their own: run, watched, killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from raymc.config import Config, to_dict

RAYMC = Path(sys.executable).with_name("raymc")


def write_config(config: Config, file: Path) -> Path:
    """Write a configuration as a user would."""
    file.write_text(yaml.safe_dump(to_dict(config), sort_keys=False))
    return file


def wait_until(
    true: Callable[[], bool],
    process: "subprocess.Popen[bytes] | None" = None,
    *,
    seconds: float = 600.0,
) -> None:
    """Wait for something that other processes bring about; `process` must not end before."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        assert process is None or process.poll() is None, "the driver has ended already"
        time.sleep(0.02)


@contextmanager
def running(
    *command: str | Path, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of processes of its own; none of them outlives the block."""
    inherited = {name: x for name, x in os.environ.items() if not name.startswith("RAY_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**inherited, **(environment or {})},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a driver and every process it started at once, as a machine that dies does."""
    while left := session_of(process.pid):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()


def session_of(leader: int) -> list[int]:
    """Return the living processes of a session, the leader first."""
    found = [pid for pid in _processes() if lives(pid) and _session(pid) == leader]
    return sorted(found, key=lambda pid: pid != leader)


def lives(pid: int) -> bool:
    """Say whether a process runs: it is not gone, nor dead and only not yet reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _session(pid: int) -> int:
    """Return a process's session; 0 if the process is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return 0
