"""What the tests of child processes run in them; what it imports, each child loads anew."""

import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from raymc.runtime.child_process import limit_cpu


def echo(connection: Connection, first: object) -> None:
    connection.send(first)
    while (found := connection.recv()) is not None:
        connection.send((os.getpid(), found))


def end(connection: Connection, number: int) -> None:
    connection.send("before")
    if number < 0:
        os.kill(os.getpid(), -number)
    os._exit(number)


def loop(connection: Connection, seconds: float) -> None:
    limit_cpu(0.02)
    limit_cpu(0)
    sum(range(5_000_000))
    connection.send("no limit")
    limit_cpu(seconds)
    sum(range(10**15))  # C code: no Python handler of a signal would ever run


def loaded(connection: Connection, module: str) -> None:
    connection.send((os.getpid(), module in sys.modules))


def loop_unheard(connection: Connection, folder: Path) -> None:
    whole_pid(folder / "pid")
    sum(range(10**15))


def whole_pid(file: Path) -> None:
    file.with_suffix(".new").write_text(str(os.getpid()))
    file.with_suffix(".new").rename(file)
