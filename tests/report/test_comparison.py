"""The comparison against the bootstrap's own functions, and what it says where it can't."""

from dataclasses import replace

import numpy as np
import pytest
from test_classes import scored_table

from raymc.metrics.bootstrap import bootstrap_interval, paired_difference
from raymc.metrics.metrics import evaluate_scores
from raymc.report import comparison
from raymc.report.comparison import compare, comparison_table


def test_both_are_measured_on_the_same_rows() -> None:
    best = scored_table(5, 1000)
    noise = np.random.default_rng(6).normal(size=best.scores.shape)
    default = replace(best, scores=best.scores + noise)
    for one in compare(best, default):
        arguments = (best.labels, best.observed)
        expected = [
            getattr(evaluate_scores(s.scores, *arguments), one.metric) for s in (best, default)
        ]
        assert [one.best, one.default] == expected
        assert one.best_interval == bootstrap_interval(best.scores, *arguments, metric=one.metric)
        assert one.difference == paired_difference(
            [best.scores], [default.scores], *arguments, metric=one.metric
        )
    shown = comparison_table(compare(best, default), "val")
    assert [row[0].text for row in shown.rows] == ["mAP", "R80"]
    assert shown.rows[0][3].key == pytest.approx(100 * (expected_gain(best, default)))


def expected_gain(best: comparison.ScoredSplit, default: comparison.ScoredSplit) -> float:
    ours, theirs = (evaluate_scores(s.scores, s.labels, s.observed).mAP for s in (best, default))
    return ours - theirs


def test_without_a_default() -> None:
    found = compare(scored_table(5, 10), None)
    assert [one.default for one in found] == [None, None]
    assert all(len(row) == 2 for row in comparison_table(found, "val").rows)


def test_splits_that_are_too_large_get_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    best = scored_table(5, 10)
    monkeypatch.setattr(comparison, "_MOST_ENTRIES", 199 * best.scores.size)
    found = compare(best, best)
    assert [(one.best_interval, one.difference) for one in found] == [(None, None)] * 2
    assert comparison_table(found, "val").rows[0][3].text == "+0.0"
