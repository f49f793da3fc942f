"""Padded batches arriving in the training process: raymc beside what people would use instead.

Top layer. Every way reads the same rows, in a process of its own, in turns with the others, and
proves with a checksum that its values are those that were written.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, Literal

import ray
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

import raymc
from jobs.bench.ingest_parts.batches import Source
from jobs.bench.ingest_parts.made_set import make_set, rows_in
from jobs.bench.ingest_parts.process import WAYS
from jobs.bench.ingest_parts.table import Figure, numbers_of, section_of
from jobs.bench.measure import publish, touch_memory
from raymc.errors import ConfigError, DataError
from raymc.runtime.connect import connect

# The folder is appended, so that an interpreter of peers takes all else from its own packages.
_START = """\
import sys
sys.path.append({root!r})
from jobs.bench.ingest_parts.process import main
main()
"""
# Of `raymc bench all`.
BRIEF = {"megabytes": (300,), "dtypes": ("float16",), "first_rounds": 1}


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """What is measured, and how often."""

    ways: tuple[str, ...] = Field(
        default=(), description="Part of the names of the ways that are taken; all by default."
    )
    megabytes: tuple[float, ...] = Field(
        default=(1000.0,), description="Of a set's tokens, in 10^6 bytes."
    )
    dtypes: tuple[Literal["float16", "uint8"], ...] = Field(
        default=("float16", "uint8"), description="Of the tokens: float16, uint8."
    )
    workers: tuple[int, ...] = Field(default=(1,), description="Processes that train side by side.")
    data: str = Field(default="data/ingest", description="Folder for the sets; they are kept.")
    only_prepare: bool = Field(
        default=False, description="Write the sets in all formats, and measure nothing."
    )
    rounds: int = Field(default=5, ge=1, description="Later epochs of each way.")
    first_rounds: int = Field(
        default=3, ge=1, description="First epochs of each way, each in a fresh process."
    )
    cold: bool = Field(
        default=True,
        description="Drop a way's files from the page cache before its first epochs.",
    )
    batch: int = Field(default=64, ge=1, description="Rows of a batch.")
    shard_rows: int = Field(default=256, ge=1, description="Rows of a shard.")
    window_mb: int = Field(default=1024, ge=1, description="raymc's batch.window_mb.")
    peer_python: str = Field(
        default="", description="Interpreter for ways whose packages aren't installed here."
    )


def bench_ingest(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Compare ways of reading sets of all given sizes, types and numbers of workers.

    Args:
        console: Where the tables go.
        settings: See there.
        out: Folder for the tables and all numbers.

    Raises:
        ConfigError: a part of a way's name is in none.
        DataError: a way gave other values than were written.
    """
    names = ways_named(settings.ways)
    if any(WAYS[name].on_ray for name in names) and not settings.only_prepare:
        connect()
    sections, numbers, differing = [], [], []
    for size, dtype in product(settings.megabytes, settings.dtypes):
        folder = Path(settings.data).absolute() / f"{dtype}-{size:g}mb"
        source = Source(str(folder), dtype, settings.batch, window_mb=settings.window_mb)
        rows = rows_in(size, dtype)
        with console.status(f"writing {folder}"):
            expected = make_set(folder, rows, dtype, shard_rows=settings.shard_rows)
            prepare(settings, names, source)
        for count in () if settings.only_prepare else settings.workers:
            with console.status(f"reading {folder}, {count} workers"):
                touch_memory(round(4e6 * size))
                figures = measure(settings, names, replace(source, workers=count))
            title = f"{size:,.0f} MB of {dtype}, {rows:,} rows, {count} worker{'s' * (count > 1)}"
            sections.append(section_of(title, figures))
            numbers += [{"set": title, **numbers_of(figure)} for figure in figures]
            differing += [f.way for f in figures if f.sum not in (None, expected)]
    if not settings.only_prepare:
        page = "\n".join([_about(settings), *sections])
        publish("Ingest", page, [], console, out, figures=numbers)
    for way in differing:
        raise DataError(f"{way}: the values that arrived are not those that were written")


def ways_named(parts: Sequence[str]) -> list[str]:
    """Return the ways whose names hold one of some parts; all if there are no parts.

    Raises:
        ConfigError: a part is in no name.
    """
    for part in parts:
        if not any(part in name for name in WAYS):
            raise ConfigError(f"no way is named {part!r}; there are: {'; '.join(WAYS)}")
    return [name for name in WAYS if not parts or any(part in name for part in parts)]


def prepare(settings: Settings, names: Sequence[str], source: Source) -> None:
    """Have every way's own format written."""
    for name in names:
        if WAYS[name].format:
            with ExitStack() as stack:
                _Processes(settings, name, source, stack).ask("prepare")


def measure(settings: Settings, names: Sequence[str], source: Source) -> list[Figure]:
    """Time all ways in turns: first epochs, each in fresh processes, then later ones."""
    names = [name for name in names if source.workers == 1 or WAYS[name].shares]
    figures = {name: Figure(name) for name in names}
    with ExitStack() as stack:
        running: dict[str, _Processes] = {}
        for _ in range(settings.first_rounds):
            for name in names:
                if name in running:
                    running[name].end()
                running[name] = _Processes(settings, name, source, stack)
                running[name].ask("start")
                if settings.cold:
                    drop_page_cache(Path(source.folder, _folder_of(name)))
                figures[name].add_first(running[name].ask("read"))
        for _ in range(settings.rounds):
            for name in names:
                figures[name].add_later(running[name].ask("read"))
        for name in names:
            figures[name].add_check(running[name].ask("check"))
    return list(figures.values())


def drop_page_cache(folder: Path) -> None:
    """Have the system forget the contents of the files below a folder, where it can."""
    for path in folder.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class _Processes:
    """The processes of one way, one for each share unless it starts workers itself."""

    def __init__(self, settings: Settings, name: str, source: Source, stack: ExitStack) -> None:
        way = WAYS[name]
        here = find_spec(way.package) is not None or not settings.peer_python
        python = sys.executable if here else settings.peer_python
        shares = 1 if way.on_ray else source.workers
        self._processes = []
        root = str(Path(raymc.__file__).parent.parent)
        for rank in range(shares):
            given = json.dumps(asdict(replace(source, rank=rank)))
            process = subprocess.Popen(
                [python, "-c", _START.format(root=root), name, given],
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self._processes.append(process)
        stack.callback(self.end)
        self._reason = ""

    def ask(self, command: str) -> dict[str, Any]:
        """Give all processes a command at once; returns their answers as one."""
        if self._reason:
            return {"reason": self._reason}
        for process in self._processes:
            with suppress(BrokenPipeError):  # it has told why, and ended
                print(command, file=process.stdin, flush=True)
        found = self._answers()
        self._reason = found.get("reason", "")
        return found

    def end(self) -> None:
        """End the processes, by closing their input."""
        for process in self._processes:
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()

    def _answers(self) -> dict[str, Any]:
        lines = [process.stdout.readline() for process in self._processes]
        found = [json.loads(line) if line else {"reason": "its process died"} for line in lines]
        joined = {key: [one[key] for one in found if key in one] for one in found for key in one}
        return {key: _JOINED[key](values) for key, values in joined.items()}


def _environment() -> dict[str, str]:
    """Return this process's environment, and in it the address of the Ray that is up here."""
    there = ray.is_initialized()
    return os.environ | ({"RAY_ADDRESS": ray.get_runtime_context().gcs_address} if there else {})


_JOINED: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "seconds": max,
    "peak_bytes": max,
    "rows": sum,
    "bytes": sum,
    "sum": lambda sums: sum(sums) % 2**64,
    "reason": lambda reasons: reasons[0],
}


def _folder_of(name: str) -> str:
    written = WAYS[name].format
    return written[0] if written else "raymc"


def _about(settings: Settings) -> str:
    cold = "dropped" if settings.cold else "not dropped"
    return (
        "Clips of 24 to 300 tokens, 1024-d and 128-d, in padded torch batches of "
        f"{settings.batch}; shards of {settings.shard_rows} rows, uncompressed. Every way in a "
        f"process of its own, in turns: {settings.first_rounds} first epochs in fresh processes, "
        f"from opening on, the page cache {cold} before each; {settings.rounds} later ones, the "
        "page cache as it is; medians. Four times the set's size of memory was used once before, "
        "as hosts of virtual machines give it when first touched. MB are of tokens without "
        "padding. Peak is VmHWM of the process in which the batches arrive: mapped pages of files "
        "and of the object store are in it, a loader's own processes are not. Peers' formats were "
        "written before; raymc's first epoch is to share the split and then to read it, Ray being "
        "up. pyarrow alone and Ray Data don't shuffle; raymc shuffles windows of "
        f"{settings.window_mb:,} MiB, datasets (mapped) the whole, the others within shards or "
        "buffers. Checksums over all values and labels are those of what was written, wherever a "
        "line has numbers.\n"
    )
