"""How a command ends on Ctrl-C, SIGTERM or a closed terminal: in one line, and no process is left.

The first signal raises KeyboardInterrupt, so that the run is recorded as stopped and half-written
files are deleted. A second signal, or more than `SECONDS_TO_END`, ends the process at once, which
loses nothing either: whatever is on disk is whole, as after a power cut.

Ours is needed because Ray, Tune and Ray Train install handlers of their own: Tune's returns from
the sweep as if it had finished, Ray's prints a stack and aborts. Processes are found by a variable
in their environment, because a process of Ray whose parent was killed is nobody's child.
"""

import atexit
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_TO_END = 15.0
_MARK = "RAYMC_COMMAND"  # in the environment of every process that a command starts
_SAME_SIGNAL_SECONDS = 0.3  # `timeout` and shells send a signal to a process and to its group
_SECONDS_TO_KILL = 5.0
_SHOW_CURSOR = b"\x1b[?25h"  # a live display hides it


class _State:
    """What has happened to this process."""

    mark = ""
    signal = 0
    received = 0.0  # by the monotonic clock
    is_told = False


def catch_signals() -> None:
    """End this process in order on a signal; again after Ray has installed handlers of its own.

    A signal that is ignored, as `nohup` and shells do for background commands, stays ignored.
    """
    if not _State.mark:
        _State.mark = os.environ[_MARK] = f"{os.getpid()}-{time.time_ns()}"
        atexit.register(_leave_nothing)  # before Ray's, and so run after it
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def catch_again() -> None:
    """Put our handlers back after a library has installed its own, if this process has ours."""
    if _State.mark and threading.current_thread() is threading.main_thread():
        catch_signals()


def interrupt_as(number: int) -> None:
    """Do what our handler does, for a signal that the handler of a library has received."""
    _interrupt(number, None)


def is_interrupted() -> bool:
    """Whether this process has received a signal that ends it."""
    return _State.signal != 0


def exit_code() -> int:
    """Return the exit code of an interrupted command: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (_State.signal or signal.SIGINT)


def told(advice: str = "run the same command again") -> str:
    """Return the line that says that the command was interrupted, and what to do."""
    _State.is_told = True
    by = _State.signal or signal.SIGINT
    what = "interrupted" if by == signal.SIGINT else f"ended by {signal.Signals(by).name}"
    return f"raymc: {what}; {advice}"


def end_now() -> None:
    """End this process and all that it has started, without any cleanup."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    if os.isatty(1):
        with suppress(OSError):
            os.write(1, _SHOW_CURSOR)
    if not _State.is_told:
        with suppress(OSError):  # the terminal may be gone
            os.write(2, f"{told()}\n".encode())
    with suppress(Exception):
        _leave_nothing()
    os._exit(exit_code())


def _interrupt(number: int, frame: FrameType | None) -> None:
    since = time.monotonic() - _State.received
    if _State.signal and since < _SAME_SIGNAL_SECONDS:
        return
    if _State.signal:
        end_now()
    _State.signal, _State.received = number, time.monotonic()
    threading.Thread(target=_end_late, name="raymc-end", daemon=True).start()
    raise KeyboardInterrupt


def _end_late() -> None:
    time.sleep(SECONDS_TO_END)
    end_now()


def _leave_nothing() -> None:
    """Kill what this process has started and has not ended, also what that has started."""
    if "ray" not in sys.modules:
        return
    import psutil

    wanted, end = _State.mark, time.monotonic() + _SECONDS_TO_KILL
    while time.monotonic() < end:
        left = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and process.environ().get(_MARK) == wanted:
                    process.kill()
                    left.append(process)
        if not psutil.wait_procs(left, timeout=1.0)[0]:
            return
