"""Made-up clips with a long tail of labels: many classes, most of them rare, in ragged clips.

How often a label occurs is shaped after YouTube-8M (S. Abu-El-Haja et al. 2016, arXiv 1609.08675):
the first class is in a fifth of all clips, the last of its 3,862 in one of tens of thousands, and a
clip has about three. Clips have its 24 to 300 tokens of one byte a value. A class is a cluster. Ten
classes share a direction, so that rare ones look like a frequent one. A label shows for a part of
its clip, and a little differently in each.

Axes: C classes, T tokens, D values of a token.
"""

from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from jaxtyping import Float

from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Row
from raymc.formats.recipe import DatasetRecipe, LazyRows

LARGEST, SHIFT, POWER = 0.2, 5, 1.35  # share of clips with the first class, and its decline
TOKENS = (24, 300)
DIM = 64
FAMILY = 10  # classes that share a direction
SIGNAL, VARIATION, SCENE = 1.6, 0.8, 1.0  # of a label, of its showing in a clip, of the clip
SHOWN = (0.2, 0.6)  # share of its clip for which a label shows
SCALE, OFFSET = 0.05, -6.375  # bytes stand for values from -6.375 to 6.375
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class LongTail:
    """How many classes and training clips there are; val has half as many clips, test as many."""

    classes: int = 300
    clips: int = 1200
    seed: int = 0


def long_tail(config: LongTail) -> DatasetRecipe:
    """Return the recipe; each row is computed from the seed, its split and its number alone."""
    names = tuple(f"class-{k:04d}" for k in range(config.classes))
    counts = (config.clips, config.clips // 2, config.clips)
    shares, centres = frequencies(config.classes), draw_centres(config)
    return DatasetRecipe(
        vocabulary=Vocabulary(names),
        modalities=(Modality("visual", DIM, "uint8", rate_hz=1.0, scale=SCALE, offset=OFFSET),),
        splits={
            split: LazyRows(count, partial(draw_row, config.seed, split, names, shares, centres))
            for split, count in zip(SPLITS, counts)
        },
        provenance={"recipe": "long tail", **asdict(config)},
    )


def frequencies(classes: int) -> Float[np.ndarray, " C"]:
    """Return the share of clips with each class, from the most frequent on."""
    return LARGEST * ((1 + SHIFT) / (np.arange(1, classes + 1) + SHIFT)) ** POWER


def draw_centres(config: LongTail) -> Float[np.ndarray, "C D"]:
    """Draw where each class lies: half its family's direction, half its own."""
    generator = np.random.default_rng([config.seed, len(SPLITS)])
    families = -(-config.classes // FAMILY)
    shared = generator.normal(size=(families, DIM))[np.arange(config.classes) % families]
    return SIGNAL * (shared + generator.normal(size=shared.shape)) / np.sqrt(2)


def draw_row(
    seed: int,
    split: str,
    names: tuple[str, ...],
    shares: Float[np.ndarray, " C"],
    centres: Float[np.ndarray, "C D"],
    i: int,
) -> Row:
    """Draw clip i of a split."""
    generator = np.random.default_rng([seed, SPLITS.index(split), i])
    count = min(len(names), 1 + generator.poisson(max(shares.sum() - 1, 0)))
    # The largest of log p plus Gumbel noise: a draw without replacement, in proportion to p.
    keys = np.log(shares) + generator.gumbel(size=len(shares))
    chosen = np.sort(np.argsort(-keys)[:count])
    length = int(generator.integers(*TOKENS, endpoint=True))
    tokens = generator.normal(size=(length, DIM)) + SCENE * generator.normal(size=DIM)
    for k in chosen:
        shown = max(1, round(generator.uniform(*SHOWN) * length))
        start = generator.integers(length - shown, endpoint=True)
        tokens[start : start + shown] += centres[k] + VARIATION * generator.normal(size=DIM)
    stored = np.clip(np.round((tokens - OFFSET) / SCALE), 0, 255).astype(np.uint8)
    return Row(id=f"{split}-{i:06d}", labels=[names[k] for k in chosen], tokens={"visual": stored})
