"""Pieces, spans and their average precision, beside slow and independent ways to them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymc.evaluation.segments import (
    FoundSegment,
    TrueSegment,
    find_spans,
    pieces_of,
    segment_average_precision,
    temporal_iou,
)

RNG = np.random.default_rng(0)


def test_windows_that_do_not_overlap_are_kept_bit_for_bit() -> None:
    starts, values = np.arange(0, 5, 0.1), RNG.normal(size=(50, 3)).astype(np.float32)
    pieces = pieces_of(starts, starts + 0.1, values)
    np.testing.assert_array_equal(pieces.values, values)
    np.testing.assert_allclose(pieces.ends, starts + 0.1, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 8), st.integers(1, 8), st.integers(0, 10_000))
def test_a_piece_has_the_mean_of_the_windows_over_it(
    count: int, window: int, stride: int, seed: int
) -> None:
    starts = np.arange(count) * stride / 10
    values = np.random.default_rng(seed).normal(size=(count, 2))
    pieces = pieces_of(starts, starts + window / 10, values)
    for step in range(round(10 * (starts[-1] + window / 10))):
        moment = step / 10 + 0.05  # in the middle of a tenth of a second
        over = [x for start, x in zip(starts, values) if start < moment < start + window / 10]
        at = [k for k in range(len(pieces.starts)) if pieces.starts[k] < moment < pieces.ends[k]]
        assert len(at) == bool(over)
        if over:
            np.testing.assert_allclose(pieces.values[at[0]], np.mean(over, axis=0), atol=1e-12)


def slow_spans(
    starts: list[float], ends: list[float], strong: list[bool], weak: list[bool], least: float
) -> list[tuple[int, int]]:
    """Grow each strong piece over its neighbours, as long as anything is added."""
    spans = set()
    for seed in range(len(starts)):
        if not strong[seed]:
            continue
        low = high = seed
        while low > 0 and (weak[low - 1] or strong[low - 1]) and starts[low] == ends[low - 1]:
            low -= 1
        while (
            high + 1 < len(starts)
            and (weak[high + 1] or strong[high + 1])
            and starts[high + 1] == ends[high]
        ):
            high += 1
        if ends[high] - starts[low] >= least:
            spans.add((low, high + 1))
    return sorted(spans)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=20),
    st.integers(0, 4),
)
def test_spans_grow_from_strong_pieces_over_weak_ones(
    pieces: list[tuple[bool, bool, bool]], least: int
) -> None:
    starts, at = [], 0
    for _, _, after_a_gap in pieces:
        at += after_a_gap
        starts.append(float(at))
        at += 1
    ends = [start + 1 for start in starts]
    strong, weak = [one[0] for one in pieces], [one[1] for one in pieces]
    found = find_spans(
        np.array(starts), np.array(ends), np.array(strong, bool), np.array(weak, bool),
        least_seconds=float(least),
    )  # fmt: skip
    assert found == slow_spans(starts, ends, strong, weak, least)


def activitynet(found: list[FoundSegment], truth: list[TrueSegment], iou: float) -> float:
    """Follow the loops of ActivityNet's `eval_detection.py`, with its locks and its envelope."""
    locked = [False] * len(truth)
    order = sorted(found, key=lambda one: -one.score)
    tp, fp = np.zeros(len(order)), np.zeros(len(order))
    for rank, one in enumerate(order):
        same = [k for k in range(len(truth)) if truth[k].video == one.video]
        for k in sorted(same, key=lambda k: -slow_iou(one, truth[k])):
            if slow_iou(one, truth[k]) < iou:
                break
            if not locked[k]:
                locked[k], tp[rank] = True, 1
                break
        fp[rank] = 1 - tp[rank]
    right, wrong = np.cumsum(tp), np.cumsum(fp)
    recall = np.hstack([[0], right / len(truth), [1]])
    precision = np.hstack([[0], right / (right + wrong), [0]])
    for k in range(len(precision) - 2, -1, -1):
        precision[k] = max(precision[k], precision[k + 1])
    at = np.where(recall[1:] != recall[:-1])[0] + 1
    return float(np.sum((recall[at] - recall[at - 1]) * precision[at]))


def slow_iou(one: FoundSegment, other: TrueSegment) -> float:
    """Count the hundredths of a second in both and in either."""
    first = set(range(round(100 * one.start), round(100 * one.end)))
    second = set(range(round(100 * other.start), round(100 * other.end)))
    return len(first & second) / len(first | second)


def test_average_precision_is_that_of_activitynet() -> None:
    for _ in range(60):
        truth = [TrueSegment(*drawn()) for _ in range(RNG.integers(1, 7))]
        found = [FoundSegment(*drawn(), RNG.random()) for _ in range(RNG.integers(0, 12))]
        for iou in (0.101, 0.501, 0.751):  # which no two of these times reach exactly
            expected = activitynet(found, truth, iou)
            assert segment_average_precision(found, truth, iou=iou) == pytest.approx(expected)


def drawn() -> tuple[str, float, float]:
    start, length = RNG.integers(0, 60) / 10, RNG.integers(5, 40) / 10
    return str(RNG.choice(["a", "b"])), float(start), float(start + length)


def test_average_precision_by_hand() -> None:
    truth = [TrueSegment("a", 0, 10), TrueSegment("a", 20, 30)]
    right, twice = FoundSegment("a", 1, 10, 0.9), FoundSegment("a", 0, 9, 0.8)
    elsewhere, short = FoundSegment("b", 20, 30, 0.7), FoundSegment("a", 20, 24, 0.6)
    late = FoundSegment("a", 22, 31, 0.5)
    found = [late, elsewhere, right, short, twice]  # ranks: right, wrong, wrong, wrong, right
    assert segment_average_precision(found, truth) == pytest.approx((1 + 2 / 5) / 2)
    assert math.isnan(segment_average_precision(found, []))
    assert segment_average_precision([], truth) == 0.0
    assert temporal_iou(short, truth[1]) == pytest.approx(0.4)
    assert temporal_iou(short, truth[0]) == 0.0
