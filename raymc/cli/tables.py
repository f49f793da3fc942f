"""Trials as a table, best first: what displays, comparisons and reports share.

May import rich; knows neither Ray nor MLflow.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from raymc.search.trials import TrialView, best_trial, duration, param_text, ranked, value_text

_STYLES = {"running": "cyan", "complete": "green", "pruned": "dim", "failed": "red"}


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
