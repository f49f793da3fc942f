"""Tables of runs, and of trials, best first, for the terminal."""

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table

from raymc.search.trials import Trial, best_trial, duration, param_text, ranked, value_text
from raymc.terminal import make_console, plain
from raymc.tracking.sweeps import RecordedRun

_STYLES = {"running": "cyan", "complete": "green", "pruned": "dim", "failed": "red"}
_MOST_REASONS = 3


def trials_table(trials: Sequence[Trial], metric: str = "val/mAP", *, width: int = 100) -> Table:
    """Return all trials, best first and the best highlighted, with the params that differ.

    Those without a value come last, after them the failed ones. Where a column for each param
    doesn't fit into `width` characters, one column holds them all.
    """
    has_recall = any(trial.recall is not None for trial in trials)
    shown = ranked(trials)
    table = rows_table(shown, trials, metric, joined=False, has_recall=has_recall)
    if make_console(width=100 * width).measure(table).maximum <= width:
        return table
    return rows_table(shown, trials, metric, joined=True, has_recall=has_recall)


def rows_table(
    shown: Sequence[Trial],
    trials: Sequence[Trial],
    metric: str,
    *,
    joined: bool,
    has_recall: bool = False,
) -> Table:
    """Return some of the trials as a table in the order given; all decide about columns and best.

    If `joined`, one last column holds all params.
    """
    names = _varying(trials)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("trial", "state", metric, *["R80"][:has_recall], "epoch", "time"):
        table.add_column(column, no_wrap=True, justify="left" if column == "state" else "right")
    for column in ["params"] if joined else names.values():
        table.add_column(plain(column), overflow="fold")
    best = best_trial(trials)
    for trial in shown:
        numbers = [value_text(trial.value), *[value_text(trial.recall)][:has_recall]]
        epoch = f"{trial.epoch}/{trial.planned}" if trial.planned else str(trial.epoch)
        params = [param_text(trial.params.get(key, "")) for key in names]
        if joined:
            pairs = zip(names.values(), params, strict=True)
            params = [" ".join(f"{name}={value}" for name, value in pairs)]
        cells = [str(trial.number), trial.state, *numbers, epoch, duration(trial.seconds)]
        style = "bold green" if trial is best else _STYLES.get(trial.state)
        table.add_row(*cells, *map(plain, params), style=style)
    return table


def failure_lines(trials: Sequence[Trial]) -> list[str]:
    """Return why trials failed: a line for each of the first reasons, with its trials."""
    reasons: dict[str, list[str]] = {}
    for trial in trials:
        if trial.message:
            reasons.setdefault(trial.message, []).append(str(trial.number))
    told = [
        f"trial{'s' * (len(numbers) > 1)} {', '.join(numbers)} failed: {message}"
        for message, numbers in reasons.items()
    ]
    more = len(told) - _MOST_REASONS
    return told if more <= 0 else [*told[:_MOST_REASONS], f"… and {more} more reasons"]


def runs_table(
    runs: Sequence[RecordedRun],
    metric: str = "val/mAP",
    *,
    width: int = 100,
    price: float | None = None,
) -> Table:
    """Return runs and sweeps in the order given, with the metric at the best epoch.

    GPU-hours are shown where there were GPUs. With the price of a GPU's hour, or of a worker's
    where there were none, the last columns are hours and cost. The commit is left out where it was
    not recorded, or doesn't fit into `width` characters.
    """
    if any(run.commit for run in runs):
        table = _runs_table(runs, metric, price, with_commit=True)
        if make_console(width=100 * width).measure(table).maximum <= width:
            return table
    return _runs_table(runs, metric, price, with_commit=False)


def _runs_table(
    runs: Sequence[RecordedRun], metric: str, price: float | None, *, with_commit: bool
) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    has_gpus = any(run.gpu_hours for run in runs)
    unit = "GPU-hours" if has_gpus else "worker-hours"
    costs = [unit, "cost"] if price is not None else [unit] if has_gpus else []
    columns = ("name", "id", "kind", "state", metric, "started", *costs, *["commit"][:with_commit])
    for column in columns:
        is_number = column in (metric, *costs)
        table.add_column(
            column,
            no_wrap=column != "name",
            overflow="fold",
            justify="right" if is_number else "left",
        )
    for run in runs:
        kind = f"sweep of {run.trials}" if run.kind == "sweep" else run.kind
        started = datetime.fromtimestamp(run.started / 1000).strftime("%Y-%m-%d %H:%M")
        cells = [run.short_id, kind, run.state, value_text(run.value), started]
        hours = run.gpu_hours if has_gpus else run.worker_hours
        money = "" if hours is None or price is None else f"{hours * price:,.2f}"
        cells += ["" if hours is None else f"{hours:,.2f}", money][: len(costs)]
        cells += [run.commit][:with_commit]
        table.add_row(plain(run.name), *cells, style=_STYLES.get(run.state))
    return table


def _varying(trials: Sequence[Trial]) -> dict[str, str]:
    """The params that differ between trials (all of them if there is one trial), with names."""
    keys = dict.fromkeys(key for trial in trials for key in trial.params)
    if len(trials) > 1:
        keys = [
            key for key in keys if len({param_text(trial.params.get(key)) for trial in trials}) > 1
        ]
    last = [key.rpartition(".")[2] for key in keys]
    names = [
        key if last.count(name) > 1 else "τ" if name == "temperature" else name
        for key, name in zip(keys, last, strict=True)
    ]
    return dict(zip(keys, names, strict=True))
