"""The best trial against the default settings on the same rows, with bootstrap intervals.

Pure numbers, and the table of them.
Axes: N rows, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from raymc.bootstrap import Difference, bootstrap_interval, paired_difference
from raymc.metrics import MetricName, evaluate_scores
from raymc.report.page import Table, number, percent, text
from raymc.scored import ScoredSplit

METRICS: Mapping[MetricName, str] = {"mAP": "mAP", "R80": "R80"}
RESAMPLES, FEWEST_RESAMPLES = 1000, 200
_MOST_ENTRIES = 100_000_000  # looked at by all resamples of one interval: some seconds


@dataclass(frozen=True)
class Compared:
    """One metric of the best trial, of the default settings, and what lies between.

    Intervals hold 95 % of the resamples; None where the split is too large to resample here, and
    where there is no default to compare with.
    """

    metric: MetricName
    best: float
    best_interval: tuple[float, float] | None
    default: float | None = None
    default_interval: tuple[float, float] | None = None
    difference: Difference | None = None


def compare(best: ScoredSplit, default: ScoredSplit | None) -> list[Compared]:
    """Measure both models on the same rows."""
    resamples = min(RESAMPLES, _MOST_ENTRIES // max(1, best.scores.size))
    ours, theirs = (
        {} if one is None else evaluate_scores(one.scores, one.labels, one.observed).to_dict()
        for one in (best, default)
    )
    found = []
    for metric in METRICS:
        inside = _interval(best, metric, resamples)
        if default is None:
            found.append(Compared(metric, ours[metric], inside))
            continue
        difference = None
        if resamples >= FEWEST_RESAMPLES:
            difference = paired_difference(
                [best.scores], [default.scores], best.labels, best.observed,
                metric=metric, resamples=resamples,
            )  # fmt: skip
        before = _interval(default, metric, resamples)
        found.append(Compared(metric, ours[metric], inside, theirs[metric], before, difference))
    return found


def _interval(
    scored: ScoredSplit, metric: MetricName, resamples: int
) -> tuple[float, float] | None:
    if resamples < FEWEST_RESAMPLES:
        return None
    return bootstrap_interval(
        scored.scores, scored.labels, scored.observed, metric=metric, resamples=resamples
    )


def comparison_table(compared: list[Compared], split: str) -> Table:
    """Return the comparison as a table."""
    has_default = compared[0].default is not None
    heads = ["metric", "best trial", *(["default", "difference in points"] if has_default else [])]
    rows = []
    for one in compared:
        cells = [text(METRICS[one.metric]), number(one.best, _shown(one.best, one.best_interval))]
        if one.default is not None:
            points = 100 * (one.best - one.default)
            between = ""
            if one.difference is not None:
                low, high = 100 * one.difference.low, 100 * one.difference.high
                between = f" ({low:+.1f}\u00a0to\u00a0{high:+.1f})"
            cells.append(number(one.default, _shown(one.default, one.default_interval)))
            cells.append(number(points, f"{points:+.1f}{between}"))
        rows.append(cells)
    caption = (
        f"On the split {split}; in brackets the 95 % bootstrap interval over its clips. The "
        "difference is resampled in pairs, so it may be clear although the two intervals overlap."
    )
    return Table(caption, heads, rows, frozenset(range(1, len(heads))))


def _shown(value: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return percent(value)
    low, high = interval
    return f"{percent(value)} ({100 * low:.1f}\u00a0to\u00a0{100 * high:.1f})"
