"""Turns scores into probabilities, fitted on validation data, and measures how far off they are.

A calibration is plain numbers, which JSON holds exactly. It never changes which of two clips
ranks higher within a class. Axes: N rows, C classes.
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
_NEWTON_STEPS = 100
RIDGE = 3.0  # pulls each class's bias to their mean, as strongly as about a dozen rows pull away


@dataclass(frozen=True)
class Calibration:
    """What turns scores into probabilities: sigmoid(slope · score + bias), or a class's curve.

    Attributes:
        slope: 1 / temperature, the same for all classes; 0 if scores carry no information.
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

    def with_class(
        self, scores: Float[np.ndarray, " N"], labels: Bool[np.ndarray, " N"]
    ) -> "Calibration":
        """Return the calibration with one class more, fitted to its scores; the others stay.

        The class has the shared slope, and a bias that is fitted as those of `fit_calibration`
        are: with Platt's targets, and pulled to the mean of the other biases. Without scores, it
        is that mean.
        """
        mean, positives = float(np.mean(self.biases)), int(labels.sum())
        high, low = (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2)
        targets = np.where(labels, high, low)
        logits, bias = self.slope * scores.astype(np.float64), mean
        for _ in range(_NEWTON_STEPS):  # of a strictly convex function of one number
            likely = expit(logits + bias)
            gradient = (likely - targets).sum() + RIDGE * (bias - mean)
            step = gradient / ((likely * (1 - likely)).sum() + RIDGE)
            bias -= float(np.clip(step, -1.0, 1.0))  # a longer one may overshoot
        return Calibration(self.slope, (*self.biases, bias), self.curves)

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
            ValueError: A value is not a number, or a curve has no points.
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
    Sec. 4.2, plus a bias, which similarities need to become probabilities. For one class this
    is J. Platt 1999, *Probabilistic Outputs for Support Vector Machines*, with his targets
    (P + 1) / (P + 2) and 1 / (N + 2) for P positives and N negatives, which keep the fit
    finite. All classes share the temperature, and a ridge pulls each bias to the mean of all,
    so a class with few rows gets nearly the shared fit.

    `isotonic` gives each class with enough positives and negatives the best rising curve
    (B. Zadrozny and C. Elkan 2002, *Transforming Classifier Scores into Accurate Multiclass
    Probability Estimates*), kept 1 / (n + 2) away from 0 and 1; other classes are as above.

    Scores are similarities or logits. Labels are ignored where unobserved; `observed` None means
    that all are known.

    Returns:
        None for `none`, and if the rows lack known positives or known negatives.
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
    """Return the mean gap between probabilities and the frequency of labels; 0 is best.

    This is the classwise ECE of M. Kull et al. 2019, *Beyond Temperature Scaling*, Eq. 3: for
    each class the expected calibration error over bins of equal width (M. Naeini et al. 2015;
    C. Guo et al. 2017, Eq. 3), Σ_b n_b/n |mean probability − share of labels|, then the mean
    over the classes with an observed row. It is nan if nothing is observed.
    """
    known = np.ones(labels.shape, dtype=np.bool_) if observed is None else observed
    classes = labels.shape[1]
    safe = np.where(known, probabilities, 0.0)
    at = np.minimum((safe * bins).astype(np.int64), bins - 1) + bins * np.arange(classes)
    gaps = np.bincount(at[known], (safe - labels)[known], minlength=bins * classes)
    rows = known.sum(axis=0)
    errors = np.abs(gaps).reshape(classes, bins).sum(axis=1)[rows > 0] / rows[rows > 0]
    return float(errors.mean()) if len(errors) else float("nan")


def _fit_temperature(
    scores: Float[np.ndarray, "N C"],
    labels: Bool[np.ndarray, "N C"],
    known: Bool[np.ndarray, "N C"],
) -> tuple[float, Float[np.ndarray, " C"]]:
    """Return the shared slope, never below 0, and each class's bias."""
    from scipy.optimize import minimize  # slow to load, and only training needs it
    from threadpoolctl import threadpool_limits

    values = scores[known].astype(np.float64)
    positives = int(labels[known].sum())
    mean, deviation = values.mean(), values.std() or 1.0
    x = np.where(known, (np.where(known, scores, 0.0) - mean) / deviation, 0.0)
    high, low = (positives + 1) / (positives + 2), 1 / (len(values) - positives + 2)
    targets = np.where(labels, high, low)
    # L-BFGS-B needs hundreds of steps where rare classes bend the loss less than frequent ones,
    # and about 20 where each number is in units of its standard error (estimated from shares).
    rows, share = known.sum(axis=0), targets[known].mean()
    shares = (targets.sum(axis=0, where=known) + RIDGE * share) / (rows + RIDGE)
    bends = np.concatenate([[len(values) * share * (1 - share)], rows * shares * (1 - shares)])
    scale = 1.0 / np.sqrt(bends + RIDGE)

    def loss(state: np.ndarray) -> tuple[float, np.ndarray]:
        """Return Σ log(1 + e^z) - target z over known entries plus the ridge, and its gradient."""
        slope, biases = scale[0] * state[0], scale[1:] * state[1:]
        z, spread = slope * x + biases, biases - biases.mean()
        entropy = (np.logaddexp(0.0, z) - targets * z).sum(where=known)
        error = np.where(known, expit(z) - targets, 0.0)
        gradient = np.concatenate([[(error * x).sum()], error.sum(axis=0) + RIDGE * spread])
        return float(entropy + RIDGE / 2 * (spread**2).sum()), scale * gradient

    start = np.concatenate([[0.0], np.full(len(rows), logit(share))]) / scale
    bounds = [(0.0, None), *[(None, None)] * len(rows)]
    options = {"ftol": 0.0, "gtol": 1e-7, "maxiter": 500}
    with threadpool_limits(1, user_api="blas"):  # others would keep their cores busy with waiting
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    state = scale * found.x
    slope = state[0] / deviation
    return float(slope), state[1:] - slope * mean


def _fit_curve(scores: Float[np.ndarray, " N"], labels: Bool[np.ndarray, " N"]) -> Curve:
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
