"""Processes for native code: what they send arrives, and how they end is told."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from child_functions import echo, end, loaded, loop
from drivers import lives, wait_until

from raymc.runtime import child_process
from raymc.runtime.child_process import Child, ChildError, prepared


@pytest.mark.slow
def test_what_is_sent_arrives() -> None:
    with closing(Child(echo, Path("a"))) as child:
        assert child.receive() == Path("a")
        for value in (list(range(100_000)), b"x" * 10_000_000):
            child.connection.send(value)
            pid, found = child.receive()
            assert pid != os.getpid()
            assert found == value
        child.connection.send(None)
        with pytest.raises(ChildError, match="ended with code 0"):
            child.receive()


@pytest.mark.slow
def test_the_first_child_of_a_block_has_loaded_a_module(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with prepared("colorsys"):
        (_, spare) = child_process._spares[0]
        for is_prepared in (True, False):
            with closing(Child(loaded, "colorsys")) as child:
                pid, is_loaded = child.receive()
            assert (pid == spare.pid, is_loaded) == (is_prepared, is_prepared)
    with prepared("colorsys"):
        (_, spare) = child_process._spares[0]
    assert spare.returncode is not None  # it was not needed
    connection, orphan = child_process._start("colorsys")
    connection.close()  # as if this process had ended
    assert orphan.wait() == 1
    assert capfd.readouterr().err == ""
    ended = pytest.raises(ChildError, match="ended with code 1")
    with prepared("no_such_module"), closing(Child(loaded, "colorsys")) as child, ended:
        child.receive()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (3, "ended with code 3"),
        (-signal.SIGSEGV, r"crashed \(SIGSEGV\)"),
        (-signal.SIGKILL, r"crashed \(SIGKILL\)"),
    ],
)
def test_how_it_ends_is_told(number: int, message: str) -> None:
    with closing(Child(end, number)) as child:
        assert child.receive() == "before"
        for _ in range(2):
            with pytest.raises(ChildError, match=message):
                child.receive()


@pytest.mark.slow
def test_loops_are_ended() -> None:
    with closing(Child(loop, 0.1)) as child:
        assert child.receive() == "no limit"
        with pytest.raises(ChildError, match="never ended"):
            child.receive()


_PARENT = """
import sys
from pathlib import Path
from child_functions import loop_unheard
from raymc.runtime.child_process import Child
Child(loop_unheard, Path(sys.argv[1])).receive()
"""


@pytest.mark.slow
def test_it_ends_with_a_killed_parent_even_in_a_loop_of_c_code(tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, tmp_path], env={**os.environ, "PYTHONPATH": path}
    ) as parent:
        wait_until((tmp_path / "pid").exists, parent)
        parent.kill()
    child = int((tmp_path / "pid").read_text())
    wait_until(lambda: not lives(child))


@pytest.fixture
def waiting() -> Iterator[Child]:
    with closing(Child(echo, os.getpid())) as child:
        yield child


@pytest.mark.slow
def test_closing_ends_it(waiting: Child) -> None:
    assert waiting.receive() == os.getpid()
    waiting.connection.send(1)
    pid, _ = waiting.receive()
    waiting.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
