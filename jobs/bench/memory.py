"""Memory of a call, of this process, and of the processes below it.

Loads the standard library alone, because the readers of the ingest benchmark also run where
raymc isn't installed. Only Linux reports these numbers.
"""

import ctypes
import math
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")


def added_bytes(way: Callable[[], object], *, warm: bool = True) -> float:
    """Return the most memory that a call of `way` adds to this process while it runs.

    Freed memory that the allocator keeps is given back first. NaN where the system doesn't tell:
    only Linux with glibc does.

    Args:
        way: What to call.
        warm: Measure the second call. Not for calls that keep their memory for the next one, as
            Arrow does.
    """
    if warm:
        way()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to what is used now
    except (OSError, AttributeError):
        return math.nan
    before = _status_bytes("VmRSS")
    way()
    return float(peak_bytes() - before)


def peak_bytes() -> int:
    """Return the most memory that this process has had, shared memory included; 0 if unknown."""
    return _status_bytes("VmHWM")


def _status_bytes(field: str) -> int:
    lines = _STATUS.read_text().splitlines() if _STATUS.exists() else []
    found = (int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    return next(found, 0)


def peak_bytes_of_all(way: Callable[[], object]) -> int:
    """Return the most memory that this process and all below it had while `way` ran.

    Memory that processes share is divided among them.
    """
    import psutil

    done, peak = threading.Event(), 0

    def own_bytes(process: Any) -> int:
        try:
            return process.memory_full_info().pss
        except psutil.Error:  # the process has ended
            return 0

    def watch() -> None:
        nonlocal peak
        here = psutil.Process()
        while not done.wait(0.2):
            peak = max(peak, sum(map(own_bytes, [here, *here.children(recursive=True)])))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        way()
    finally:
        done.set()
        watcher.join()
    return peak


def touch_memory(bytes_wanted: int) -> None:
    """Use this many bytes of memory once, or half of what is free, and give them back.

    The host of a virtual machine provides memory when it is first touched, at several times the
    cost of memory that was used before. Without this, the first measurement pays for all.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * mmap.PAGESIZE
    with mmap.mmap(-1, max(mmap.PAGESIZE, min(bytes_wanted, free // 2))) as memory:
        for page in range(0, len(memory), mmap.PAGESIZE):
            memory[page] = 1


def drop_page_cache(folder: Path) -> None:
    """Have the system forget the contents of the files below a folder, where it can."""
    for path in folder.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            with path.open("rb") as file:
                os.fsync(file.fileno())  # what isn't on the disk yet can't be forgotten
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
