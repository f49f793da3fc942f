"""How checks and label statistics grow with a dataset: time and memory of ten times the rows.

Timed in the same turns are the limits: the same files read, and read and hashed on every core, from
the page cache and, where the system can forget it, from the disk.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from jobs.bench.measure import Columns, Measurement, apart, publish, shown, table, take_turns
from jobs.bench.memory import added_bytes, drop_page_cache
from jobs.bench.ragged import LABELS_OF_A_CLIP, RaggedRows, write_ragged
from raymc.data.check import check_dataset
from raymc.data.info import describe
from raymc.data.shards import Modality, count_classes, open_dataset

BRIEF = {"rows": 30_000}
CLASSES = tuple(f"class-{k}" for k in range(1000))
MODALITIES = (Modality("visual", 512), Modality("audio", 128, "uint8"))
TOKENS = (8, 24)  # of a clip: 18 kB on average
GROWTH = 10
PIECE_BYTES = 1 << 20
SPLIT = "train"
COLD = ", from the disk"
HASHED = "read and hashed"
OWN = ("data check", "data info", "labels counted")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """How large the dataset is, and how often each way is timed."""

    rows: int = Field(default=100_000, ge=100, description="Rows of the larger of two datasets.")
    rounds: int = Field(default=5, ge=1, description="How often each way is timed.")
    folder: str = Field(
        default="", description="Where the datasets are written, and deleted at the end."
    )


def bench_growth(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Time `raymc data check`, `raymc data info` and the counting of labels, on N and N / 10 rows.

    Each also runs once in its own process, to measure its memory.
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
        found = {one.name: one for one in take_turns(turns, rounds=settings.rounds)}
        for key in (f"{name}, {rows:,}" for name, rows in product(OWN, sizes)):
            found[key].add(added_bytes=apart(_added, turns[key]))
    text = (
        f"Clips of {TOKENS[0]} to {TOKENS[1]} tokens (512 float16 and 128 uint8 numbers each) with "
        f"{LABELS_OF_A_CLIP} of {len(CLASSES):,} labels; {nbytes[settings.rows] / 1e9:.2f} GB; "
        f"{settings.rounds} rounds in turns, medians. Memory is what one call adds in its "
        f"own process. Growth is the time for {GROWTH} times the rows.\n\n"
    )
    page = text + table_of(names, nbytes, found)
    publish("Growth", page, list(found.values()), console, out)


def make_dataset(folder: Path, rows: int) -> Path:
    """Write a dataset of this many clips."""
    write_ragged(folder, {SPLIT: RaggedRows(rows, MODALITIES, CLASSES, TOKENS)})
    return folder


def ways_of(folder: Path) -> dict[str, Callable[[], object]]:
    """Return what is timed on a dataset, by name: limits first, then raymc's own."""
    warm: dict[str, Callable[[], object]] = {
        "read": partial(_on_every_core, _read, folder),
        HASHED: partial(_on_every_core, _hash, folder),
        "data check": partial(check_dataset, str(folder)),
        "data info": partial(_describe, folder),
        "labels counted": partial(_count, folder),
    }
    if not hasattr(os, "posix_fadvise"):  # only Linux forgets
        return warm
    # both read all of every file, so the ways that follow find them in the cache
    cold = ("read", "data check")
    return warm | {f"{name}{COLD}": partial(_forgotten, warm[name], folder) for name in cold}


def table_of(
    names: Sequence[str], nbytes: Mapping[int, int], found: Mapping[str, Measurement]
) -> str:
    """Return the table: each way on both sizes, its speed beside hashing, and how it grows."""
    few, many = nbytes
    small = {name: found[f"{name}, {few:,}"] for name in names}
    large = {found[f"{name}, {many:,}"].name: name for name in names}
    limit = found[f"{HASHED}, {many:,}"].median("seconds")

    def less(m: Measurement) -> Measurement:
        return small[large[m.name]]

    columns: Columns = {
        "": lambda m: large[m.name],
        f"s, {few:,} rows": lambda m: shown("{:.3g}", less(m).median("seconds")),
        f"s, {many:,} rows": lambda m: shown("{:.3g}", m.median("seconds")),
        "spread": lambda m: shown("{:.3g} to {:.3g}", *m.spread("seconds")),
        "growth": lambda m: shown("× {:.1f}", m.median("seconds") / less(m).median("seconds")),
        "GB/s": lambda m: shown("{:.2f}", nbytes[many] / m.median("seconds") / 1e9),
        "of hashing's speed": lambda m: shown("{:.2f}", limit / m.median("seconds")),
        f"MiB, {few:,} rows": lambda m: shown("{:,.0f}", less(m).median("added_bytes") / 2**20),
        f"MiB, {many:,} rows": lambda m: shown("{:,.0f}", m.median("added_bytes") / 2**20),
    }
    return table(columns, [found[key] for key in large])


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
    drop_page_cache(folder)
    way()


def _added(way: Callable[[], object]) -> float:
    return added_bytes(way, warm=False)
