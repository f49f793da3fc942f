import math
from typing import get_args

import numpy as np
import pytest
from score_tables import random_table
from sklearn.metrics import (
    average_precision_score,
    coverage_error,
    label_ranking_average_precision_score,
    precision_recall_curve,
)

from raymc.errors import DataError
from raymc.metrics import metrics as ranking
from raymc.metrics.metrics import MetricName, Scores, evaluate_scores


def slow_recall(labels: np.ndarray, scores: np.ndarray, target: float) -> float:
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(recall[precision >= target].max())


def slow_scores(scores: np.ndarray, labels: np.ndarray, observed: np.ndarray) -> dict[str, float]:
    precisions, recalls = [], []
    for k in range(scores.shape[1]):
        known = observed[:, k]
        if (labels[known, k]).any():
            precisions.append(average_precision_score(labels[known, k], scores[known, k]))
            recalls.append(slow_recall(labels[known, k], scores[known, k], 0.8))
    seen = observed.any(axis=1)
    # A negative below all others changes neither ranking metric, so it stands for "unobserved".
    ranked = np.where(observed, scores.astype(np.float64), -1e6)[seen]
    return {
        "mAP": float(np.mean(precisions)),
        "micro_AP": float(average_precision_score(labels[observed], scores[observed])),
        "R80": float(np.mean(recalls)),
        "LRAP": float(label_ranking_average_precision_score((labels & observed)[seen], ranked)),
        "coverage": float(coverage_error((labels & observed)[seen], ranked)),
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("levels", [1, 3, 20, 100_000])
@pytest.mark.parametrize("seed", range(2))
def test_equals_scikit_learn_whatever_the_ties(seed: int, levels: int, dtype: type) -> None:
    scores, labels, observed = random_table(seed, levels)
    scores = scores.astype(dtype)
    for known in (observed, None):
        expected = slow_scores(scores, labels, observed if known is not None else labels | True)
        found = evaluate_scores(scores, labels, known).to_dict()
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_each_class_equals_scikit_learn(seed: int) -> None:
    scores, labels, observed = random_table(seed, levels=4)
    found = evaluate_scores(scores, labels, observed)
    for k in range(scores.shape[1]):
        known = observed[:, k]
        truth, values = labels[known, k], scores[known, k]
        assert found.support[k] == truth.sum()
        if not truth.any():
            assert np.isnan(found.per_class_AP[k])
            assert np.isnan(found.per_class_R80[k])
        else:
            expected = average_precision_score(truth, values)
            assert found.per_class_AP[k] == pytest.approx(expected, abs=1e-12)
            assert found.per_class_R80[k] == pytest.approx(slow_recall(truth, values, 0.8))
    assert np.isnan(found.per_class_AP[[0, 2]]).all()
    assert found.per_class_AP[1] == pytest.approx(1.0)


def test_by_hand() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.4], [0.8, 0.3], [0.1, 0.2]])
    labels = np.array([[True, False], [True, True], [False, True], [True, False]])
    found = evaluate_scores(scores, labels)
    assert found.per_class_AP == pytest.approx([1 / 3 * (1 + 2 / 3 + 3 / 4), 1.0])
    assert found.per_class_R80 == pytest.approx([1 / 3, 1.0])
    assert found.support.tolist() == [3, 2]
    assert found.to_dict() == pytest.approx(
        {
            "mAP": (1 / 3 * (1 + 2 / 3 + 3 / 4) + 1) / 2,
            "micro_AP": 1 / 5 * (1 + 2 / 3 + 3 / 4 + 4 / 5 + 5 / 8),
            "R80": (1 / 3 + 1) / 2,
            "LRAP": (1 + 1 + 1 / 2 + 1 / 2) / 4,
            "coverage": (1 + 2 + 2 + 2) / 4,
        }
    )


def test_a_precision_of_exactly_the_target_is_enough() -> None:
    scores = np.array([[5.0], [4.0], [3.0], [2.0], [1.0], [0.0]])
    labels = np.array([[True], [True], [False], [True], [True], [False]])
    assert evaluate_scores(scores, labels).R80 == 1.0


def test_only_the_order_of_scores_matters() -> None:
    scores, labels, observed = random_table(0, levels=10)
    found = evaluate_scores(scores, labels, observed).to_dict()
    rows = np.random.default_rng(1).permutation(len(scores))
    moved = evaluate_scores(np.exp(3.0 * scores[rows]), labels[rows], observed[rows]).to_dict()
    assert moved == pytest.approx(found, abs=1e-12)


@pytest.mark.parametrize("noise", [np.nan, np.inf, -np.inf, 1e9])
def test_unobserved_entries_enter_nothing(noise: float) -> None:
    scores, labels, observed = random_table(3, levels=5)
    found = evaluate_scores(scores, labels, observed)
    noisy = np.where(observed, scores, noise)
    other = evaluate_scores(noisy, labels ^ ~observed, observed)
    assert other.to_dict() == found.to_dict()
    assert np.array_equal(other.per_class_AP, found.per_class_AP, equal_nan=True)
    assert np.array_equal(other.support, found.support)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels, observed = random_table(2, levels=5)
    whole = evaluate_scores(scores, labels, observed)
    monkeypatch.setattr(ranking, "_BLOCK_ENTRIES", 2 * len(scores))
    cut = evaluate_scores(scores, labels, observed)
    assert cut.to_dict() == whole.to_dict()
    assert np.array_equal(cut.per_class_R80, whole.per_class_R80, equal_nan=True)


def test_nothing_to_measure_is_nan_and_not_a_crash() -> None:
    scores = np.zeros((3, 2))
    nothing = np.zeros((3, 2), dtype=np.bool_)
    no_label = evaluate_scores(scores, nothing)
    assert [math.isnan(x) for x in (no_label.mAP, no_label.micro_AP, no_label.R80)] == [True] * 3
    assert (no_label.LRAP, no_label.coverage) == (1.0, 0.0)
    unobserved = evaluate_scores(scores, ~nothing, nothing)
    assert all(math.isnan(value) for value in unobserved.to_dict().values())


def test_to_dict_names_every_metric() -> None:
    found = evaluate_scores(*random_table(0, levels=5))
    assert isinstance(found, Scores)
    assert list(found.to_dict()) == list(get_args(MetricName))
    assert all(type(value) is float for value in found.to_dict().values())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_named(value: float) -> None:
    scores, labels, observed = random_table(0, levels=5)
    observed[7, 3] = observed[9, 1] = True
    scores[7, 3] = scores[9, 1] = value
    message = rf"row 7, class 3 is {value} \(2 such scores in all\); scores must be finite"
    with pytest.raises(DataError, match=message):
        evaluate_scores(scores, labels, observed)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_no_scores_are_an_error(shape: tuple[int, int]) -> None:
    empty = np.zeros(shape)
    with pytest.raises(DataError, match=f"{shape[0]} rows of {shape[1]} classes; expected"):
        evaluate_scores(empty, empty.astype(np.bool_))
