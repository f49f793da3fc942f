"""Runs a function in a child process that may crash or hang without harm to its parent.

Native libraries that read media and scientific formats do both on damaged files, and no `except`
can catch that.
"""

import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

_RUN = "import sys; from raymc.runtime.child_process import run; run(*sys.argv[1:])"
_Started = tuple[Connection, subprocess.Popen[bytes]]
_spares: list[_Started] = []


class ChildError(Exception):
    """A child process ended too early; the text says how in a few words."""


class Child:
    """Runs `function(connection, *arguments)` in a child process, until it is closed.

    The child is a new interpreter: forking a process with threads is unsafe, and a
    `multiprocessing` spawn would run the user's script again. It ends with its parent, however
    that ends: its standard input is a pipe that only the parent holds open.
    """

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        self.connection, self._process = _spares.pop() if _spares else _start()
        with suppress(OSError):  # it has ended already; `receive` says how
            self.connection.send((function, arguments))

    def receive(self) -> Any:
        """Return the next object that the child sends.

        Raises:
            ChildError: The child ended instead.
        """
        try:
            return self.connection.recv()
        except (EOFError, OSError) as error:
            raise ChildError(_ending(self._process.wait())) from error

    def close(self) -> None:
        """End the process."""
        _end((self.connection, self._process))


def received(
    function: Callable[..., None], items: Sequence[Any], *, lost: Callable[[ChildError], Any]
) -> Iterator[Any]:
    """Yield what a child sends of each item: `function(connection, items)` sends one object each.

    Where it ends before its time, `lost` makes up for that item, and another child goes on.
    """
    waiting = list(items)
    while waiting:
        with closing(Child(function, waiting)) as child:
            try:
                while waiting:
                    found = child.receive()
                    waiting.pop(0)
                    yield found
            except ChildError as error:
                waiting.pop(0)
                yield lost(error)


@contextmanager
def prepared(module: str) -> Iterator[None]:
    """Start the first `Child` of the block now: it loads a module while others are loaded here."""
    spare = _start(module)
    _spares.append(spare)
    try:
        yield
    finally:
        if spare in _spares:
            _spares.remove(spare)
            _end(spare)


def _start(*modules: str) -> _Started:
    ours, theirs = Pipe()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN, str(theirs.fileno()), *modules],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            pass_fds=[theirs.fileno()],
            process_group=0,  # Ctrl-C is for the parent
        )
    return ours, process


def _end(started: _Started) -> None:
    connection, process = started
    process.kill()
    process.communicate()
    connection.close()  # last: a child that still ran would report it as an error


def run(descriptor: str, *modules: str) -> None:
    """Run a `Child`'s function, in the child process, after loading modules."""
    _end_with_parent(sys.stdin.fileno())
    for module in modules:
        import_module(module)
    with Connection(int(descriptor)) as connection:
        try:
            function, arguments = connection.recv()
        except EOFError:  # the parent has ended
            sys.exit(1)
        function(connection, *arguments)


def _end_with_parent(descriptor: int) -> None:
    """Have the kernel end this process as soon as the pipe's other end is closed.

    It sends SIGIO, which also ends C code that never returns to Python. On macOS that signal is
    ignored, and the process ends when it next sends or receives.
    """
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([descriptor], [], [], 0)[0]:  # the parent has ended already
        sys.exit(1)


def limit_cpu(seconds: float) -> None:
    """End this process after so many seconds of CPU time from now on; 0 removes the limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)  # the kernel's signal also ends a loop in C


def _ending(code: int) -> str:
    if code == -signal.SIGPROF:
        return "never ended"
    return f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
