"""The score from which a class's label is given, chosen for a target precision.

A bootstrap over rows guards the choice, so that a class with few positives doesn't get a
threshold by chance. Axes: N rows, C classes, R resamples, E thresholds tried of one class.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from raymc.errors import ConfigError
from raymc.metrics.metrics import Ranking, checked_table, curve_of, rank_classes

_BLOCK_DRAWS = 4_000_000  # counts drawn at a time: 32 MB
# How far a score may move when it is computed again, on another device or among other rows:
# float32 keeps seven digits, and sums are taken in another order. Relative to scores above 1.
NOISE = 1e-5


def thresholds_at_precision(
    scores: Float[np.ndarray, "N C"],
    labels: Bool[np.ndarray, "N C"],
    observed: Bool[np.ndarray, "N C"] | None = None,
    *,
    precision: float = 0.8,
    confidence: float = 0.0,
    resamples: int = 400,
    seed: int = 0,
) -> Float[np.ndarray, " C"]:
    """Return each class's lowest threshold that is precise enough, on these rows and resampled.

    A row gets the label when score >= threshold; the lowest threshold has the largest recall.
    It is precise enough when the precision is at least `precision` on the rows themselves, and
    in at least the share `confidence` of resamples of them.

    A threshold lies halfway between two scores, so that rows keep their labels when they are
    scored again. Where scores are so dense that some may cross it, by up to `NOISE`, the precision
    must be high enough even if all these right labels are lost and all these wrong ones given.

    A resample draws each row a Poisson(1) number of times, which for many rows is the bootstrap
    (N. Oza and S. Russell 2001, *Online Bagging and Boosting*; N. Chamandy et al. 2012,
    *Estimating Uncertainty for Massive Data Streams*). Resampling alone trusts three positives
    that rank first, because their precision is 1 in every resample. So each resample also draws
    from one imagined row that scores above all and lacks the label, as conformal risk control
    adds one worst row (A. Angelopoulos et al. 2024, *Conformal Risk Control*, Eq. 4). The share
    is then within 0.02 of the confidence of the exact binomial bound (C. Clopper and E. Pearson
    1934): 8 correct rows of 8 give a confidence of 0.8 in a precision of 0.8. No number of rows
    gives confidence in a precision of 1. The share holds for each threshold by itself, not for
    the choice of the lowest, so classes with little data keep their precision less often.

    Higher scores mean more likely. Labels are ignored where
    unobserved; `observed` None means that all are known. A confidence of 0 skips the resamples. A
    class's draws don't depend on the other classes.

    Returns:
        float64 thresholds that float32 scores can be compared with; +inf if none is precise enough.

    Raises:
        ConfigError: `precision` is outside (0, 1], `confidence` outside [0, 1), or `resamples`
            below 1.
        DataError: There are no rows, or an observed score is NaN or infinite.
    """
    if not 0.0 < precision <= 1.0:
        raise ConfigError(f"precision is {precision}; it must be above 0 and at most 1")
    if not 0.0 <= confidence < 1.0:
        raise ConfigError(f"confidence is {confidence}; it must be at least 0 and below 1")
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}; it must be at least 1")
    thresholds = []
    for ranking in rank_classes(checked_table(scores, labels, observed)):
        for ends, positives, drawn in _precise_ends(ranking, precision):
            if confidence > 0.0:
                generator = np.random.default_rng([seed, len(thresholds)])
                shares = _shares(positives, drawn, precision, resamples, generator)
                ends = ends[shares >= confidence]
            thresholds.append(float(ends[-1]) if len(ends) else np.inf)
    return np.array(thresholds, dtype=np.float64)


def _precise_ends(
    ranking: Ranking, precision: float
) -> Iterator[tuple[np.ndarray, Int[np.ndarray, " E"], Int[np.ndarray, " E"]]]:
    """Yield of each class the falling thresholds that are precise enough on the rows.

    Beside them stand the numbers of positives and of all rows from each threshold on.
    """
    curve = curve_of(ranking)
    reached = (curve.precision >= precision) & ranking.ends & ranking.observed
    drawn = np.cumsum(ranking.observed, axis=1)
    for k, at in enumerate(reached):
        ends = np.flatnonzero(at)
        falling = ranking.scores[k, ranking.observed[k]].astype(np.float64)  # unobserved were last
        noise = NOISE * max(1.0, np.abs(falling).max(initial=0.0))
        cuts = _below(np.append(falling, falling[-1:] - 4 * noise), ends)
        kept, reached_too = (
            np.searchsorted(-falling, -(cuts + move), side="right") for move in (noise, -noise)
        )
        positives = np.append(0, curve.found[k])
        right, wrong = positives[kept], reached_too - positives[reached_too]
        sure = right / np.maximum(right + wrong, 1) >= precision
        yield cuts[sure], curve.found[k, ends[sure]], drawn[k, ends[sure]]


def _below(
    falling: Float[np.ndarray, " N"], ends: Int[np.ndarray, " E"]
) -> Float[np.ndarray, " E"]:
    """Return float32 numbers halfway between the scores at `ends` and the next lower ones."""
    upper, lower = falling[ends], falling[ends + 1]
    middle = ((upper + lower) / 2).astype(np.float32).astype(np.float64)
    # Between neighbouring float32 numbers there is none, and the middle may be rounded down.
    return np.where((lower < middle) & (middle <= upper), middle, upper)


def _shares(
    positives: Int[np.ndarray, " E"],
    drawn: Int[np.ndarray, " E"],
    precision: float,
    resamples: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, " E"]:
    """Return in which share of resamples each threshold is precise enough.

    A sum of Poisson(1) counts is Poisson, so rows between two thresholds are drawn as one. A
    resample that has no row from a threshold on speaks against it.
    """
    steps = [np.diff(counts, prepend=0) for counts in (positives, drawn - positives)]
    passed = np.zeros(len(positives), dtype=np.int64)
    at_a_time = max(1, _BLOCK_DRAWS // max(1, len(positives)))
    for first in range(0, resamples, at_a_time):
        shape = (min(at_a_time, resamples - first), len(positives))
        imagined = generator.poisson(1.0, (shape[0], 1))
        right, wrong = (np.cumsum(generator.poisson(step, shape), axis=1) for step in steps)
        enough = right / np.maximum(right + wrong + imagined, 1) >= precision
        passed += enough.sum(axis=0)
    return passed / resamples
