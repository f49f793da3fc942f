"""The datasets of random clips that benchmarks of speed use: rows of unequal length."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Row, write_dataset

LABELS_OF_A_CLIP = 3


class RaggedRows:
    """Clips of random tokens, as many in each modality; each clip a function of seed and number."""

    def __init__(
        self,
        count: int,
        modalities: Sequence[Modality],
        classes: Sequence[str],
        tokens: tuple[int, int],
        *,
        seed: int = 0,
        seen: Callable[[Row], None] = lambda row: None,
    ) -> None:
        """Describe the clips.

        Args:
            count: How many there are.
            modalities: Their tokens: uint8, or float16 numbers from 0 to 1.
            classes: Each clip has `LABELS_OF_A_CLIP` of them.
            tokens: Fewest and most of a clip.
            seed: Other clips for another number.
            seen: Called with each clip that is made.
        """
        self.count, self.modalities, self.classes = count, modalities, classes
        self.tokens, self.seed, self.seen = tokens, seed, seen

    def __len__(self) -> int:
        """Return how many there are."""
        return self.count

    def __getitem__(self, i: int, /) -> Row:
        """Make clip i."""
        generator = np.random.default_rng([self.seed, i])
        length = int(generator.integers(*self.tokens, endpoint=True))
        chosen = sorted(generator.choice(len(self.classes), LABELS_OF_A_CLIP, replace=False))
        row = Row(
            id=f"clip-{i:09d}",
            labels=[self.classes[int(k)] for k in chosen],
            tokens={m.name: _values(generator, (length, m.dim), m.dtype) for m in self.modalities},
        )
        self.seen(row)
        return row


def _values(generator: np.random.Generator, shape: tuple[int, int], dtype: str) -> np.ndarray:
    if dtype == "uint8":
        return generator.integers(256, size=shape, dtype=np.uint8)
    # the bits of float16 numbers below 1: quicker to draw than the numbers
    return generator.integers(0x3C00, size=shape, dtype=np.uint16).view(np.float16)


def write_ragged(folder: Path, splits: Mapping[str, RaggedRows], *, shard_rows: int = 512) -> None:
    """Write splits of the same modalities and classes as a dataset."""
    rows = next(iter(splits.values()))
    write_dataset(
        str(folder),
        splits,
        vocabulary=Vocabulary(tuple(rows.classes)),
        modalities=rows.modalities,
        shard_rows=shard_rows,
    )
