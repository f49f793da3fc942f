"""How checks and label statistics grow with a dataset: seconds and memory of ten times the rows.

Top layer. In the same turns stand the limits: the same files read, and read and hashed on every
core, from the page cache and, where the system can be told to forget them, from the disk.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from jobs.bench.measure import Timing, added_bytes, apart, publish, take_turns
from raymc.data.check import check_dataset
from raymc.data.feed.on_ray import count_classes
from raymc.data.info import describe
from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Row, open_dataset, write_dataset
from raymc.tracking.notes import markdown_table

BRIEF = {"rows": 30_000}
CLASSES, LABELS_OF_A_CLIP = 1000, 3
VISUAL, AUDIO = Modality("visual", 512), Modality("audio", 128, "uint8")
TOKENS = (8, 24)  # of a clip: 18 kB on average
GROWTH = 10
PIECE_BYTES = 1 << 20
SPLIT = "train"
COLD = ", from the disk"
OWN = ("data check", "data info", "labels counted")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """How large the dataset is, and how often each way is timed."""

    rows: int = Field(default=100_000, ge=100, description="Rows of the larger of two datasets.")
    rounds: int = Field(default=5, ge=1, description="How often each way is timed.")
    folder: str = Field(default="", description="Where the datasets are made, and deleted.")


class Clips:
    """Rows of random tokens and labels, each a function of its number."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        """Return how many there are."""
        return self.count

    def __getitem__(self, i: int, /) -> Row:
        """Make row i."""
        generator = np.random.default_rng(i)
        tokens = int(generator.integers(*TOKENS, endpoint=True))
        # bits of float16 numbers in [0, 1)
        values = generator.integers(0x3C00, size=(tokens, VISUAL.dim), dtype=np.uint16)
        sound = generator.integers(256, size=(tokens, AUDIO.dim), dtype=np.uint8)
        chosen = generator.integers(CLASSES, size=LABELS_OF_A_CLIP)
        return Row(
            id=f"clip-{i:09d}",
            labels=[f"class-{k}" for k in chosen],
            tokens={VISUAL.name: values.view(np.float16), AUDIO.name: sound},
        )


def bench_growth(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Time `raymc data check`, `raymc data info` and the counting of labels, on N and N / 10 rows.

    Each is also run once in a process of its own, whose memory is measured.
    """
    sizes = (settings.rows // GROWTH, settings.rows)
    if settings.folder:
        Path(settings.folder).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=settings.folder or None) as root:
        folders = {rows: make_dataset(Path(root) / str(rows), rows) for rows in sizes}
        nbytes = {rows: sum(map(os.path.getsize, _files(folders[rows]))) for rows in sizes}
        ways = {rows: ways_of(folders[rows]) for rows in sizes}
        names = list(ways[settings.rows])
        turns = {f"{name}, {rows:,}": ways[rows][name] for name, rows in product(names, sizes)}
        timings = take_turns(turns, rounds=settings.rounds)
        own = (f"{name}, {rows:,}" for name, rows in product(OWN, sizes))
        added = {name: apart(_added, turns[name]) for name in own}
    text = (
        f"Clips of {TOKENS[0]} to {TOKENS[1]} tokens ({VISUAL.dim} float16 and {AUDIO.dim} uint8 "
        f"numbers) with {LABELS_OF_A_CLIP} of {CLASSES:,} labels; "
        f"{nbytes[settings.rows] / 1e9:.2f} GB; {settings.rounds} rounds in turns, medians. "
        "Memory is what one call adds in a process of its own. Growth is that of "
        f"{GROWTH} times the rows.\n\n"
    )
    table = table_of(names, nbytes, timings, added)
    figures = [{"way": name, "added_bytes": value} for name, value in added.items()]
    publish("Growth", text + table, timings, console, out, figures=figures)


def make_dataset(folder: Path, rows: int) -> Path:
    """Write a dataset of so many clips, down to the disk."""
    names = tuple(f"class-{k}" for k in range(CLASSES))
    write_dataset(
        str(folder),
        {SPLIT: Clips(rows)},
        vocabulary=Vocabulary(names),
        modalities=(VISUAL, AUDIO),
    )
    os.sync()  # what isn't on the disk yet can't be forgotten
    return folder


def ways_of(folder: Path) -> dict[str, Callable[[], object]]:
    """Return what is timed on a dataset, by name: limits first, then raymc's own."""
    warm: dict[str, Callable[[], object]] = {
        "read": partial(_on_every_core, _read, folder),
        "read and hashed": partial(_on_every_core, _hash, folder),
        "data check": partial(check_dataset, str(folder)),
        "data info": partial(_describe, folder),
        "labels counted": partial(_count, folder),
    }
    if not hasattr(os, "posix_fadvise"):  # only Linux forgets
        return warm
    # both read all of every file, so that the ways that follow find them in the cache
    cold = ("read", "data check")
    return warm | {f"{name}{COLD}": partial(_forgotten, warm[name], folder) for name in cold}


def table_of(
    names: list[str],
    nbytes: Mapping[int, int],
    timings: list[Timing],
    added: Mapping[str, float],
) -> str:
    """Return the table: each way on both sizes, its speed beside hashing, and how it grows."""
    found = {timing.name: timing for timing in timings}
    few, many = nbytes
    rows = []
    for name in names:
        small, large = (found[f"{name}, {size:,}"] for size in (few, many))
        limit = found[f"read and hashed, {many:,}"]
        memory = [added.get(f"{name}, {size:,}") for size in (few, many)]
        rows.append(
            [
                name,
                f"{small.median:.3g}",
                f"{large.median:.3g}",
                "{:.3g} to {:.3g}".format(*large.spread),
                f"× {large.median / small.median:.1f}",
                f"{nbytes[many] / large.median / 1e9:.2f}",
                f"{limit.median / large.median:.2f}",
                *("" if size is None else f"{size / 2**20:,.0f}" for size in memory),
            ]
        )
    header = ["", f"s, {few:,} rows", f"s, {many:,} rows", "spread", "growth", "GB/s"]
    header += ["of hashing's speed", f"MiB, {few:,} rows", f"MiB, {many:,} rows"]
    return markdown_table(header, rows)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


def _on_every_core(look: Callable[[Path], object], folder: Path) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(look, _files(folder)))


def _read(file: Path) -> None:
    buffer = bytearray(PIECE_BYTES)
    with file.open("rb", buffering=0) as source:
        while source.readinto(buffer):
            pass


def _hash(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _describe(folder: Path) -> object:
    return describe(open_dataset(str(folder)))


def _count(folder: Path) -> object:
    return count_classes(open_dataset(str(folder)), SPLIT)


def _forgotten(way: Callable[[], object], folder: Path) -> None:
    """Take a way once the system has forgotten the files, so that they come from the disk."""
    for file in _files(folder):
        with file.open("rb") as source:
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    way()


def _added(way: Callable[[], object]) -> float:
    return added_bytes(way, warm=False)
