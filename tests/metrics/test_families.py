"""Metrics by group equal scikit-learn's on the group's entries."""

import math

import numpy as np
import pytest
from score_tables import random_table
from sklearn.metrics import average_precision_score

from raymc.data.labels import Vocabulary
from raymc.metrics.families import family_means, family_metrics, family_scores
from raymc.metrics.metrics import evaluate_scores

NAMES = ("a", "b", "c", "d", "e", "f", "g")
VOCABULARY = Vocabulary(
    NAMES,
    groups={"said": ("b", "d"), "nothing": ()},
    parents={"d": "math", "e": "geometry", "f": "geometry", "geometry": "math", "a": "c"},
)


@pytest.mark.parametrize("seed", range(4))
def test_each_family_equals_scikit_learn(seed: int) -> None:
    scores, labels, observed = random_table(seed, levels=8, rows=120)
    found = family_scores(scores, labels, observed, VOCABULARY)
    assert list(found) == ["said", "c", "math", "geometry"]
    per_class = evaluate_scores(scores, labels, observed)
    means = family_means(per_class.per_class_AP, VOCABULARY)
    for family, members in {"said": "bd", "math": "def", "geometry": "ef"}.items():
        at = [NAMES.index(name) for name in members]
        known = observed[:, at]
        truth, values = labels[:, at], scores[:, at]
        classes = [
            average_precision_score(labels[observed[:, k], k], scores[observed[:, k], k])
            for k in at
        ]
        assert found[family].mAP == pytest.approx(np.mean(classes))
        assert pytest.approx(per_class.per_class_R80[at].mean()) == found[family].R80
        assert means[family] == pytest.approx(np.mean(classes))
        micro = average_precision_score(truth[known], values[known])
        assert found[family].micro_AP == pytest.approx(micro)
        rows = [
            (max(values[i]), any(truth[i][known[i]]))
            for i in range(len(scores))
            if any(truth[i][known[i]]) or all(known[i])
        ]
        best, any_label = zip(*rows)
        assert found[family].any_AP == pytest.approx(average_precision_score(any_label, best))


def test_a_family_without_a_positive_is_nan() -> None:
    scores, labels, observed = random_table(0, levels=8)
    found = family_scores(scores, labels, observed, VOCABULARY)["c"]  # of class a alone
    assert all(math.isnan(x) for x in (found.mAP, found.R80, found.micro_AP, found.any_AP))


def test_what_is_logged_of_each_epoch() -> None:
    values = np.array([0.1, 0.2, np.nan, 0.4, 0.5, np.nan, 0.7])
    found = family_metrics(values, VOCABULARY)
    assert found == pytest.approx(
        {
            "val/mAP_said": 0.3,
            "val/mAP_nothing": math.nan,
            "val/mAP_c": 0.1,
            "val/mAP_math": 0.45,
            "val/mAP_geometry": 0.5,
        },
        nan_ok=True,
    )
    assert family_metrics(values, Vocabulary(NAMES)) == {}


def test_very_many_families_are_not_logged() -> None:
    names = tuple(f"step {k}" for k in range(40))
    vocabulary = Vocabulary(names, parents={name: f"task of {name}" for name in names})
    assert family_metrics(np.zeros(40), vocabulary) == {}
    assert len(family_means(np.zeros(40), vocabulary)) == 40
