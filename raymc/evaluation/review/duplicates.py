"""Clips that are there twice: of equal tokens, or so alike that one is likely a copy of the other.

A copy that was encoded again, scaled or cut a little has other tokens, but nearly the same means
over parts of its time. These are compared after each number was divided by its spread over all
clips, so that what all clips share, such as a studio's background, does not make them alike.

Axes: N clips, F numbers that describe a clip.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from raymc.data.leaks import contents_of
from raymc.data.shards import Ragged
from raymc.evaluation.neighbours import unit
from raymc.evaluation.review.out_of_fold import Clips

ALIKE = 0.95  # least cosine of near-duplicates
_PARTS = 4  # of a clip's time
_WIDTH = 512  # numbers of a modality that are compared; more are projected to so many at random
_ROWS_AT_A_TIME = 1024


@dataclass(frozen=True)
class Pair:
    """Two clips that are the same, or nearly.

    Attributes:
        row: Of one clip.
        other: Of the other clip, which comes later.
        similarity: Mean over modalities of the cosine of what describes the clips; 1 if equal.
        is_equal: Whether all tokens are equal.
    """

    row: int
    other: int
    similarity: float
    is_equal: bool


def find_pairs(clips: Clips, *, alike: float = ALIKE) -> list[Pair]:
    """Return pairs that are worth a look, the most alike first.

    These are pairs in two splits, whose scores are too high, and pairs with other labels. Clips of
    one video in one split are passed over: a video may well show the same for long.

    Args:
        clips: All clips.
        alike: Least similarity.
    """
    splits, videos = np.array(clips.splits), np.array(clips.videos)
    labels = clips.block.labels
    contents = contents_of(clips.table, clips.dataset.manifest.modalities)
    by_content: dict[bytes, list[int]] = defaultdict(list)
    for row, content in enumerate(contents):
        if content is not None:
            by_content[content].append(row)
    found = {}
    for rows in by_content.values():
        for other in rows[1:]:  # beside the first, so that many copies are not squared
            found[rows[0], other] = Pair(rows[0], other, 1.0, True)
    for row, other, similarity in _near(clips, alike):
        if (row, other) not in found and (
            contents[row] is None or contents[row] != contents[other]
        ):
            found[row, other] = Pair(row, other, similarity, False)

    def counts(pair: Pair) -> bool:
        here, there = pair.row, pair.other
        if splits[here] != splits[there]:
            return True
        return bool(videos[here] != videos[there] and (labels[here] != labels[there]).any())

    kept = filter(counts, found.values())
    return sorted(kept, key=lambda one: (-one.is_equal, -one.similarity, one.row, one.other))


def _near(clips: Clips, alike: float) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of rows, the smaller first, with their similarity if it is high enough."""
    described = [_described(tokens) for tokens in clips.block.tokens.values()]
    present = np.stack([np.abs(one).sum(axis=1) > 0 for one in described], axis=1)
    for first in range(0, len(clips), _ROWS_AT_A_TIME):
        here = slice(first, first + _ROWS_AT_A_TIME)
        total = sum((one[here] @ one[first:].T for one in described), np.float32(0))
        both = present[here].astype(np.float32) @ present[first:].T.astype(np.float32)
        likeness = np.asarray(total) / np.maximum(both, 1)
        # a clip that lacks a modality may equal another in the rest, but that proves little
        same = both == np.maximum(present[here].sum(1)[:, None], present[first:].sum(1)[None])
        for row, other in zip(*np.nonzero(same & (likeness >= alike))):
            if other > row:
                yield first + int(row), first + int(other), float(likeness[row, other])


def _described(tokens: Ragged) -> Float32[np.ndarray, "N F"]:
    """Describe each clip by unit vectors: means over parts of its time; 0 without tokens."""
    rows, width = len(tokens), tokens.values.shape[1]
    means = np.zeros((rows, _PARTS, width), dtype=np.float32)
    for row in range(rows):
        values = tokens.row(row)
        for part in range(_PARTS if len(values) else 0):
            start = part * len(values) // _PARTS
            end = max(start + 1, (part + 1) * len(values) // _PARTS)
            means[row, part] = values[start:end].mean(axis=0, dtype=np.float32)
    flat = means.reshape(rows, -1)
    there = tokens.lengths > 0
    if there.any():
        spread = flat[there].std(axis=0)
        flat[there] = (flat[there] - flat[there].mean(axis=0)) / np.where(spread > 0, spread, 1)
    if flat.shape[1] > _WIDTH:  # keeps cosines (W. Johnson and J. Lindenstrauss 1984)
        mixed = np.random.default_rng(0).normal(size=(flat.shape[1], _WIDTH))
        flat = flat @ mixed.astype(np.float32)
    return unit(flat)
