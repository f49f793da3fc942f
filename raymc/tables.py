"""Trials as a table, best first: what displays, comparisons and reports share.

May import rich; knows neither Ray nor MLflow.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console
from rich.table import Table

TrialState = Literal["running", "complete", "pruned", "failed", "stopped"]

_STYLES = {"running": "cyan", "complete": "green", "pruned": "dim", "failed": "red"}


@dataclass(frozen=True)
class TrialView:
    """One trial as displays and comparisons show it.

    `params` holds what the sweep chose for it, by dotted config key; `value` its best metric
    so far (larger is better; None before the first evaluation); `seconds` its wall time;
    `others` further metrics at that best epoch, by column name.
    """

    number: int
    params: Mapping[str, object]
    state: TrialState
    epoch: int
    epochs: int
    value: float | None = None
    seconds: float = 0.0
    others: Mapping[str, float] = field(default_factory=dict)


def trials_table(views: Sequence[TrialView], metric: str = "val/mAP", *, width: int = 100) -> Table:
    """Return all trials, best first, the best highlighted; of the params those that differ.

    Args:
        views: The trials, in any order; those without a value come last, after them the
            failed ones.
        metric: Column title of `TrialView.value`.
        width: Characters a line may have (`console.width`); where a column per param does
            not fit, one column holds them all.
    """
    table = rows_table(ranked(views), views, metric, joined=False)
    if Console(width=100 * width).measure(table).maximum <= width:
        return table
    return rows_table(ranked(views), views, metric, joined=True)


def rows_table(
    shown: Sequence[TrialView], views: Sequence[TrialView], metric: str, *, joined: bool
) -> Table:
    """Return some of the trials as a table in the order given.

    Args:
        shown: Those that get a row.
        views: All, which decide about columns and the best.
        metric: Column title of `TrialView.value`.
        joined: Whether one last column holds all params.
    """
    names = _varying(views)
    others = list(dict.fromkeys(name for view in views for name in view.others))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("trial", "state", metric, *others, "epoch", "time"):
        table.add_column(column, no_wrap=True, justify="left" if column == "state" else "right")
    for column in ["params"] if joined else names.values():
        table.add_column(column, overflow="fold")
    best = best_trial(views)
    for view in shown:
        numbers = [value_text(view.value), *(value_text(view.others.get(name)) for name in others)]
        epoch = f"{view.epoch}/{view.epochs}" if view.epochs else str(view.epoch)
        params = [param_text(view.params.get(key, "")) for key in names]
        if joined:
            pairs = zip(names.values(), params, strict=True)
            params = [" ".join(f"{name}={value}" for name, value in pairs)]
        cells = [str(view.number), view.state, *numbers, epoch, duration(view.seconds), *params]
        table.add_row(*cells, style="bold green" if view is best else _STYLES.get(view.state))
    return table


def ranked(views: Sequence[TrialView]) -> list[TrialView]:
    """Return the trials best first; then those without a value, the failed ones last."""
    return sorted(views, key=lambda view: (-_score(view), view.state == "failed", view.number))


def best_trial(views: Sequence[TrialView]) -> TrialView | None:
    """Return the trial with the best value; None where none that didn't fail has one."""
    first = next(iter(ranked(views)), None)
    return first if first is not None and math.isfinite(_score(first)) else None


def duration(seconds: float) -> str:
    """Return wall time for people: `4.2 s`, `3:07`, `1:02:09`."""
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def value_text(value: float | None) -> str:
    """Return a metric for a table cell; empty where there is none."""
    return "" if value is None or math.isnan(value) else f"{value:.4f}"


def param_text(value: object) -> str:
    """Return a param for a table cell: numbers, also as MLflow's text, to four digits."""
    if isinstance(value, bool):
        return str(value)
    try:
        return f"{float(str(value)):.4g}"
    except ValueError:
        return str(value)


def _score(view: TrialView) -> float:
    if view.state == "failed" or view.value is None or math.isnan(view.value):
        return -math.inf
    return view.value


def _varying(views: Sequence[TrialView]) -> dict[str, str]:
    """The params that differ between the trials (all, where there is one trial), with names."""
    keys = dict.fromkeys(key for view in views for key in view.params)
    if len(views) > 1:
        keys = [
            key for key in keys if len({param_text(view.params.get(key)) for view in views}) > 1
        ]
    last = [key.rpartition(".")[2] for key in keys]
    names = [
        key if last.count(name) > 1 else "τ" if name == "temperature" else name
        for key, name in zip(keys, last, strict=True)
    ]
    return dict(zip(keys, names, strict=True))
