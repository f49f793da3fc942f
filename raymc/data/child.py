"""A process for native code that may crash, or never return: what then ends is this process.

Pure: the standard library. Libraries that read media and scientific formats do both on damaged
files, and no `except` sees it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

_RUN = "import sys; from raymc.data.child import run; run(int(sys.argv[1]))"


class ChildError(Exception):
    """A child ended before it said all it had to; the text says how, in a few words."""


class Child:
    """Runs `function(connection, *arguments)` in a process of its own, until it is closed.

    Started as a new interpreter, neither forked from a process with threads nor by
    `multiprocessing`, which would run the user's script once more.
    """

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _RUN, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                pass_fds=[theirs.fileno()],
            )
        self.connection.send((function, arguments))

    def receive(self) -> Any:
        """Wait for what the child sends next.

        Raises:
            ChildError: It ended instead.
        """
        try:
            return self.connection.recv()
        except (EOFError, OSError) as error:
            raise ChildError(_ending(self._process.wait())) from error

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self._process.kill()
        self._process.wait()


def run(descriptor: int) -> None:
    """Do what a `Child` asks for, in its process."""
    with Connection(descriptor) as connection:
        function, arguments = connection.recv()
        function(connection, *arguments)


def limit_cpu(seconds: float) -> None:
    """End this process once it computes for longer; waiting doesn't count. 0 lifts the limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)  # the kernel acts, even on a loop in C


def _ending(code: int) -> str:
    if code == -signal.SIGPROF:
        return "never ended"
    return f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
