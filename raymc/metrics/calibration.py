"""Scores to probabilities, fitted on validation data; and how far off probabilities are.

Pure: a calibration is plain numbers, which JSON holds exactly. It never turns around which of two
clips ranks higher within a class. Axes: N rows, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit, logit

from raymc.config import CalibrationName

Curve = tuple[tuple[float, ...], tuple[float, ...]]  # rising scores, their probabilities
FEWEST_FOR_A_CURVE = 20  # positives, and negatives, of a class
RIDGE = 3.0  # of biases: a class moves from the shared one as far as a few rows of it say
_STEPS, _HALVINGS, _TOLERANCE = 50, 30, 1e-10


@dataclass(frozen=True)
class Calibration:
    """What turns scores into probabilities: sigmoid(slope · score + bias), or a class's curve.

    Attributes:
        slope: 1 / temperature, the same for all classes; 0 where scores tell nothing.
        biases: [C], the log odds of each class at a score of 0.
        curves: By class number, the points between which probabilities are interpolated.
    """

    slope: float
    biases: tuple[float, ...]
    curves: Mapping[int, Curve] = field(default_factory=dict)

    def probabilities(self, scores: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
        """Return the probability of each score, float64; never falling where scores rise."""
        result = expit(self.slope * scores.astype(np.float64) + np.array(self.biases))
        for k, (points, values) in self.curves.items():
            result[:, k] = np.interp(scores[:, k], points, values)
        return result

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values; `from_json` is the way back, bit for bit."""
        return {
            "slope": self.slope,
            "biases": list(self.biases),
            "curves": {str(k): [list(line) for line in curve] for k, curve in self.curves.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Calibration":
        """Build a calibration from the values of `to_json`.

        Raises:
            KeyError: A key is missing.
            ValueError: A value is no number, or a curve has no points.
        """
        biases = _floats(values["biases"])
        curves = {int(k): _curve(points, of) for k, (points, of) in values["curves"].items()}
        if not curves.keys() <= set(range(len(biases))):
            raise ValueError(f"curves of classes {sorted(curves)}; there are {len(biases)}")
        return cls(float(values["slope"]), biases, curves)


def fit_calibration(
    scores: Float[np.ndarray, "N C"],
    labels: Bool[np.ndarray, "N C"],
    observed: Bool[np.ndarray, "N C"] | None = None,
    *,
    name: CalibrationName = "temperature",
) -> Calibration | None:
    """Fit probabilities to labels.

    `temperature` is that of C. Guo et al. 2017, *On Calibration of Modern Neural Networks*,
    Sec. 4.2, with a bias, without which similarities have no probability; so for one class it
    is J. Platt 1999, *Probabilistic Outputs for Support Vector Machines*, with his targets
    (P + 1) / (P + 2) and 1 / (N + 2), which keep it finite. The temperature is shared, and
    each class's bias is drawn to the shared one by a ridge: a class that the rows say little
    of has the shared fit, or nearly.

    `isotonic` gives each class with enough positives and negatives the best rising curve
    (B. Zadrozny and C. Elkan 2002, *Transforming Classifier Scores into Accurate Multiclass
    Probability Estimates*), kept 1 / (n + 2) away from 0 and 1; other classes are as above.

    Args:
        scores: Similarities or logits.
        labels: The truth; ignored where unobserved.
        observed: Which entries are known; None means all.
        name: Which one; `none` fits nothing.

    Returns:
        None for `none`, and where not both positives and negatives are known.
    """
    known = np.ones(labels.shape, dtype=np.bool_) if observed is None else observed
    positives, negatives = labels & known, ~labels & known
    if name == "none" or not (positives.any() and negatives.any()):
        return None
    slope, biases = _fit_temperature(scores, labels, known)
    curves: dict[int, Curve] = {}
    if name == "isotonic":
        support = np.minimum(positives.sum(axis=0), negatives.sum(axis=0))
        for k in np.flatnonzero(support >= FEWEST_FOR_A_CURVE).tolist():
            curves[k] = _fit_curve(scores[known[:, k], k], labels[known[:, k], k])
    return Calibration(slope, tuple(biases.tolist()), curves)


def expected_calibration_error(
    probabilities: Float[np.ndarray, "N C"],
    labels: Bool[np.ndarray, "N C"],
    observed: Bool[np.ndarray, "N C"] | None = None,
    *,
    bins: int = 15,
) -> float:
    """Return how far probabilities are from how often labels occur, 0 at best, averaged.

    Of each class the expected calibration error over bins of equal width (M. Naeini et al.
    2015; C. Guo et al. 2017, Eq. 3), Σ_b n_b/n |mean probability − share of labels|; then the
    mean over the classes with an observed row: the classwise ECE of M. Kull et al. 2019,
    *Beyond Temperature Scaling*, Eq. 3. nan where nothing is observed.
    """
    known = np.ones(labels.shape, dtype=np.bool_) if observed is None else observed
    classes = labels.shape[1]
    safe = np.where(known, probabilities, 0.0)
    at = np.minimum((safe * bins).astype(np.int64), bins - 1) + bins * np.arange(classes)
    gaps = np.bincount(at[known], (safe - labels)[known], minlength=bins * classes)
    rows = known.sum(axis=0)
    errors = np.abs(gaps).reshape(classes, bins).sum(axis=1)[rows > 0] / rows[rows > 0]
    return float(errors.mean()) if len(errors) else float("nan")


@dataclass(frozen=True)
class _Problem:
    """Penalised logistic regression of [N, C] targets on standardised scores; 0 weight unknown."""

    x: Float[np.ndarray, "N C"]
    targets: Float[np.ndarray, "N C"]
    known: Bool[np.ndarray, "N C"]

    def logits(self, state: np.ndarray) -> np.ndarray:
        """State: the slope, the shared bias, and how far each class's bias is from it."""
        return state[0] * self.x + state[1] + state[2:]

    def loss(self, state: np.ndarray) -> float:
        z = self.logits(state)
        entries = np.logaddexp(0.0, z) - self.targets * z
        return float(entries.sum(where=self.known) + RIDGE / 2 * (state[2:] ** 2).sum())

    def newton_step(self, state: np.ndarray) -> np.ndarray:
        """Return Newton's step; its Hessian is an arrow, so classes are eliminated first."""
        p = expit(self.logits(state))
        error = np.where(self.known, self.targets - p, 0.0)
        weight = np.where(self.known, p * (1.0 - p), 0.0)
        by_class = weight.sum(axis=0)
        cross = np.stack([(weight * self.x).sum(axis=0), by_class])
        own = error.sum(axis=0) - RIDGE * state[2:]
        shared = np.array([(error * self.x).sum(), error.sum()])
        corner = (weight * self.x**2).sum()
        hessian = np.array([[corner, cross[0].sum()], [cross[0].sum(), by_class.sum()]])
        hessian += 1e-9 * np.eye(2)  # where scores are all the same
        eliminated = cross / (by_class + RIDGE)
        step = np.linalg.solve(hessian - eliminated @ cross.T, shared - eliminated @ own)
        return np.concatenate([step, (own - cross.T @ step) / (by_class + RIDGE)])


def _fit_temperature(
    scores: Float[np.ndarray, "N C"],
    labels: Bool[np.ndarray, "N C"],
    known: Bool[np.ndarray, "N C"],
) -> tuple[float, Float[np.ndarray, " C"]]:
    """Return the shared slope and each class's bias; a slope is never below 0."""
    values = scores[known].astype(np.float64)
    positives = int(labels[known].sum())
    mean, deviation = values.mean(), values.std() or 1.0
    x = np.where(known, (np.where(known, scores, 0.0) - mean) / deviation, 0.0)
    high, low = (positives + 1) / (positives + 2), 1 / (len(values) - positives + 2)
    problem = _Problem(x, np.where(labels, high, low), known)
    state = _minimised(problem)
    if state[0] < 0.0:
        state = _minimised(_Problem(np.zeros_like(x), problem.targets, known))
    slope = state[0] / deviation
    return float(slope), state[1] + state[2:] - slope * mean


def _minimised(problem: _Problem) -> np.ndarray:
    """Return the state of least loss, by Newton's method with halved steps."""
    state = np.zeros(2 + problem.x.shape[1])
    state[1] = logit(problem.targets[problem.known].mean())
    loss = problem.loss(state)
    for _ in range(_STEPS):
        step, before = problem.newton_step(state), loss
        for _ in range(_HALVINGS):
            loss = problem.loss(state + step)
            if loss <= before:
                break
            step /= 2
        if before - loss <= _TOLERANCE * before:
            break
        state = state + step
    return state


def _fit_curve(scores: Float[np.ndarray, " N"], labels: Bool[np.ndarray, " N"]) -> Curve:
    """Return the points of a class's rising curve."""
    from sklearn.isotonic import IsotonicRegression  # a second that every process would pay

    margin = 1.0 / (len(labels) + 2)
    fitted = IsotonicRegression(y_min=margin, y_max=1.0 - margin).fit(scores, labels)
    return _floats(fitted.X_thresholds_), _floats(fitted.y_thresholds_)


def _curve(points: Sequence[float], values: Sequence[float]) -> Curve:
    if not points or len(points) != len(values):
        raise ValueError(f"a curve of {len(points)} scores and {len(values)} probabilities")
    return _floats(points), _floats(values)


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
