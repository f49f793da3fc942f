"""Spans of a video in which a label holds: from scores of windows, and how good they are.

Windows may overlap. Their bounds cut the time they cover into pieces, and a piece has the mean
score of the windows over it.

Axes: W windows, P pieces, C classes.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

_DECIMALS = 6  # of a second: bounds that differ by less are the same


class Pieces(NamedTuple):
    """Stretches of time that the same windows cover, in order; seconds of the file."""

    starts: Float[np.ndarray, " P"]
    ends: Float[np.ndarray, " P"]
    values: Float[np.ndarray, "P C"]


class TrueSegment(NamedTuple):
    """Where a label holds in a video, in seconds."""

    video: str
    start: float
    end: float


class FoundSegment(NamedTuple):
    """Where a label was found in a video, in seconds, and how surely; any rising score will do."""

    video: str
    start: float
    end: float
    score: float


def pieces_of(
    starts: Float[np.ndarray, " W"],
    ends: Float[np.ndarray, " W"],
    values: Float[np.ndarray, "W C"],
) -> Pieces:
    """Cut time at the bounds of windows, and average the windows over each piece.

    Time that no window covers belongs to no piece. Where one window alone covers a piece, its
    values are kept bit for bit.
    """
    starts, ends = np.round(starts, _DECIMALS), np.round(ends, _DECIMALS)
    cuts = np.unique(np.concatenate([starts, ends]))
    first, last = np.searchsorted(cuts, starts), np.searchsorted(cuts, ends)
    sums = np.zeros((max(0, len(cuts) - 1), values.shape[1]))
    counts = np.zeros((len(sums), 1))
    for one, low, high in zip(values, first, last):
        sums[low:high] += one
        counts[low:high] += 1
    covered = counts[:, 0] > 0
    means = (sums[covered] / counts[covered]).astype(values.dtype)
    return Pieces(cuts[:-1][covered], cuts[1:][covered], means)


def find_spans(
    starts: Float[np.ndarray, " P"],
    ends: Float[np.ndarray, " P"],
    strong: Bool[np.ndarray, " P"],
    weak: Bool[np.ndarray, " P"],
    *,
    least_seconds: float = 0.0,
) -> list[tuple[int, int]]:
    """Return spans of pieces by hysteresis, as the first piece and the one after the last.

    A span is a run of weak or strong pieces without a gap, of which at least one is strong; it
    reaches from where the weak ones begin to where they end (J. Canny 1986, *A Computational
    Approach to Edge Detection*, Sec. VII, for the edges of pictures). With `weak` equal to
    `strong`, this is a plain threshold. Spans shorter than `least_seconds` are left out.
    """
    inside = strong | weak
    breaks = np.flatnonzero(
        (inside[1:] != inside[:-1]) | (starts[1:] - ends[:-1] > 10.0**-_DECIMALS)
    )
    bounds = [0, *(breaks + 1).tolist(), len(inside)]
    shortest = least_seconds - 10.0**-_DECIMALS
    return [
        (low, high)
        for low, high in pairwise(bounds)
        if strong[low:high].any() and ends[high - 1] - starts[low] >= shortest
    ]


def segment_average_precision(
    found: Sequence[FoundSegment], truth: Sequence[TrueSegment], *, iou: float = 0.5
) -> float:
    """Return the average precision of one label's segments, as ActivityNet computes it.

    From the surest to the least sure, a found segment is right if the true segment of its video
    that overlaps it most, among those not yet found, reaches the temporal IoU (intersection over
    union). AP is the area under precision as a function of recall, where the precision at a
    recall is the best one at that recall or above. (`compute_average_precision_detection` in
    https://github.com/activitynet/ActivityNet/blob/master/Evaluation/eval_detection.py; F. Caba
    Heilbron et al. 2015, *ActivityNet*, CVPR.) Of equally sure segments, the first counts first.

    Returns:
        A share; NaN if there is no true segment.
    """
    if not truth:
        return math.nan
    order = sorted(range(len(found)), key=lambda at: -found[at].score)
    taken: set[int] = set()
    hits = np.zeros(len(found), dtype=bool)
    for rank, at in enumerate(order):
        overlaps = [
            (temporal_iou(found[at], one), -number)
            for number, one in enumerate(truth)
            if number not in taken and one.video == found[at].video
        ]
        best, number = max(overlaps, default=(0.0, 0))
        if best >= iou:
            hits[rank] = True
            taken.add(-number)
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(found) + 1)
    best_from = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best_from[hits].sum() / len(truth))


def temporal_iou(one: TrueSegment | FoundSegment, other: TrueSegment | FoundSegment) -> float:
    """Return the length of what two segments share over that of what they cover together."""
    shared = min(one.end, other.end) - max(one.start, other.start)
    if shared <= 0:
        return 0.0
    return shared / (max(one.end, other.end) - min(one.start, other.start))
