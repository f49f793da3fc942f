"""Thresholds equal a search of all scores; the guard refuses what a few rows can't show."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import beta, norm
from score_tables import random_table

from raymc.errors import ConfigError, DataError
from raymc.metrics import metrics as ranking
from raymc.metrics import thresholds
from raymc.metrics.metrics import evaluate_scores
from raymc.metrics.thresholds import thresholds_at_precision


@pytest.mark.parametrize("target", [0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("levels", [2, 10, 100_000])
@pytest.mark.parametrize("seed", range(2))
def test_thresholds_equal_a_search_of_all_scores(seed: int, levels: int, target: float) -> None:
    scores, labels, observed = random_table(seed, levels)
    scores = scores.astype(np.float32)
    found = thresholds_at_precision(scores, labels, observed, precision=target)
    for k, threshold in enumerate(found):
        values, truth = scores[observed[:, k], k], labels[observed[:, k], k]
        cuts = [t for t in set(values.tolist()) if truth[values >= t].mean() >= target]
        noise = thresholds.NOISE * max(1.0, np.abs(values).max(initial=0.0))
        precise = [t for t in cuts if worst_precision(values, truth, t, noise) >= target]
        assert np.isinf(threshold) == (not precise)
        if precise:
            np.testing.assert_array_equal(values >= threshold, values >= min(precise))


def worst_precision(values: np.ndarray, truth: np.ndarray, lowest: float, noise: float) -> float:
    """The precision if every score between may cross the middle of the gap below `lowest`."""
    below = max(values[values < lowest].tolist(), default=lowest - 4 * noise)
    middle = np.float64(np.float32((lowest + below) / 2))
    middle = middle if below < middle else lowest
    right = (truth & (values >= middle + noise)).sum()
    wrong = (~truth & (values >= middle - noise)).sum()
    return right / max(right + wrong, 1)


def test_thresholds_reach_the_recall_that_is_reported() -> None:
    scores, labels, observed = random_table(1, levels=30, rows=300)
    found = evaluate_scores(scores, labels, observed)
    chosen = (scores >= thresholds_at_precision(scores, labels, observed)) & observed
    with np.errstate(invalid="ignore"):
        recall = (chosen & labels).sum(axis=0) / (observed & labels).sum(axis=0)
    assert recall == pytest.approx(found.per_class_R80, nan_ok=True)


def test_a_precision_of_exactly_the_target_is_enough() -> None:
    scores = np.array([[5.0], [4.0], [3.0], [2.0], [1.0], [0.0]])
    labels = np.array([[True], [True], [False], [True], [True], [False]])
    assert thresholds_at_precision(scores, labels).tolist() == [0.5]


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("rows", [200, 20_000])
def test_the_precision_holds_when_scores_are_computed_again(rows: int, scale: float) -> None:
    generator = np.random.default_rng(rows)
    labels = generator.random((rows, 8)) < 0.2
    scores = (generator.normal(size=labels.shape) * 0.1 + 0.2 * labels).round(5)
    scores = np.minimum(scores * scale, scale).astype(np.float32)
    found = thresholds_at_precision(scores, labels).astype(np.float32)
    assert np.isfinite(found).all()
    noise = thresholds.NOISE * max(1.0, np.abs(scores).max()) / 2
    for move in (noise, -noise, *(generator.uniform(-noise, noise, scores.shape) for _ in "ab")):
        for against in (1, labels * 2.0 - 1):  # all up or down, or labels against the rest
            given = (scores - move * against).astype(np.float32) >= found
            precision = (given & labels).sum(axis=0) / given.sum(axis=0)
            assert (precision >= 0.8).all()


def test_thresholds_between_neighbours_are_float32() -> None:
    one = np.float32(1.0)
    scores = np.array([[2.0], [one], [np.nextafter(one, np.float32(0.0))]], np.float32)
    labels = np.array([[True], [True], [False]])
    cuts = thresholds._below(scores[:, 0].astype(np.float64), np.array([0, 1]))
    assert cuts.tolist() == [1.5, 1.0]
    assert thresholds_at_precision(scores, labels, precision=1.0).tolist() == [1.5]


def slow_share(values: np.ndarray, truth: np.ndarray, threshold: float, draws: int) -> float:
    """In which share of resamples, row by row, the precision from a threshold on is 0.8 or more.

    Rows are drawn with replacement from these and an imagined one, which is above and wrong.
    """
    generator = np.random.default_rng(7)
    above, right = np.append(values >= threshold, True), np.append(truth, False)
    rows = generator.integers(len(above), size=(draws, len(above)))
    taken = above[rows].sum(axis=1)
    precision = (above & right)[rows].sum(axis=1) / np.maximum(taken, 1)
    return float((precision >= 0.8).mean())


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.5, 0.7, 0.9])
def test_the_guard_equals_a_bootstrap_row_by_row(confidence: float) -> None:
    generator = np.random.default_rng(3)
    scores = generator.integers(-10, 10, (200, 4)) / 10
    labels = scores + generator.normal(size=scores.shape) * [0.2, 0.4, 0.5, 0.6] > 0.3
    found = thresholds_at_precision(scores, labels, confidence=confidence, resamples=5000)
    for k in range(4):
        tried = set(scores[:, k].tolist())
        precise = [t for t in tried if labels[scores[:, k] >= t, k].mean() >= 0.8]
        shares = {t: slow_share(scores[:, k], labels[:, k], t, 1500) for t in precise}
        sure = [t for t in precise if shares[t] >= confidence + 0.05]
        unsure = [t for t in precise if shares[t] >= confidence - 0.05]
        lowest = min(scores[scores[:, k] >= found[k], k], default=np.inf)  # above the threshold
        assert min(unsure, default=np.inf) <= lowest <= min(sure, default=np.inf)
    assert np.isfinite(found).any()


@pytest.mark.parametrize(("right", "rows"), [(3, 3), (8, 8), (10, 10), (18, 20), (90, 100)])
def test_the_share_is_close_to_the_exact_binomial_confidence(right: int, rows: int) -> None:
    share = thresholds._shares(
        np.array([right]), np.array([rows]), 0.8, 50_000, np.random.default_rng(0)
    )
    exact = 1.0 - beta.cdf(0.8, right, rows - right + 1)  # Clopper and Pearson's, one-sided
    assert share[0] == pytest.approx(exact, abs=0.025)


def rare_classes(positives: int, classes: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Classes whose positives rank first, among 500 rows."""
    scores = np.random.default_rng(0).random((500, classes))
    labels = np.zeros(scores.shape, dtype=bool)
    labels[:positives] = True
    scores[:positives] += 1.0
    return scores, labels


def test_three_lucky_positives_give_no_threshold() -> None:
    lucky = rare_classes(3)
    assert np.isfinite(thresholds_at_precision(*lucky)).all()
    assert np.isinf(thresholds_at_precision(*lucky, confidence=0.7)).all()
    assert np.isfinite(thresholds_at_precision(*rare_classes(20), confidence=0.7)).all()


@pytest.mark.parametrize("target", [0.3, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_more_confidence_never_lowers_a_threshold(seed: int, target: float) -> None:
    table = random_table(seed, levels=20, rows=300)
    found = [
        thresholds_at_precision(*table, precision=target, confidence=confidence)
        for confidence in (0.0, 0.3, 0.6, 0.9)
    ]
    for lower, higher in pairwise(found):
        assert (lower <= higher).all()
    assert (found[0] < found[-1]).any() or target > 0.3


@pytest.mark.slow
def test_guarded_thresholds_hold_beyond_the_rows_they_were_chosen_on() -> None:
    """Of classes that are normal scores, the positives' 2 higher, precision is known exactly."""
    generator, share = np.random.default_rng(1), 0.05
    labels = generator.random((3000, 150)) < share
    scores = generator.normal(size=labels.shape) + 2.0 * labels
    held = {}
    for confidence in (0.0, 0.7, 0.9):
        found = thresholds_at_precision(scores, labels, confidence=confidence)
        found = found[np.isfinite(found)]
        right, wrong = share * norm.sf(found - 2.0), (1.0 - share) * norm.sf(found)
        held[confidence] = (right / (right + wrong) >= 0.8).mean()
    assert held[0.0] < 0.6
    assert held[0.7] > 0.65
    assert held[0.9] > 0.75


def test_unobserved_entries_and_other_classes_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores, labels, observed = random_table(3, levels=50, rows=200)
    found = thresholds_at_precision(scores, labels, observed, confidence=0.4)
    assert np.isfinite(found).any()
    for noise in (np.nan, np.inf, -np.inf, 1e9):
        noisy = np.where(observed, scores, noise)
        again = thresholds_at_precision(noisy, labels ^ ~observed, observed, confidence=0.4)
        assert np.array_equal(again, found)
    monkeypatch.setattr(ranking, "_BLOCK_ENTRIES", 2 * len(scores))
    again = thresholds_at_precision(scores, labels, observed, confidence=0.4)
    assert np.array_equal(again, found)
    others = thresholds_at_precision(scores[:, :4], labels[:, :4], observed[:, :4], confidence=0.4)
    assert np.array_equal(others, found[:4])


@pytest.mark.slow
def test_draws_in_blocks_are_of_the_same_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.arange(4, 40, 2), np.arange(5, 50, 2)[:18]
    whole = thresholds._shares(*counts, 0.8, 20_000, np.random.default_rng(0))
    monkeypatch.setattr(thresholds, "_BLOCK_DRAWS", 500)
    cut = thresholds._shares(*counts, 0.8, 20_000, np.random.default_rng(0))
    assert cut == pytest.approx(whole, abs=0.02)


def test_nothing_known_gives_no_threshold() -> None:
    nothing = np.zeros((3, 2), dtype=np.bool_)
    for confidence in (0.0, 0.5):
        found = thresholds_at_precision(np.zeros((3, 2)), ~nothing, nothing, confidence=confidence)
        assert np.isinf(found).all()


def test_scores_that_are_not_finite_are_named() -> None:
    scores, labels, observed = random_table(0, levels=5)
    observed[7, 3] = True
    scores[7, 3] = np.nan
    with pytest.raises(DataError, match=r"row 7, class 3 is nan"):
        thresholds_at_precision(scores, labels, observed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(({"precision": x}, rf"precision is {x}; it must be above 0") for x in (0.0, -0.1, 1.01)),
        ({"precision": np.nan}, "precision is nan; it must be above 0 and at most 1"),
        *(({"confidence": x}, f"confidence is {x}; it must be at least 0") for x in (-0.1, 1.0)),
        ({"resamples": 0}, "resamples is 0; it must be at least 1"),
    ],
)
def test_settings_out_of_range_are_errors(settings: dict[str, float], message: str) -> None:
    table = random_table(0, levels=5)
    with pytest.raises(ConfigError, match=message):
        thresholds_at_precision(*table, **settings)
