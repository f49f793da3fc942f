"""The best trial against the default settings on the same rows, with bootstrap intervals.

Pure numbers, and the table of them.
Axes: N rows, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO

from rich.console import Console, RenderableType
from rich.table import Table
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

from raymc.evaluation.compare import ClassDifference, Comparison, Run
from raymc.evaluation.scored import ScoredSplit
from raymc.metrics.bootstrap import Difference, bootstrap_interval, paired_difference
from raymc.metrics.metrics import MetricName, evaluate_scores
from raymc.report.page import Table as PageTable
from raymc.report.page import number, percent, text
from raymc.search.trials import param_text

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


def comparison_table(compared: list[Compared], split: str) -> PageTable:
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
    return PageTable(caption, heads, rows, frozenset(range(1, len(heads))))


def _shown(value: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return percent(value)
    low, high = interval
    return f"{percent(value)} ({100 * low:.1f}\u00a0to\u00a0{100 * high:.1f})"


# A comparison of runs as people read it: in the terminal, and as a page of its own. May import
# rich; knows neither Ray nor MLflow.


CLASSES_SHOWN = 12
WIDTH = 100
_STYLES = {"better": "green", "worse": "red"}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>raymc compare: {title}</title>
<style>
body {{ margin: 2rem auto; max-width: 60rem; padding: 0 1rem; background: #fff; color: #1a1a1a; }}
h1 {{ font: 600 1.25rem/1.3 system-ui, sans-serif; }}
p {{ font: 1rem/1.4 system-ui, sans-serif; }}
h1, p {{ overflow-wrap: anywhere; }}
pre {{ overflow-x: auto; font: 0.875rem/1.35 ui-monospace, Menlo, Consolas, monospace; }}
</style>
</head>
<body>
<h1>{title}</h1>
{verdicts}
<pre tabindex="0">{tables}</pre>
</body>
</html>
"""


def comparison_parts(
    comparison: Comparison, metric: MetricName = "mAP", *, classes: int | None = CLASSES_SHOWN
) -> list[RenderableType]:
    """Return the comparison as lines and tables, in the order they are read.

    Args:
        comparison: What was found.
        metric: The one that the verdict is about.
        classes: How many of each model's classes to show, half of them the largest gains and
            half the largest losses; None for all.
    """
    return [*verdict_lines(comparison, metric), "", *_tables(comparison, classes)]


def comparison_page(comparison: Comparison, metric: MetricName = "mAP") -> str:
    """Return the comparison, all classes included, as one HTML page that needs nothing else."""
    console = Console(record=True, width=WIDTH, file=StringIO(), highlight=False)
    for part in _tables(comparison, None):
        console.print(part, markup=False)
    tables = console.export_html(
        theme=DEFAULT_TERMINAL_THEME, code_format="{code}", inline_styles=True
    )
    title = ", ".join(model_name(runs) for runs in comparison.models)
    verdicts = "".join(f"<p>{escape(line.plain)}</p>" for line in verdict_lines(comparison, metric))
    return _PAGE.format(title=escape(title), verdicts=verdicts, tables=tables)


def verdict_lines(comparison: Comparison, metric: MetricName) -> list[Text]:
    """Return a line a model: whether it is better than the baseline, and by how much."""
    baseline, *names = (model_name(runs) for runs in comparison.models)
    return [
        Text(f"{name} against {baseline}: {metric} {difference_text(one)}", style=_style(one))
        for name, one in zip(names, comparison.differences[metric])
    ]


def model_name(runs: Sequence[Run]) -> str:
    """Return the name of one run, or that of the first of several seeds."""
    return runs[0].name if len(runs) == 1 else f"{runs[0].name} ({len(runs)} seeds)"


def verdict(difference: Difference) -> str:
    """Return what the interval says: better, worse, or not told apart."""
    if not difference.is_clear:
        return "not told apart"
    return "better" if difference.low > 0 else "worse"


def difference_text(difference: Difference) -> str:
    """Return a difference of rates for people: `+2.1 points [0.4, 3.8]: better`."""
    if math.isnan(difference.value):
        return f"no points to compare: {verdict(difference)}"
    value, interval = _difference_cells(difference)
    return f"{value} points {interval}: {verdict(difference)}"


def estimate_text(value: float, low: float, high: float) -> str:
    """Return a rate and its interval in percent: `54.3 [51.0, 57.6]`."""
    if math.isnan(value):
        return "–"
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _difference_cells(difference: Difference) -> tuple[str, str]:
    """Return value and interval in points, to as many digits as keep its ends off zero."""
    value, low, high = (100 * x for x in (difference.value, difference.low, difference.high))
    if math.isnan(value):
        return "–", ""
    digits = 2 if difference.is_clear and min(abs(low), abs(high)) < 0.05 else 1
    return f"{value:+.{digits}f}", f"[{low:.{digits}f}, {high:.{digits}f}]"


def _style(difference: Difference) -> str:
    return _STYLES.get(verdict(difference), "")


def _table(title: str, *columns: str) -> Table:
    """Return an empty table, whose first column is text and whose others are numbers."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False,
        padding=(0, 2, 0, 0), header_style="italic",
    )  # fmt: skip
    for at, column in enumerate(columns):
        justify = "right" if at else "left"
        table.add_column(Text(column), justify=justify, overflow="fold", min_width=6)
    return table


def _tables(comparison: Comparison, classes: int | None) -> list[RenderableType]:
    split, names = comparison.split, [model_name(runs) for runs in comparison.models]
    parts: list[RenderableType] = [
        f"{split.split}: {len(split.ids):,} rows, {len(split.vocabulary):,} classes; "
        f"in brackets {100 * comparison.confidence:g} % intervals",
        "",
        _metrics_table(comparison, names),
        "",
        _differences_table(comparison, names),
        "",
        *_settings_parts(comparison, names),
    ]
    for name, found in zip(names[1:], comparison.classes):
        parts += ["", *_class_parts(name, names[0], found, classes)]
    return parts


def _metrics_table(comparison: Comparison, names: Sequence[str]) -> Table:
    table = _table("In percent", "run", *comparison.metrics)
    for at, name in enumerate(names):
        found = [estimates[at] for estimates in comparison.metrics.values()]
        cells = [estimate_text(one.value, one.low, one.high) for one in found]
        table.add_row(Text(name), *(Text(cell) for cell in cells))
    return table


def _differences_table(comparison: Comparison, names: Sequence[str]) -> Table:
    table = _table(f"Points more than {names[0]}", "run", *comparison.differences)
    for at, name in enumerate(names[1:]):
        found = [differences[at] for differences in comparison.differences.values()]
        cells = [Text(" ".join(_difference_cells(one)), style=_style(one)) for one in found]
        table.add_row(Text(name), *cells)
    return table


def _settings_parts(comparison: Comparison, names: Sequence[str]) -> list[RenderableType]:
    if not comparison.settings:
        return ["no setting differs that results depend on"]
    table = _table("Settings that differ", "setting", *names)
    for key, values in comparison.settings.items():
        cells = [", ".join(param_text(value) for value in each) for each in values]
        table.add_row(key, *(Text(cell) for cell in cells))
    return [table]


def _class_parts(
    name: str, baseline: str, found: Sequence[ClassDifference], classes: int | None
) -> list[RenderableType]:
    """Return how many classes win and lose, and those that do most."""
    verdicts = [verdict(one.difference) for one in found]
    summary = ", ".join(
        f"{verdicts.count(kind)} {kind}" for kind in ("better", "worse", "not told apart")
    )
    table = _table(
        f"AP by class: {name} against {baseline}", "class", "rows", "baseline", "run", "points", ""
    )
    table.columns[-1].justify = "left"
    half = len(found) if classes is None or len(found) <= classes else classes // 2
    for at, one in enumerate(found):
        if half <= at < len(found) - half:
            if at == half:
                table.add_row(f"… {len(found) - 2 * half} more")
            continue
        value, interval = _difference_cells(one.difference)
        cells = [f"{one.support:,}", f"{100 * one.theirs:.1f}", f"{100 * one.ours:.1f}", value]
        table.add_row(Text(one.name), *cells, interval, style=_style(one.difference))
    by_luck = "each interval is of its class alone: some leave out 0 by luck where there are many"
    return [table, Text(f"{summary}; {by_luck}")]
