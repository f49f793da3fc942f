"""How good the scores of a multi-label classifier are: exact, over all rows at once.

NumPy only. Every number agrees with scikit-learn's, ties included; unobserved entries enter
none of them. Each metric is read from lists of entries that `ranking.py` sorts once.
Axes: N rows, C classes, K lists of L entries each (classes × rows, rows × classes, 1 × all).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from raymc.errors import ConfigError
from raymc.ranking import (
    Curve,
    ScoreTable,
    checked_table,
    curve_of,
    rank_all,
    rank_classes,
    rank_rows,
)

MetricName = Literal["mAP", "micro_AP", "R80", "LRAP", "coverage"]


@dataclass(frozen=True)
class Scores:
    """What `evaluate_scores` found; rates are shares in [0, 1], not percentages.

    Attributes:
        mAP: Mean of `per_class_AP` over the classes with a positive; nan if there is none.
        micro_AP: Average precision of all entries as one list; nan without positives.
        R80: Mean of `per_class_R80` over the classes with a positive; nan if there is none.
        LRAP: Label ranking average precision; nan if no row has an observed class.
        coverage: How many classes of a row, from the top, hold all its labels, on average;
            nan if no row has an observed class.
        per_class_AP: Average precision of each class; nan where it has no positive.
        per_class_R80: Largest recall of each class at a precision of at least 0.8, 0 if that
            is never reached; nan where it has no positive.
        support: Number of observed positives of each class.
    """

    mAP: float
    micro_AP: float
    R80: float
    LRAP: float
    coverage: float
    per_class_AP: Float[np.ndarray, " C"]
    per_class_R80: Float[np.ndarray, " C"]
    support: Int[np.ndarray, " C"]

    def to_dict(self) -> dict[str, float]:
        """Return the numbers that stand for the whole split, by metric name."""
        return {name: getattr(self, name) for name in get_args(MetricName)}


def evaluate_scores(
    scores: Float[np.ndarray, "N C"],
    labels: Bool[np.ndarray, "N C"],
    observed: Bool[np.ndarray, "N C"] | None = None,
) -> Scores:
    """Measure scores against labels.

    Average precision is Σ (R_n − R_{n−1}) P_n over the distinct thresholds, not interpolated,
    as `average_precision_score` of scikit-learn has it. LRAP and coverage are those of G.
    Tsoumakas et al. 2010, *Mining Multi-label Data*, as `label_ranking_average_precision_score`
    (a row without labels counts 1) and `coverage_error` (such a row counts 0) have them, over
    the observed classes of each row that has one.

    Args:
        scores: Higher means more likely; any scale, since only their order matters.
        labels: The truth; ignored where unobserved.
        observed: Which entries are known; None means all.

    Raises:
        DataError: There are no rows, or an observed score is NaN or infinite.
    """
    table = checked_table(scores, labels, observed)
    curves = (curve_of(ranking) for ranking in rank_classes(table))
    found = [(_average_precision(curve), _recall_at(curve, 0.8)) for curve in curves]
    precisions, recalls = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Scores(
        mAP=_mean(precisions),
        micro_AP=float(_average_precision(curve_of(rank_all(table)))[0]),
        R80=_mean(recalls),
        LRAP=_mean(_row_lrap(table)),
        coverage=_mean(_row_coverage(table)),
        per_class_AP=precisions,
        per_class_R80=recalls,
        support=table.labels.sum(axis=0),
    )


def weighted_metric(
    metric: MetricName,
    scores: Float[np.ndarray, "N C"],
    labels: Bool[np.ndarray, "N C"],
    observed: Bool[np.ndarray, "N C"] | None = None,
) -> Callable[[Int[np.ndarray, " N"]], float]:
    """Return a function from how often each row counts to the metric; nan where undefined.

    Sorting happens once, here, which makes resampling cheap.

    Raises:
        ConfigError: Unknown metric.
        DataError: There are no rows, or an observed score is NaN or infinite.
    """
    table = checked_table(scores, labels, observed)
    match metric:
        case "mAP":
            per_class = _class_precision(table)
            return lambda counts: _mean(per_class(counts))
        case "R80":
            rankings = list(rank_classes(table))
            return lambda counts: _mean(
                np.concatenate([_recall_at(curve_of(one, counts), 0.8) for one in rankings])
            )
        case "micro_AP":
            ranking = rank_all(table)
            return lambda counts: float(_average_precision(curve_of(ranking, counts))[0])
        case "LRAP":
            per_row = _row_lrap(table)
        case "coverage":
            per_row = _row_coverage(table)
        case _:
            known = ", ".join(get_args(MetricName))
            raise ConfigError(f"unknown metric {metric!r}; expected one of {known}")
    return lambda counts: _mean(np.repeat(per_row, counts))


def weighted_class_precision(
    scores: Float[np.ndarray, "N C"],
    labels: Bool[np.ndarray, "N C"],
    observed: Bool[np.ndarray, "N C"] | None = None,
) -> Callable[[Int[np.ndarray, " N"]], Float[np.ndarray, " C"]]:
    """Return a function from how often each row counts to each class's average precision.

    It gives nan for a class without a positive among the rows that count.

    Raises:
        DataError: There are no rows, or an observed score is NaN or infinite.
    """
    return _class_precision(checked_table(scores, labels, observed))


def _class_precision(
    table: ScoreTable,
) -> Callable[[Int[np.ndarray, " N"]], Float[np.ndarray, " C"]]:
    rankings = list(rank_classes(table))
    return lambda counts: np.concatenate(
        [_average_precision(curve_of(one, counts)) for one in rankings]
    )


def _average_precision(curve: Curve) -> Float[np.ndarray, " K"]:
    """Return Σ (R_n − R_{n−1}) P_n of each list, n over its ends; nan without positives."""
    reached = np.maximum.accumulate(np.where(curve.ends, curve.found, 0), axis=1)
    gained = np.diff(reached, axis=1, prepend=0)
    return _share((gained * curve.precision).sum(axis=1), curve.found[:, -1])


def _recall_at(curve: Curve, precision: float) -> Float[np.ndarray, " K"]:
    """Return the largest recall of each list at that precision or more; nan without positives."""
    reached = curve.ends & (curve.precision >= precision)
    return _share(np.where(reached, curve.found, 0).max(axis=1), curve.found[:, -1])


def _row_lrap(table: ScoreTable) -> Float[np.ndarray, " N"]:
    """Return each row's term of LRAP, which is the average precision over its classes.

    1 without labels, nan where nothing is observed.
    """
    terms = [_average_precision(curve_of(ranking)) for ranking in rank_rows(table)]
    per_row = np.where(table.labels.any(axis=1), np.concatenate(terms), 1.0)
    return np.where(table.observed.any(axis=1), per_row, np.nan)


def _row_coverage(table: ScoreTable) -> Float[np.ndarray, " N"]:
    """Return how many observed classes score at least as high as a row's lowest label.

    0 without labels, nan where nothing is observed.
    """
    lowest = np.where(table.labels, table.scores, np.inf).min(axis=1, keepdims=True)
    covered = (table.scores >= lowest).sum(axis=1)
    return np.where(table.observed.any(axis=1), covered, np.nan)


def _share(part: np.ndarray, whole: Int[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    """Return part / whole, nan where the whole is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: Float[np.ndarray, " K"]) -> float:
    """Return the mean of the values that are numbers; nan if there is none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")
