"""Probabilities agree with how often labels occur, never reorder a class, and survive JSON."""

import json

import numpy as np
import pytest
from scipy.special import expit
from score_tables import random_table

from raymc.config import CalibrationName
from raymc.metrics.calibration import (
    FEWEST_FOR_A_CURVE,
    RIDGE,
    Calibration,
    expected_calibration_error,
    fit_calibration,
)

KINDS: tuple[CalibrationName, ...] = ("temperature", "isotonic")
Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]


def drawn(seed: int, *, rows: int = 4000, classes: int = 5, slope: float = 8.0) -> Drawn:
    """Similarities, labels, and the probabilities that the labels were drawn with."""
    generator = np.random.default_rng(seed)
    scores = np.tanh(generator.normal(size=(rows, classes)))
    likely = expit(slope * scores - np.linspace(1.0, 5.0, classes))
    return scores.astype(np.float32), generator.random(scores.shape) < likely, likely


def fitted(name: CalibrationName, *table: np.ndarray) -> Calibration:
    found = fit_calibration(*table, name=name)
    assert found is not None
    return found


def slow_error(probabilities: np.ndarray, labels: np.ndarray, observed: np.ndarray) -> float:
    errors = []
    for k in range(labels.shape[1]):
        rows = [(p, y) for p, y, o in zip(probabilities[:, k], labels[:, k], observed[:, k]) if o]
        error = 0.0
        for low in range(15):
            inside = [(p, y) for p, y in rows if int(min(p * 15, 14)) == low]
            if inside:
                p, y = np.mean(inside, axis=0)
                error += len(inside) / len(rows) * abs(p - y)
        errors += [error] if rows else []
    return float(np.mean(errors))


@pytest.mark.parametrize("seed", range(4))
def test_the_error_equals_bin_by_bin(seed: int) -> None:
    scores, labels, observed = random_table(seed, levels=30, rows=90)
    probabilities = np.where(observed, (scores + 1) / 2, np.nan)
    probabilities[3:5, 3:5] = [[0.0, 1.0], [1.0, 0.0]]
    found = expected_calibration_error(probabilities, labels, observed)
    assert found == pytest.approx(slow_error(probabilities, labels, observed), abs=1e-12)


def test_the_error_of_what_is_known_by_hand() -> None:
    labels = np.array([[True, False], [False, False], [True, False], [True, False]])
    assert expected_calibration_error(labels.astype(float), labels) == 0.0
    assert expected_calibration_error(1.0 - labels, labels) == 1.0
    probabilities = np.array([[0.5, 0.25]] * 4)
    assert expected_calibration_error(probabilities, labels) == pytest.approx((0.25 + 0.25) / 2)
    assert np.isnan(expected_calibration_error(probabilities, labels, labels & False))


def test_the_probabilities_that_labels_were_drawn_with_have_hardly_an_error() -> None:
    _, labels, likely = drawn(0, rows=40_000)
    assert expected_calibration_error(likely, labels) < 0.01
    assert expected_calibration_error(np.sqrt(likely), labels) > 0.05


@pytest.mark.parametrize("name", KINDS)
def test_probabilities_of_other_rows_are_right(name: CalibrationName) -> None:
    scores, labels, _ = drawn(0)
    others, truth, likely = drawn(1)
    found = fitted(name, scores, labels).probabilities(others)
    assert np.abs(found - likely).mean() < 0.02
    raw = expected_calibration_error(expit(others.astype(np.float64)), truth)
    assert expected_calibration_error(found, truth) < 0.02 < 0.2 < raw


def test_the_gradient_of_the_penalised_loss_is_zero() -> None:
    scores, labels, _ = drawn(2, rows=60, classes=4)
    observed = np.random.default_rng(0).random(labels.shape) < 0.8
    labels[:, 3] = False
    positives, negatives = (labels & observed).sum(), (~labels & observed).sum()
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    found = fitted("temperature", scores, labels, observed)
    error = np.where(observed, found.probabilities(scores) - targets, 0.0)
    # The ridge is on the biases at the mean score, which is where the fit has its origin.
    centred = np.array(found.biases) + found.slope * scores[observed].mean(dtype=np.float64)
    assert (error * scores).sum() == pytest.approx(0.0, abs=1e-5)
    ridge = RIDGE * (centred - centred.mean())
    assert error.sum(axis=0) + ridge == pytest.approx(np.zeros(4), abs=1e-5)
    assert found.slope > 1.0


def test_a_class_that_nothing_is_known_of_has_the_shared_fit() -> None:
    scores, labels, _ = drawn(3)
    observed = np.ones_like(labels)
    observed[:, 2] = False
    found = fitted("isotonic", scores, labels, observed)
    others = [found.biases[k] for k in (0, 1, 3, 4)]
    assert found.biases[2] == pytest.approx(np.mean(others), abs=1e-6)  # ridges sum to 0
    assert set(found.curves) == {0, 1, 3, 4}


@pytest.mark.parametrize("positives", [0, 3, FEWEST_FOR_A_CURVE - 1, FEWEST_FOR_A_CURVE])
def test_only_classes_with_enough_rows_have_a_curve(positives: int) -> None:
    scores, labels, _ = drawn(4, rows=300)
    labels[:, 1] = np.arange(300) < positives
    found = fitted("isotonic", scores, labels)
    assert (1 in found.curves) == (positives >= FEWEST_FOR_A_CURVE)
    probabilities = found.probabilities(scores)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    plain = fitted("temperature", scores, labels).probabilities(scores)
    if 1 not in found.curves:
        np.testing.assert_array_equal(probabilities[:, 1], plain[:, 1])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_the_order_within_a_class_never_turns(name: CalibrationName, seed: int) -> None:
    scores, labels, _ = drawn(seed, rows=200)
    labels[:, :2] ^= np.random.default_rng(seed).random((200, 2)) < 0.4
    calibration = fitted(name, scores, labels)
    grid = np.linspace(-3.0, 3.0, 2001)[:, None].repeat(5, axis=1).astype(np.float32)
    assert (np.diff(calibration.probabilities(grid), axis=0) >= 0.0).all()


def test_scores_that_rank_the_wrong_way_tell_nothing() -> None:
    scores, labels, _ = drawn(5)
    found = fitted("temperature", -scores, labels)
    assert found.slope == 0.0
    share = labels.mean(axis=0)
    np.testing.assert_allclose(found.probabilities(scores)[0], share, atol=0.02)


def test_classes_that_are_told_without_fault_stay_finite() -> None:
    labels = np.arange(40)[:, None] % 4 == np.arange(3)
    found = fitted("temperature", labels.astype(np.float32), labels)
    assert np.isfinite([found.slope, *found.biases]).all()
    probabilities = found.probabilities(labels.astype(np.float32))
    assert ((probabilities > 0.5) == labels).all()


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_scores_that_are_all_the_same(value: float) -> None:
    labels = np.random.default_rng(0).random((500, 2)) < [0.1, 0.4]
    found = fitted("temperature", np.full((500, 2), value, np.float32), labels)
    probabilities = found.probabilities(np.full((1, 2), value, np.float32))
    np.testing.assert_allclose(probabilities[0], labels.mean(axis=0), atol=0.02)


@pytest.mark.parametrize("name", KINDS)
def test_unobserved_entries_enter_nothing(name: CalibrationName) -> None:
    scores, labels, _ = drawn(6, rows=300)
    observed = np.random.default_rng(0).random(labels.shape) < 0.7
    found = fitted(name, scores, labels, observed)
    for noise in (np.nan, np.inf, 1e9):
        noisy = np.where(observed, scores, np.float32(noise))
        assert fitted(name, noisy, labels ^ ~observed, observed) == found


def test_there_is_nothing_to_fit() -> None:
    scores, labels, _ = drawn(7, rows=50)
    nothing = np.zeros_like(labels)
    assert fit_calibration(scores, labels, name="none") is None
    for known in ((nothing, None), (~nothing, None), (labels, nothing)):
        assert fit_calibration(scores, *known) is None


@pytest.mark.parametrize("name", KINDS)
def test_json_holds_it_bit_for_bit(name: CalibrationName) -> None:
    scores, labels, _ = drawn(8, rows=500)
    found = fitted(name, scores, labels)
    again = Calibration.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    others = np.linspace(-1, 1, 999, dtype=np.float32)[:, None].repeat(5, axis=1)
    assert again.probabilities(others).tobytes() == found.probabilities(others).tobytes()


GOOD = {"slope": 1.0, "biases": [0.0, 1.0], "curves": {"1": [[0.0, 1.0], [0.1, 0.9]]}}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"slope": "steep"}, ValueError),
        ({"biases": ["x", 0.0]}, ValueError),
        ({"curves": {"2": [[0.0], [0.1]]}}, ValueError),
        ({"curves": {"0": [[0.0], [0.1, 0.2]]}}, ValueError),
        ({"curves": {"0": [[], []]}}, ValueError),
    ],
)
def test_values_that_are_no_calibration(change: dict[str, object], error: type[Exception]) -> None:
    Calibration.from_json(GOOD)
    with pytest.raises(error):
        Calibration.from_json({**GOOD, **change})
    for key in GOOD:
        with pytest.raises(KeyError):
            Calibration.from_json({name: x for name, x in GOOD.items() if name != key})
