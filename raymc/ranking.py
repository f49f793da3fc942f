"""Scored entries sorted once: what every metric and threshold is read from.

NumPy only. A list of entries is sorted by falling score; counts along it are exact at the ends
of runs of equal scores, and nowhere else.
Axes: N rows, C classes, K lists of L entries each (classes × rows, rows × classes, 1 × all).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from raymc.errors import DataError

_BLOCK_ENTRIES = 2_000_000  # sorted at a time: keeps the temporaries near 150 MB


@dataclass(frozen=True)
class ScoreTable:
    """What is measured; where nothing was observed the score is −inf and there is no label."""

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
    """Return the table, or refuse what can't be ranked.

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
    """Cut lists of so many entries into blocks of bounded size."""
    step = max(1, _BLOCK_ENTRIES // entries)
    return (slice(start, start + step) for start in range(0, lists, step))


def curve_of(ranking: Ranking, counts: Int[np.ndarray, " N"] | None = None) -> Curve:
    """Count along each list, every row `counts` times (once by default)."""
    weights = 1 if counts is None else counts[ranking.rows]
    found = np.cumsum(ranking.positive * weights, axis=1)
    drawn = np.cumsum(ranking.observed * weights, axis=1)
    return Curve(found, found / np.maximum(drawn, 1), ranking.ends)
