"""Numbers of classes against scikit-learn, NumPy and slow loops."""

import math

import numpy as np
import pytest
from score_tables import random_table
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity

from raymc.data.labels import Vocabulary
from raymc.evaluation.scored import ScoredSplit
from raymc.metrics.metrics import evaluate_scores
from raymc.report.classes import (
    agreement,
    cosine_similarities,
    label_correlations,
    precision_recall,
    worst_errors,
)

NAMES = tuple(f"class {k}" for k in range(7))


def scored_table(seed: int, levels: int) -> ScoredSplit:
    scores, labels, observed = random_table(seed, levels)
    ids = tuple(f"clip-{row}" for row in range(len(scores)))
    return ScoredSplit(ids, scores, labels, observed, Vocabulary(NAMES), "val", dataset_digest="")


@pytest.mark.parametrize("levels", [3, 1000])
def test_curves_are_those_of_the_metrics(levels: int) -> None:
    scored = scored_table(1, levels)
    measured = evaluate_scores(scored.scores, scored.labels, scored.observed)
    reached = 0
    for index in range(len(NAMES)):
        curve = precision_recall(scored, index)
        if curve is None:
            assert measured.support[index] == 0
            continue
        known = scored.observed[:, index]
        area = -np.sum(np.diff(curve.recall) * curve.precision[:-1])
        expected = average_precision_score(scored.labels[known, index], scored.scores[known, index])
        assert area == pytest.approx(expected)
        recall, precision = curve.point or (0.0, 1.0)
        assert recall == pytest.approx(measured.per_class_R80[index])
        assert precision >= 0.8
        reached += curve.point is not None
    assert reached >= 2
    assert sum(precision_recall(scored, index) is None for index in range(len(NAMES))) == 2


def test_errors_are_the_worst_there_are() -> None:
    scored, thresholds = scored_table(2, 1000), np.linspace(-0.3, 0.3, 7)
    thresholds[3] = np.inf
    found = worst_errors(scored, thresholds, each=4)
    assert [one.name for one in found] == list(NAMES)
    for index, one in enumerate(found):
        column = [
            (float(scored.scores[row, index]), scored.ids[row], bool(scored.labels[row, index]))
            for row in range(len(scored.ids))
            if scored.observed[row, index]
        ]
        missed = sorted((s, i) for s, i, has in column if has and s < thresholds[index])
        alarms = sorted((-s, i) for s, i, has in column if not has and s >= thresholds[index])
        assert [(miss.score, miss.id) for miss in one.missed] == missed[:4]
        assert [(-miss.score, miss.id) for miss in one.false_alarms] == alarms[:4]
        for miss in (*one.missed, *one.false_alarms):
            assert (one.name in miss.labels) == (miss in one.missed)
    assert found[3].false_alarms == ()
    assert len(found[3].missed) == 4


def test_cosines() -> None:
    vectors = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    np.testing.assert_allclose(cosine_similarities(vectors), cosine_similarity(vectors), atol=1e-6)
    vectors[2] = 0
    assert np.array_equal(cosine_similarities(vectors)[2], np.zeros(6))


def test_labels_correlate_as_numpy_says() -> None:
    _, labels, observed = random_table(3, 10)
    found = label_correlations(labels, observed)
    unknown = 0
    for i in range(len(NAMES)):
        for j in range(len(NAMES)):
            both = observed[:, i] & observed[:, j]
            x, y = labels[both, i], labels[both, j]
            if len(x) == 0 or np.ptp(x.astype(int)) == 0 or np.ptp(y.astype(int)) == 0:
                assert math.isnan(found[i, j])
                unknown += 1
            else:
                assert found[i, j] == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert 0 < unknown < 49


def test_agreement_is_that_of_the_pairs() -> None:
    generator = np.random.default_rng(4)
    ours, theirs = (one + one.T for one in generator.normal(size=(2, 5, 5)))
    theirs[0, 3] = theirs[3, 0] = np.nan
    pairs = [(i, j) for i in range(5) for j in range(i) if (j, i) != (0, 3)]
    expected = np.corrcoef([ours[p] for p in pairs], [theirs[p] for p in pairs])[0, 1]
    assert agreement(ours, theirs) == pytest.approx(expected)
    assert agreement(ours, 2 * ours + 1) == pytest.approx(1.0)
    assert math.isnan(agreement(ours[:2, :2], theirs[:2, :2]))
    assert math.isnan(agreement(np.ones((4, 4)), ours[:4, :4]))
