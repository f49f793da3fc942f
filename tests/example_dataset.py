"""A small dataset with everything a row may have, for the tests of those who write and read it."""

from pathlib import Path
from typing import Any

import numpy as np

from raymc.data.labels import Vocabulary
from raymc.data.shards import Manifest, Modality, Row, Rows, write_dataset

VOCABULARY = Vocabulary(("sounds", "rhyming", "adding"), {"math": ("adding",)})
MODALITIES = (Modality("visual", 4, rate_hz=2.0, encoder="vit"), Modality("audio", 2, "uint8"))


def make_row(i: int, prefix: str = "train") -> Row:
    """Row i: labels, lengths and values follow from i alone; every third one is silent."""
    rng = np.random.default_rng(i)
    return Row(
        id=f"{prefix}-{i}",
        labels=[name for name in VOCABULARY.names if rng.random() < 0.4],
        tokens={
            "visual": rng.normal(size=(1 + i % 5, 4)),
            "audio": None if i % 3 == 0 else rng.integers(0, 255, (i % 4, 2), dtype=np.uint8),
        },
        observed=None if i % 2 else ["math"],
        extra={"url": f"https://example.org/{i}", "start_seconds": i / 2},
    )


class LazyRows:
    """Makes rows when asked for, notes which, and breaks down at `fails_at`."""

    def __init__(self, length: int, prefix: str = "train", fails_at: int | None = None) -> None:
        self.length, self.prefix, self.fails_at = length, prefix, fails_at
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int, /) -> Row:
        if i == self.fails_at:
            raise RuntimeError("power cut")
        self.asked.append(i)
        return make_row(i, self.prefix)


def write(path: Path | str, train: Rows | int = 10, **changes: Any) -> Manifest:
    rows = LazyRows(train) if isinstance(train, int) else train
    arguments: dict[str, Any] = {
        "vocabulary": VOCABULARY,
        "modalities": MODALITIES,
        "provenance": {"seed": 0},
        "license": "CC0-1.0",
        "shard_rows": 4,
        "splits": {"train": rows, "val": LazyRows(3, "val")},
    }
    return write_dataset(str(path), **(arguments | changes))


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}
