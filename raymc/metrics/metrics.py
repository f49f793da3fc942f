"""Ranking metrics of a multi-label classifier's scores: exact, over all rows at once.

Every number agrees with scikit-learn's, ties included; unobserved entries are left out. Entries
are sorted once into a `Ranking`, by falling score; counts along a list are exact only at the end
of a run of equal scores. Axes: N rows, C classes, K lists of L entries each (classes × rows,
rows × classes, 1 × all).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from raymc.errors import ConfigError, DataError

_BLOCK_ENTRIES = 2_000_000  # sorted at a time: keeps the temporaries near 150 MB


@dataclass(frozen=True)
class ScoreTable:
    """Scores and labels; an unobserved entry has the score −inf and no label."""

    scores: Float[np.ndarray, "N C"]
    labels: Bool[np.ndarray, "N C"]
    observed: Bool[np.ndarray, "N C"]


@dataclass(frozen=True)
class Ranking:
    """K lists of entries, each sorted by falling score, unobserved entries last."""

    scores: Float[np.ndarray, "K L"]
    rows: Int[np.ndarray, "K L"]  # the row that each entry belongs to
    positive: Bool[np.ndarray, "K L"]
    observed: Bool[np.ndarray, "K L"]
    ends: Bool[np.ndarray, "K L"]  # the last entry of a run of equal scores


@dataclass(frozen=True)
class Curve:
    """Precision and positives found when a list is cut after each entry; valid at its ends."""

    found: Int[np.ndarray, "K L"]
    precision: Float[np.ndarray, "K L"]
    ends: Bool[np.ndarray, "K L"]


def checked_table(
    scores: Float[np.ndarray, "N C"],
    labels: Bool[np.ndarray, "N C"],
    observed: Bool[np.ndarray, "N C"] | None,
) -> ScoreTable:
    """Return the table if it can be ranked.

    Raises:
        DataError: There are no rows or classes, or an observed score is NaN or infinite.
    """
    if scores.size == 0:
        raise DataError(
            f"there are no scores to evaluate: {scores.shape[0]} rows of {scores.shape[1]} "
            "classes; expected at least one row and one class"
        )
    known = np.ones(labels.shape, dtype=np.bool_) if observed is None else observed
    broken = ~np.isfinite(scores) & known
    if broken.any():
        row, column = np.argwhere(broken)[0]
        raise DataError(
            f"the score of row {row}, class {column} is {scores[row, column]} "
            f"({int(broken.sum())} such scores in all); scores must be finite, so check that "
            "training did not diverge"
        )
    return ScoreTable(np.where(known, scores, scores.dtype.type(-np.inf)), labels & known, known)


def _rank(table: ScoreTable, entries_per_row: int) -> Ranking:
    """Sort each line of the table; `entries_per_row` neighbours of a line are of one row."""
    order = np.argsort(-table.scores, axis=1)
    scores = np.take_along_axis(table.scores, order, axis=1)
    ends = np.ones(scores.shape, dtype=np.bool_)
    ends[:, :-1] = scores[:, :-1] != scores[:, 1:]
    return Ranking(
        scores=scores,
        rows=order // entries_per_row,
        positive=np.take_along_axis(table.labels, order, axis=1),
        observed=np.take_along_axis(table.observed, order, axis=1),
        ends=ends,
    )


def rank_classes(table: ScoreTable) -> Iterator[Ranking]:
    """Yield the rows ranked by each class, a block of classes at a time."""
    for block in _blocks(table.scores.shape[1], len(table.scores)):
        arrays = (table.scores, table.labels, table.observed)
        yield _rank(ScoreTable(*(np.ascontiguousarray(array[:, block].T) for array in arrays)), 1)


def rank_rows(table: ScoreTable) -> Iterator[Ranking]:
    """Yield the classes ranked by each row, a block of rows at a time."""
    classes = table.scores.shape[1]
    for block in _blocks(len(table.scores), classes):
        yield _rank(
            ScoreTable(table.scores[block], table.labels[block], table.observed[block]), classes
        )


def rank_all(table: ScoreTable) -> Ranking:
    """Return all entries ranked as one list."""
    arrays = (table.scores, table.labels, table.observed)
    return _rank(ScoreTable(*(array.reshape(1, -1) for array in arrays)), table.scores.shape[1])


def _blocks(lists: int, entries: int) -> Iterator[slice]:
    """Split lists of this many entries into blocks of bounded size."""
    step = max(1, _BLOCK_ENTRIES // entries)
    return (slice(start, start + step) for start in range(0, lists, step))


def curve_of(ranking: Ranking, counts: Int[np.ndarray, " N"] | None = None) -> Curve:
    """Count along each list, every row `counts` times (once by default)."""
    weights = 1 if counts is None else counts[ranking.rows]
    found = np.cumsum(ranking.positive * weights, axis=1)
    drawn = np.cumsum(ranking.observed * weights, axis=1)
    return Curve(found, found / np.maximum(drawn, 1), ranking.ends)


MetricName = Literal["mAP", "micro_AP", "R80", "LRAP", "coverage"]


@dataclass(frozen=True)
class Scores:
    """The result of `evaluate_scores`; rates are shares in [0, 1], not percentages.

    Attributes:
        mAP: Mean of `per_class_AP` over the classes with a positive; nan if there is none.
        micro_AP: Average precision of all entries as one list; nan without positives.
        R80: Mean of `per_class_R80` over the classes with a positive; nan if there is none.
        LRAP: Label ranking average precision; nan if no row has an observed class.
        coverage: How many top-scored classes of a row contain all its labels, on average; nan if
            no row has an observed class.
        per_class_AP: Average precision of each class; nan if it has no positive.
        per_class_R80: Largest recall of each class at a precision of at least 0.8, 0 if that
            precision is never reached; nan if the class has no positive.
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
        """Return the metrics of the whole split by name."""
        return {name: getattr(self, name) for name in get_args(MetricName)}


def evaluate_scores(
    scores: Float[np.ndarray, "N C"],
    labels: Bool[np.ndarray, "N C"],
    observed: Bool[np.ndarray, "N C"] | None = None,
) -> Scores:
    """Measure scores against labels.

    Average precision is Σ (R_n − R_{n−1}) P_n over the distinct thresholds, not interpolated,
    as in scikit-learn's `average_precision_score`. LRAP and coverage are those of G. Tsoumakas et
    al. 2010, *Mining Multi-label Data*, as in `label_ranking_average_precision_score` (a row
    without labels counts 1) and `coverage_error` (such a row counts 0), over the observed
    classes of each row that has one.

    Higher scores mean more likely; only their order matters. Labels are ignored where
    unobserved; `observed` None means that all are known.

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
            per_class = weighted_class_precision(scores, labels, observed)
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
    rankings = list(rank_classes(checked_table(scores, labels, observed)))
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
