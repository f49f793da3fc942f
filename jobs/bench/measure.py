"""Ways of doing the same, timed in turns, and what came out as a table and as JSON.

Imports neither Ray nor MLflow. Only ratios within one run mean anything: machines differ, and
so do their neighbours from hour to hour.
"""

import ctypes
import json
import math
import mmap
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.markdown import Markdown

PACKAGES = (
    *("raymc", "ray", "torch", "torchaudio", "pyarrow", "numpy", "av", "optuna", "lightning"),
    *("transformers", "accelerate", "datasets", "mosaicml-streaming", "webdataset", "litdata"),
)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Timing:
    """One way's seconds in each round."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The fastest and the slowest round."""
        return min(self.seconds), max(self.seconds)


def take_turns(ways: Mapping[str, Callable[[], object]], *, rounds: int) -> list[Timing]:
    """Time each way once a round, A B A B …, after a first call of each that doesn't count."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    return [Timing(name, tuple(found)) for name, found in seconds.items()]


def apart(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a process that ends with it.

    Raises:
        RuntimeError: The function did, or the process was killed.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def added_bytes(way: Callable[[], object], *, warm: bool = True) -> float:
    """Return the most memory that a call of `way` adds to this process while it runs.

    Freed memory that the allocator keeps is given back first. NaN where the system doesn't tell:
    only Linux with glibc does.

    Args:
        way: What to call.
        warm: Whether it is the second call that counts. Not for what keeps its memory itself,
            as Arrow does, which a second call would use again.
    """
    if warm:
        way()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    except (OSError, AttributeError):
        return math.nan
    before = _status_bytes("VmRSS")
    way()
    return float(_status_bytes("VmHWM") - before)


def touch_memory(bytes_wanted: int) -> None:
    """Use so many bytes of memory once, or half of what is free, and give them back.

    The host of a virtual machine gives it memory when it is first touched, at several times the
    cost of memory that was used before; whatever is timed first would pay that for all.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * mmap.PAGESIZE
    with mmap.mmap(-1, max(mmap.PAGESIZE, min(bytes_wanted, free // 2))) as memory:
        for page in range(0, len(memory), mmap.PAGESIZE):
            memory[page] = 1


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def machine() -> dict[str, str]:
    """Return what the timings were taken on, and when and how: processor, versions, command."""
    from raymc.tracking.records import command_line, git_commit  # seconds that few processes need

    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        **{name: found for name in PACKAGES if (found := _version(name))},
        "commit": git_commit() or "unknown",
        "command": command_line(),
        "date": datetime.now().astimezone().isoformat(" ", "minutes"),
    }


def machine_line() -> str:
    """Return what `machine` finds as one line."""
    return ", ".join(f"{name} {value}" for name, value in machine().items())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    named = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def publish(
    title: str,
    text: str,
    timings: Sequence[Timing],
    console: Console,
    out: Path | None,
    *,
    figures: Sequence[Mapping[str, object]] = (),
) -> None:
    """Print a benchmark's text and machine; write both, and all its numbers, where asked to.

    Args:
        title: Of the page; the files are named after it.
        text: The page, but for title and machine.
        timings: All rounds of all ways.
        console: Where the page goes.
        out: Folder for the page and, as JSON, the numbers.
        figures: Other numbers, as plain JSON values.
    """
    page = f"## {title}\n\n{text}\n{machine_line()}\n"
    console.print(Markdown(page) if console.is_terminal else page, highlight=False, soft_wrap=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        stem = title.lower().replace(" ", "-")
        (out / f"{stem}.md").write_text(page)
        values = {"machine": machine(), "timings": [asdict(timing) for timing in timings]}
        values |= {"figures": list(figures)} if figures else {}
        (out / f"{stem}.json").write_text(json.dumps(values, indent=1))
