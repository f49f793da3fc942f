"""The rows of the ingest benchmark: ragged, random, each a pure function of its number."""

import json
from pathlib import Path

import numpy as np

from jobs.bench.ingest_parts.batches import CLASSES, DIMS, TOKENS, RawRow, digest_of
from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Row, write_dataset

LABELS_OF_A_ROW = 3
SUM_FILE = "sum.json"


class MadeRows:
    """Rows that are made when asked for; float16 values are finite, all others as random."""

    def __init__(self, rows: int, dtype: str) -> None:
        self.rows, self.dtype = rows, dtype
        self.sum = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.rows

    def __getitem__(self, i: int, /) -> Row:
        """Make row i, and add its digest to the sum."""
        generator = np.random.default_rng([7, i])
        length = int(generator.integers(TOKENS[0], TOKENS[1] + 1))
        chosen = sorted(generator.choice(len(CLASSES), LABELS_OF_A_ROW, replace=False).tolist())
        tokens = {name: self._values(generator, (length, dim)) for name, dim in DIMS.items()}
        raw = RawRow(tuple(values.tobytes() for values in tokens.values()), chosen)
        self.sum = (self.sum + digest_of(raw)) % 2**64
        return Row(f"row-{i:07d}", [CLASSES[number] for number in chosen], tokens)

    def _values(self, generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        if self.dtype == "uint8":
            return generator.integers(0, 256, shape, np.uint8)
        return generator.integers(0, 0x3C00, shape, np.uint16).view(np.float16)  # from 0 to 1


def rows_in(megabytes: float, dtype: str) -> int:
    """Return how many rows have so many megabytes of tokens."""
    row_bytes = sum(TOKENS) / 2 * sum(DIMS.values()) * np.dtype(dtype).itemsize
    return max(1, round(megabytes * 1e6 / row_bytes))


def make_set(folder: Path, rows: int, dtype: str, *, shard_rows: int) -> int:
    """Write the set as a dataset under `folder`, unless it is there; returns its checksum.

    Raises:
        DataError: another set is there.
    """
    known = folder / SUM_FILE
    if known.exists():
        return json.loads(known.read_text())["sum"]
    made = MadeRows(rows, dtype)
    write_dataset(
        str(folder / "raymc"),
        {"train": made},
        vocabulary=Vocabulary(CLASSES),
        modalities=[Modality(name, dim, dtype) for name, dim in DIMS.items()],  # pyright: ignore[reportArgumentType]
        shard_rows=shard_rows,
    )
    known.write_text(json.dumps({"sum": made.sum, "rows": rows}))
    return made.sum
