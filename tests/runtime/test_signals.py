"""Signals end a command with their exit code while it works, and change nothing once it is done."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
WAITING = """
import time
from raymc.runtime.interruption import ending_in_order
with ending_in_order():
    print("working", flush=True)
    time.sleep(600)
"""
IN_A_FINALISER = """
import os, signal, sys, time
from raymc.runtime.interruption import ending_in_order
class Freed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
with ending_in_order():
    Freed()
    time.sleep(0.5)
    print("not reached")
"""
IN_AN_IMPORT = """
import os, signal, sys, time
from pathlib import Path
from raymc.runtime.interruption import ending_in_order
Path(sys.argv[1], "slow.py").write_text(
    "import os, time; os.kill(os.getpid(), 15); print('begun', flush=True); time.sleep(2.0); "
    "print('whole')"
)
sys.path.append(sys.argv[1])
with ending_in_order():
    import slow
    time.sleep(60)
"""
IN_A_LIBRARY = """
import ctypes, sys
from raymc.runtime.interruption import allow_to_end, ending_in_order
with ending_in_order("tune"):
    allow_to_end(float(sys.argv[1]))
    library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    print("working", flush=True)
    library.pthread_mutex_lock(mutex)  # for ever, whatever signals come
"""
DONE = """
import os, sys
from raymc.runtime.interruption import ending_in_order
class Last:
    def __init__(self):
        self.kill, self.process, self.signal = os.kill, os.getpid(), int(sys.argv[1])
    def __del__(self):  # while Python itself ends
        self.kill(self.process, self.signal)
with ending_in_order():
    last = Last()
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_command_with_its_code(number: signal.Signals) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "working\n"
    child.send_signal(number)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert "Traceback" not in errors


@pytest.mark.parametrize(("seconds", "signals"), [(0.1, 1), (600, 2)])
def test_a_library_that_waits_for_ever_is_ended(seconds: float, signals: int) -> None:
    """By itself after the time to end, or at once by a second signal."""
    command = [sys.executable, "-c", IN_A_LIBRARY, str(seconds)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "working\n"
    for _ in range(signals):
        child.send_signal(signal.SIGINT)
        time.sleep(0.5)  # one that follows at once is taken for the same
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert errors == "raymc: interrupted; run the same command again to resume\n"


@pytest.mark.parametrize("is_asked_again", [False, True])
def test_an_import_is_not_interrupted(tmp_path: Path, is_asked_again: bool) -> None:
    """C++ code of torch that imports a module would abort on the exception."""
    command = [sys.executable, "-c", IN_AN_IMPORT, str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    if is_asked_again:
        time.sleep(0.5)
        child.send_signal(signal.SIGTERM)
    output, errors = child.communicate(timeout=60)
    assert child.returncode == 143
    assert errors == "raymc: ended by SIGTERM; run the same command again\n"
    assert is_asked_again or output == "whole\n"


def test_a_signal_in_a_finaliser_ends_a_command_too() -> None:
    command = [sys.executable, "-c", IN_A_FINALISER]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, "")
    assert done.stderr == "raymc: ended by SIGTERM; run the same command again\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_after_the_last_line_changes_nothing(number: signal.Signals) -> None:
    assert (
        subprocess.run([sys.executable, "-c", DONE, str(int(number))], timeout=60).returncode == 0
    )
