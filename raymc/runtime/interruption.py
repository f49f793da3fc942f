"""How a command ends on Ctrl-C, SIGTERM or a closed terminal: in one line, and no process is left.

The first signal raises KeyboardInterrupt, so that the run is recorded as stopped and half-written
files are deleted. A second signal, or more than `SECONDS_TO_END`, ends the process at once, which
loses nothing either: whatever is on disk is whole, as after a power cut.

Ours is needed because Ray, Tune and Ray Train install handlers of their own: Tune's returns from
the sweep as if it had finished, Ray's prints a stack and aborts. Processes are found by a variable
in their environment too, because a process of Ray whose parent was killed is nobody's child.

Python runs handlers between two of its own instructions, so never while a library waits, such as
for a database that is silent. A thread that hears of signals by a pipe ends such a process.
"""

import _thread
import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_TO_END = 15.0
# The commands that go on where they were.
_RESUMED = {"train", "tune", "extract", "demo", "predict", "replay"}
_MARK = "RAYMC_COMMAND"  # in the environment of every process that a command starts
_SAME_SIGNAL_SECONDS = 0.3  # `timeout` and shells send a signal to a process and to its group
_SECONDS_TO_HANDLE = 1.0  # a second signal, by the handler
_SECONDS_TO_IMPORT = 3.0
_SECONDS_TO_KILL = 5.0
_SECONDS_TO_SAY = 2.0
_SHOW_CURSOR = b"\x1b[?25h"  # a live display hides it


@dataclass
class _State:
    """What has happened to this process; `received` is by the monotonic clock."""

    mark: str = ""
    pipe: int = -1  # Python writes the number of each signal into it
    command: str = ""  # its name
    signal: int = 0
    seconds_to_end: float = SECONDS_TO_END
    received: float = 0.0
    failure: str = ""  # what ends it, if not a signal
    is_due: bool = False  # the KeyboardInterrupt is still to be raised
    imitated: int = 0  # signals of our own that raise it, and that `_watch` has not heard of yet
    is_told: bool = False
    is_over: bool = False  # the command has ended, and the process is about to
    is_ending: bool = False  # at once, whatever comes
    started: "set[psutil.Process]" = field(default_factory=set)


_state = _State()


def catch_signals() -> None:
    """End this process in order on a signal; again after Ray has installed handlers of its own.

    A signal that is ignored, as `nohup` and shells do for background commands, stays ignored.
    """
    if not _state.mark:
        _state.mark = os.environ[_MARK] = f"{os.getpid()}-{time.time_ns()}"
        atexit.register(_end)  # before Ray's, and so run after it
        sys.unraisablehook = partial(_raise_elsewhere, sys.unraisablehook)
        heard, _state.pipe = os.pipe()
        os.set_blocking(_state.pipe, False)
        os.register_at_fork(after_in_child=partial(signal.set_wakeup_fd, -1))
        _thread.start_new_thread(_watch, (heard,))
    signal.set_wakeup_fd(_state.pipe, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def catch_again() -> None:
    """Put our handlers back after a library has installed its own, if this process has ours."""
    if _state.mark and threading.current_thread() is threading.main_thread():
        catch_signals()


@contextmanager
def ending_in_order(command: str = "") -> Iterator[None]:
    """Catch signals inside the block; one that came ends the process after it, with all it started.

    A signal that comes later ends the process at once. `command` is the name of what runs.
    """
    _state.command = command
    catch_signals()
    try:
        yield
    finally:
        if is_interrupted():
            end_now()
        _state.is_over = True


def allow_to_end(seconds: float) -> None:
    """Give this command another time to end in after a signal, such as to finish requests."""
    _state.seconds_to_end = seconds


def interrupt_as(number: int) -> None:
    """Do what our handler does, for a signal that the handler of a library has received."""
    _interrupt(number, None)


def is_interrupted() -> bool:
    """Whether this process has received a signal that ends it."""
    return _state.signal != 0


def stop_if_interrupted() -> None:
    """Raise KeyboardInterrupt again if a library has caught or replaced the one of our handler."""
    if is_interrupted():
        raise KeyboardInterrupt


def give_up(failure: str) -> None:
    """End a command that would otherwise wait for ever, with exit code 1 and a line that says why.

    Does nothing where no command runs, or after it.
    """
    if _state.mark and not _state.is_over and not is_interrupted():
        _state.failure = failure
        end_now()


def exit_code() -> int:
    """Return the exit code of an interrupted command: 130 after Ctrl-C, 143 after SIGTERM."""
    if _state.failure:
        return 1
    return 128 + (_state.signal or signal.SIGINT)


def told(advice: str = "", *, command: str | None = None) -> str:
    """Return the line that says that the command was interrupted, and what to do.

    By default, that is to run the same command again, named as in `ending_in_order`.
    """
    _state.is_told = True
    resumes = (_state.command if command is None else command) in _RESUMED
    advice = advice or "run the same command again" + (" to resume" if resumes else "")
    by = _state.signal or signal.SIGINT
    what = "interrupted" if by == signal.SIGINT else f"ended by {signal.Signals(by).name}"
    what = _state.failure or what
    return f"raymc: {what}; {advice}"


def end_now() -> None:
    """End this process and all that it has started, without any cleanup."""
    _state.is_ending = True
    said = _thread.allocate_lock()
    said.acquire()
    _thread.start_new_thread(_say_end, (said,))
    said.acquire(timeout=_SECONDS_TO_SAY)  # a pipe or terminal that nobody reads may be full
    with suppress(Exception):
        _leave_nothing()
    os._exit(exit_code())


def _end() -> None:
    """Do what is left at a command's end.

    Then only Python ends, which would put back the default handling of signals: they would kill a
    process that has done all it had to.
    """
    _leave_nothing()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _say_end(said: _thread.LockType) -> None:
    """Write what is still to be written, and the line of the interruption if that was not yet."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    with suppress(OSError):  # the terminal may be gone
        if os.isatty(1):
            os.write(1, _SHOW_CURSOR)
        if not _state.is_told:
            start = "\r" if os.isatty(2) else ""  # over the terminal's ^C
            os.write(2, f"{start}{told()}\n".encode())
    said.release()


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _state.is_ending:
        return
    if _state.is_due:
        _raise(frame)
        return
    since = time.monotonic() - _state.received
    if _state.signal and since < _SAME_SIGNAL_SECONDS:
        return
    is_second = _state.signal != 0
    _state.signal, _state.received = _state.signal or number, time.monotonic()
    late = number, _state.seconds_to_end
    _thread.start_new_thread(_end_late, late)  # not `threading`: its locks may be held just now
    if os.isatty(2):
        with suppress(OSError):
            os.write(2, b"\r")  # so that our line overwrites the terminal's ^C
    if is_second or _state.is_over:
        end_now()
    _raise(frame)


def _raise(frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but after an import: in one of torch, it would abort the process."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    was_due, _state.is_due = _state.is_due, frame is not None
    if frame is None:
        raise KeyboardInterrupt
    if not was_due:
        _thread.start_new_thread(_end_import, ())
    _thread.start_new_thread(_raise_soon, ())


def _end_import() -> None:
    time.sleep(_SECONDS_TO_IMPORT)
    if _state.is_due:
        end_now()


def _raise_elsewhere(usual: Callable[[Any], object], unraisable: "sys.UnraisableHookArgs") -> None:
    """Raise the KeyboardInterrupt again that came in a finaliser, where it has no effect."""
    if is_interrupted() and issubclass(unraisable.exc_type, KeyboardInterrupt):
        _state.is_due = True
        _thread.start_new_thread(_raise_soon, ())
    else:
        usual(unraisable)


def _raise_soon() -> None:
    time.sleep(0.01)  # not in a finaliser's hook itself, where it would be ignored again
    _state.imitated += 1
    _thread.interrupt_main(signal.Signals(_state.signal))


def _watch(heard: int) -> None:
    """End the process after signals that its main thread does not handle."""
    first = 0.0
    while True:
        for number in os.read(heard, 64):
            now = time.monotonic()
            if number in SIGNALS and _state.imitated:
                _state.imitated -= 1
                continue
            if number not in SIGNALS or 0 < now - first < _SAME_SIGNAL_SECONDS:
                continue
            wait = _SECONDS_TO_HANDLE if first else _state.seconds_to_end + _SECONDS_TO_HANDLE
            first = first or now
            _thread.start_new_thread(_end_late, (number, wait))


def _end_late(number: int, seconds: float) -> None:
    time.sleep(seconds)
    _state.signal = _state.signal or number
    end_now()


def _leave_nothing() -> None:
    """Kill what this process has started and has not ended, also what that has started."""
    if "ray" not in sys.modules and not is_interrupted():
        return  # only Ray leaves processes at the end of a command
    import psutil

    remember_started()
    end = time.monotonic() + _SECONDS_TO_KILL
    while time.monotonic() < end:
        left = [process for process in {*_state.started, *_marked()} if lives(process)]
        if not left:
            return
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1.0)


def remember_started() -> None:
    """Note what runs now of all that this process has started, before any of it loses its parent.

    Needed beside the variable in the environment, which a process of Ray overwrites when it sets
    its title.
    """
    import psutil

    _state.started |= set(psutil.Process().children(recursive=True))


def lives(process: "psutil.Process") -> bool:
    """Whether a process runs: not one that has ended and is only not yet reaped."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _marked() -> "Iterator[psutil.Process]":
    """Yield the other processes that have our variable in their environment."""
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(_MARK) == _state.mark:
                yield process
