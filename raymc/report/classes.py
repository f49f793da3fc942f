"""Numbers about a model's classes: curves, worst errors, correlations and similarities.

Axes: N rows, C classes, E embedding dim.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import precision_recall_curve

from raymc.evaluation.scored import ScoredSplit


@dataclass(frozen=True)
class Curve:
    """Precision and recall of one class as its threshold rises.

    `point` is the largest recall at a precision of at least 0.8, with that precision; None
    where that is never reached.
    """

    precision: np.ndarray
    recall: np.ndarray
    point: tuple[float, float] | None


@dataclass(frozen=True)
class Miss:
    """A row that a class got wrong: its id, its score and the labels it has."""

    id: str
    score: float
    labels: tuple[str, ...]


@dataclass(frozen=True)
class ClassErrors:
    """The worst errors of one class, the worst first.

    `missed` have the label and score too low, `false_alarms` score as if they had it.
    """

    name: str
    missed: tuple[Miss, ...]
    false_alarms: tuple[Miss, ...]


def precision_recall(scored: ScoredSplit, index: int) -> Curve | None:
    """Return the curve of a class over the rows in which it was observed; None without labels."""
    known = scored.observed[:, index]
    labels = scored.labels[known, index]
    if not labels.any():
        return None
    precision, recall, _ = precision_recall_curve(labels, scored.scores[known, index])
    # The last pair, precision 1 at recall 0, is scikit-learn's own and belongs to no threshold.
    reached = np.flatnonzero(precision[:-1] >= 0.8)
    best = reached[np.argmax(recall[reached])] if len(reached) else None
    point = None if best is None else (float(recall[best]), float(precision[best]))
    return Curve(precision, recall, point)


def worst_errors(
    scored: ScoredSplit, thresholds: Float[np.ndarray, " C"], *, each: int = 3
) -> list[ClassErrors]:
    """Return every class's worst errors among the rows in which it was observed."""
    names, found = np.asarray(scored.vocabulary.names, dtype=object), []
    given = scored.scores >= thresholds
    for index, name in enumerate(scored.vocabulary.names):
        scores, known = scored.scores[:, index], scored.observed[:, index]
        missed = np.flatnonzero(known & scored.labels[:, index] & ~given[:, index])
        alarms = np.flatnonzero(known & ~scored.labels[:, index] & given[:, index])
        missed = missed[np.argsort(scores[missed], kind="stable")][:each]
        alarms = alarms[np.argsort(-scores[alarms], kind="stable")][:each]
        rows = [
            tuple(
                Miss(scored.ids[row], float(scores[row]), tuple(names[scored.labels[row]]))
                for row in some
            )
            for some in (missed, alarms)
        ]
        found.append(ClassErrors(name, *rows))
    return found


def cosine_similarities(vectors: Float[np.ndarray, "C E"]) -> Float[np.ndarray, "C C"]:
    """Return the cosine of the angle between each two vectors."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, np.finfo(vectors.dtype).tiny)
    return unit @ unit.T


def label_correlations(
    labels: Bool[np.ndarray, "N C"], observed: Bool[np.ndarray, "N C"]
) -> Float[np.ndarray, "C C"]:
    """Return the correlation of each two labels, over the rows in which both were observed.

    The phi coefficient, from -1 (never together) over 0 (by chance) to 1 (always together);
    nan where a label is on none or on all of those rows.
    """
    seen, has = observed.astype(np.float64), (labels & observed).astype(np.float64)
    rows, both = seen.T @ seen, has.T @ has
    first = has.T @ seen  # rows with the first label in which the second was observed
    second = first.T
    spread = first * (rows - first) * second * (rows - second)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, (rows * both - first * second) / np.sqrt(spread), np.nan)


def agreement(ours: Float[np.ndarray, "C C"], theirs: Float[np.ndarray, "C C"]) -> float:
    """Return the correlation of two symmetric tables over the pairs that both know.

    Returns:
        In [-1, 1]; nan with fewer than three such pairs, or where either table is constant.
    """
    pairs = np.triu_indices(len(ours), 1)
    x, y = ours[pairs], theirs[pairs]
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])
