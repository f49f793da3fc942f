"""Commands as processes of their own: run, watched, interrupted, killed."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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
    every: float = 0.05,
) -> None:
    """Wait for something that other processes bring about; `process` must not end before.

    It is looked for again `every` so many seconds.
    """
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        assert process is None or process.poll() is None, "the driver has ended already"
        time.sleep(every)


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


_MARK = "RAYMC_TEST_MARK"
# Runs a command as a terminal does: in a session whose terminal is its standard input.
_IN_TERMINAL = (
    "import os, sys; os.setsid(); os.open(os.ttyname(0), os.O_RDWR); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclass
class Interruptible:
    """A command that runs in a terminal or without one, and all that it starts."""

    process: "subprocess.Popen[bytes]"
    mark: str  # in the environment of all that it starts
    log: Path
    keyboard: int | None  # the terminal's other end
    started: set[int] = field(default_factory=set)

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def interrupt(self, number: int) -> None:
        """Send a signal as a terminal does, which has Ctrl-C for SIGINT, or to the driver alone."""
        self.started |= {*session_of(self.process.pid), *self._marked()}
        if self.keyboard is None:
            self.process.send_signal(number)
        elif number == signal.SIGINT:
            os.write(self.keyboard, b"\x03")
        else:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def pause(self, seconds: float, meanwhile: Callable[[], object]) -> None:
        """Stop all of its processes for a while, as a suspended machine does."""
        stopped = {*session_of(self.process.pid), *self._marked()}
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            if number == signal.SIGSTOP:
                meanwhile()
                time.sleep(seconds)

    def wait(self) -> int:
        """Return the exit code."""
        return self.process.wait(600)

    def left(self) -> list[str]:
        """Return the processes that are left of it."""
        return [_command_of(pid) for pid in self.started | self._marked() if lives(pid)]

    def output(self) -> str:
        """Return what it has written, without a terminal's control sequences."""
        text = self.log.read_text("utf-8", "replace")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")

    def _marked(self) -> set[int]:
        found, mark = set[int](), f"{_MARK}={self.mark}".encode()
        for pid in _processes():
            with suppress(OSError):
                if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    found.add(pid)
        return found


@contextmanager
def interruptible(
    *command: str | Path, log: Path, in_terminal: bool, environment: Mapping[str, str]
) -> Iterator[Interruptible]:
    """Run a command as `running` does, if asked in a terminal."""
    mark = uuid.uuid4().hex
    marked = {**environment, _MARK: mark}
    if not in_terminal:
        with running(*command, log=log, environment=marked) as process:
            yield Interruptible(process, mark, log, None)
        return
    keyboard, screen = pty.openpty()
    inherited = {name: x for name, x in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-c", _IN_TERMINAL, *command],
        stdin=screen,
        stdout=screen,
        stderr=screen,
        env={**inherited, **marked},
    )
    os.close(screen)
    log.touch()  # before the thread does, so that it can be read at once
    reader = threading.Thread(target=_copy, args=(keyboard, log))
    reader.start()
    try:
        yield Interruptible(process, mark, log, keyboard)
    finally:
        kill(process)
        reader.join()
        os.close(keyboard)


def _copy(source: int, log: Path) -> None:
    with log.open("wb", buffering=0) as file, suppress(OSError):  # the terminal is closed
        while data := os.read(source, 65536):
            file.write(data)


def _command_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return str(pid)


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
