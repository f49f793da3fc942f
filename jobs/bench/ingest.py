"""Padded batches arriving in the training process: raymc beside what people would use instead.

Every way reads the same rows in its own process, in turns with the others, and proves with a
checksum that its values are those that were written. `ingest_peers.py` has the ways.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

import raymc
from jobs.bench.batches import CLASSES, DIMS, NUMBER_OF, TOKENS, RawRow, Source, digest_of
from jobs.bench.ingest_peers import (
    BY_HAND,
    CACHED,
    NO_PEERS,
    RAY_DATA,
    STREAMED,
    WAYS,
    joined,
)
from jobs.bench.measure import NAME, Columns, Measurement, publish, shown, table
from jobs.bench.memory import drop_page_cache, touch_memory
from jobs.bench.ragged import RaggedRows, write_ragged
from raymc.data.shards import Modality, Row
from raymc.errors import ConfigError, DataError
from raymc.runtime.connect import connect
from raymc.tracking.notes import markdown_table

# The folder goes last, so that the peers' interpreter finds its own packages first.
_START = """\
import sys
sys.path.append({root!r})
from jobs.bench.ingest_peers import main
main()
"""
BRIEF = {"megabytes": (300,), "dtypes": ("float16",), "first_rounds": 1}


SUM_FILE = "sum.json"
EPOCHS = ("first", "later")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """What is measured, and how often."""

    ways: tuple[str, ...] = Field(
        default=(), description="Part of a way's name: run only the ways that have it."
    )
    megabytes: tuple[float, ...] = Field(
        default=(1000.0,), description="Size of a set's tokens, in 10^6 bytes."
    )
    dtypes: tuple[Literal["float16", "uint8"], ...] = Field(
        default=("float16", "uint8"), description="Type of the tokens: float16 or uint8."
    )
    workers: tuple[int, ...] = Field(default=(1,), description="Processes that train side by side.")
    data: str = Field(default="data/ingest", description="Folder for the sets, which are kept.")
    only_prepare: bool = Field(default=False, description="Only write the sets in all formats.")
    rounds: int = Field(default=5, ge=1, description="Number of later epochs of each way.")
    first_rounds: int = Field(
        default=3, ge=1, description="Number of first epochs of each way, each in a fresh process."
    )
    cold: bool = Field(
        default=True,
        description="Drop a way's files from the page cache before its first epochs.",
    )
    batch: int = Field(default=64, ge=1, description="Rows per batch.")
    shard_rows: int = Field(default=256, ge=1, description="Rows per shard.")
    window_mb: int = Field(default=1024, ge=1, description="raymc's batch.window_mb.")
    peer_python: str = Field(
        default="", description="Python interpreter for ways whose packages aren't installed here."
    )


def bench_ingest(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Compare ways of reading sets of all given sizes, types and numbers of workers.

    Raises:
        ConfigError: `ways` has a part that is in no way's name.
        DataError: a way gave other values than were written.
    """
    names = ways_named(settings.ways)
    if any(WAYS[name].on_ray for name in names) and not settings.only_prepare:
        connect()
    sections, measured, differing = [], [], []
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
                found = measure(settings, names, replace(source, workers=count))
            title = f"{size:,.0f} MB of {dtype}, {rows:,} rows, {count} worker{'s' * (count > 1)}"
            for one in found:
                one.case["set"] = title
            sections.append(f"\n### {title}\n\n{table_of(found)}\n{ratios_of(found)}")
            measured += found
            differing += [one.name for one in found if one["sum"] not in ([], [expected])]
    if not settings.only_prepare:
        publish("Ingest", "\n".join([_about(settings), *sections]), measured, console, out)
    for way in differing:
        raise DataError(f"{way}: the values that arrived are not those that were written")


def rows_in(megabytes: float, dtype: str) -> int:
    """Return how many rows have this many megabytes of tokens."""
    row_bytes = sum(TOKENS) / 2 * sum(DIMS.values()) * np.dtype(dtype).itemsize
    return max(1, round(megabytes * 1e6 / row_bytes))


def make_rows(
    count: int, dtype: Literal["float16", "uint8"], seen: Callable[[Row], None] = lambda row: None
) -> RaggedRows:
    """Return the rows of the set; `seen` is called with each that is made."""
    modalities = [Modality(name, dim, dtype) for name, dim in DIMS.items()]
    return RaggedRows(count, modalities, CLASSES, TOKENS, seed=7, seen=seen)


def make_set(
    folder: Path, rows: int, dtype: Literal["float16", "uint8"], *, shard_rows: int
) -> int:
    """Write the set as a dataset under `folder`, unless it is there; returns its checksum.

    Raises:
        DataError: another set is there.
    """
    known = folder / SUM_FILE
    if known.exists():
        return json.loads(known.read_text())["sum"]
    total = 0

    def add(row: Row) -> None:
        nonlocal total
        tokens = tuple(np.asarray(row.tokens[name]).tobytes() for name in DIMS)
        total += digest_of(RawRow(tokens, [NUMBER_OF[name] for name in row.labels]))

    made = make_rows(rows, dtype, add)
    write_ragged(folder / "raymc", {"train": made}, shard_rows=shard_rows)
    known.write_text(json.dumps({"sum": total % 2**64, "rows": rows}))
    return total % 2**64


def ways_named(parts: Sequence[str]) -> list[str]:
    """Return the ways whose names hold one of some parts; all if there are no parts.

    Raises:
        ConfigError: a part is in no name.
    """
    for part in parts:
        if not any(part in name for name in WAYS):
            raise ConfigError(f"no way is named {part!r}; choose from: {'; '.join(WAYS)}")
    return [name for name in WAYS if not parts or any(part in name for part in parts)]


def prepare(settings: Settings, names: Sequence[str], source: Source) -> None:
    """Write the format of every way."""
    for name in names:
        if WAYS[name].format:
            with ExitStack() as stack:
                _Processes(settings, name, source, stack).ask("prepare")


def measure(settings: Settings, names: Sequence[str], source: Source) -> list[Measurement]:
    """Time all ways in turns: first epochs, each in fresh processes, then later ones."""
    names = [name for name in names if source.workers == 1 or WAYS[name].shares]
    found = {name: Measurement(name) for name in names}

    def read(epoch: str, name: str) -> None:
        answer = running[name].ask("read")
        found[name].note = found[name].note or answer.get("reason", "")
        if not found[name].note:
            seconds = answer.pop("seconds")
            found[name].add(**{epoch: seconds}, **answer)

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
                read("first", name)
        for _ in range(settings.rounds):
            for name in names:
                read("later", name)
        for name in names:
            answer = running[name].ask("check")
            found[name].note = found[name].note or answer.get("reason", "")
            if "sum" in answer:
                found[name].add(sum=answer["sum"])
    for one in found.values():
        if one.note:  # a way that failed has no figures at all
            one.figures.clear()
    return list(found.values())


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
            with suppress(BrokenPipeError):  # it ended, and its last answer says why
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
        return joined(
            [json.loads(line) if line else {"reason": "its process died"} for line in lines]
        )


def _environment() -> dict[str, str]:
    """This process's environment, with the address of the Ray that runs here."""
    there = ray.is_initialized()
    return os.environ | ({"RAY_ADDRESS": ray.get_runtime_context().gcs_address} if there else {})


def _folder_of(name: str) -> str:
    written = WAYS[name].format
    return written[0] if written else "raymc"


def table_of(measured: Sequence[Measurement]) -> str:
    """Return a row for each way; ratios of speed are those to the loop by hand."""
    by_hand = next((one for one in measured if one.name == BY_HAND), Measurement(BY_HAND))
    columns: dict[str, Callable[[Measurement], str]] = {**NAME}
    for epoch in EPOCHS:
        columns |= _columns(epoch, by_hand)
    columns["peak MiB"] = lambda m: shown("{:,.0f}", m.spread("peak_bytes")[1] / 2**20)
    return table(columns, measured)


def _columns(epoch: str, by_hand: Measurement) -> Columns:
    def megabytes(m: Measurement, seconds: float) -> float:
        return m.median("bytes") / seconds / 1e6

    return {
        f"{epoch}: rows/s": lambda m: shown("{:,.0f}", m.median("rows") / m.median(epoch)),
        f"{epoch}: MB/s": lambda m: shown("{:,.0f}", megabytes(m, m.median(epoch))),
        f"{epoch}: MB/s, slowest to fastest": lambda m: shown(
            "{:,.0f} to {:,.0f}", *(megabytes(m, seconds) for seconds in m.spread(epoch)[::-1])
        ),
        f"{epoch}: ÷ by hand": lambda m: _ratio(m, by_hand, epoch),
    }


def ratios_of(measured: Sequence[Measurement]) -> str:
    """Return raymc's speed beside the loop by hand, the fastest peer, and Ray Data."""
    able = {one.name: one for one in measured if not one.note}
    peers = [one for one in able.values() if one.name not in NO_PEERS]
    rows = []
    for mine, epoch in product((able[way] for way in (CACHED, STREAMED) if way in able), EPOCHS):
        timed = [peer for peer in peers if peer[epoch]]
        best = min(timed, key=lambda peer: peer.median(epoch), default=None)
        beside = (able.get(BY_HAND), best, able.get(RAY_DATA))
        ratios = [_ratio(mine, other, epoch) for other in beside]
        ratios[1] += f" ({best.name})" if best else ""
        rows.append([f"{mine.name}, {epoch} epoch", *ratios])
    return markdown_table(["speed of", "÷ by hand", "÷ fastest peer", f"÷ {RAY_DATA}"], rows)


def _ratio(mine: Measurement, other: Measurement | None, epoch: str) -> str:
    """How many times as fast as another a way is."""
    return shown("{:.2f}", other.median(epoch) / mine.median(epoch)) if other else ""


def _about(settings: Settings) -> str:
    cold = "dropped" if settings.cold else "not dropped"
    return (
        "Clips of 24 to 300 tokens, 1024-d and 128-d, in padded torch batches of "
        f"{settings.batch}; shards of {settings.shard_rows} rows, uncompressed. Every way runs in "
        f"its own process, in turns: {settings.first_rounds} first epochs in fresh processes, "
        f"timed from opening on, the page cache {cold} before each; then {settings.rounds} later "
        "ones, the page cache left alone; medians. Four times the set's size of memory was used "
        "once before, because hosts of virtual machines provide memory when it is first touched. "
        "MB are of tokens without padding. Peak is VmHWM of the process in which the batches "
        "arrive: it includes mapped pages of files and of the object store, but not a loader's own "
        "processes. Peers' formats were written before; raymc's first epoch shares the split and "
        "then reads it, with Ray already running. pyarrow alone and Ray Data don't shuffle; raymc "
        f"shuffles windows of {settings.window_mb:,} MiB, datasets (mapped) the whole set, the "
        "others within shards or buffers. In every line with numbers, the checksum over all values "
        "and labels is that of what was written.\n"
    )
