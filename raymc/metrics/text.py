"""How metrics are written for people: percentages, intervals and differences."""

import math

from raymc.metrics.bootstrap import Difference


def percent(share: float, digits: int = 1) -> str:
    """Return a share as a percentage, with a no-break space; a dash if it is nan."""
    return "–" if math.isnan(share) else f"{100 * share:.{digits}f}\u00a0%"


def estimate_text(value: float, low: float, high: float) -> str:
    """Return a rate and its interval, if it has one, in percent: `54.3 [51.0, 57.6]`."""
    if math.isnan(value):
        return "–"
    interval = "" if math.isnan(low) else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * value:.1f}{interval}"


def difference_text(difference: Difference) -> str:
    """Return a difference of rates in words: `+2.1 points [0.4, 3.8]: better`."""
    if math.isnan(difference.value):
        return f"no points to compare: {difference.verdict}"
    value, interval = difference_cells(difference)
    return f"{value} points {interval}: {difference.verdict}"


def difference_cells(difference: Difference) -> tuple[str, str]:
    """Return value and interval in points, to as many digits as keep its ends off zero."""
    value, low, high = (100 * x for x in (difference.value, difference.low, difference.high))
    if math.isnan(value):
        return "–", ""
    digits = 2 if difference.is_clear and min(abs(low), abs(high)) < 0.05 else 1
    interval = "" if math.isnan(low) else f"[{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:+.{digits}f}", interval


def explained(metric: str) -> str:
    """Return in a sentence what a metric says, by its name in tables; nothing if it is unknown."""
    return _MEANINGS.get(metric.rpartition("/")[2], "")


_MEANINGS = {
    "mAP": "mAP is the mean average precision: for each label, how well the clips that have it are "
    "ranked above those that don't (100\u00a0%: all of them), and the mean of that over labels.",
    "R80": "R80 is recall at 80\u00a0% precision: the share of a label's clips that are found "
    "while at least four of five found clips are right, and the mean of that over labels.",
    "micro_AP": "micro_AP is the average precision of all pairs of a clip and a label together.",
    "LRAP": "LRAP is the label ranking average precision: for each clip, how well its own labels "
    "are ranked above the others, and the mean of that over clips.",
}
