"""What MLflow's pages say about sweeps and trials: their names, and notes in Markdown.

Pure: from settings and trials to text.
"""

from collections.abc import Iterable, Mapping, Sequence

from raymc.config import Config
from raymc.search.trials import TrialView, best_trial, duration, param_text, ranked

SHORT_NAMES = {"temperature": "τ", "fusion_depth": "fusion"}
_ROWS = 10
_SPACE = "&nbsp;" * 3  # MLflow sets the columns of a table close together


def trial_name(params: Mapping[str, object]) -> str:
    """Return what tells a trial from others in a line, such as `margin=0.31 τ=0.07 fusion=2`."""
    parts = []
    for path, value in params.items():
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        parts.append(f"{short_name(path)}={shown}")
    return " ".join(parts)


def short_name(path: str) -> str:
    """Return a setting's name as lines and tables show it: of `loss.temperature`, `τ`."""
    name = path.rpartition(".")[2]
    return SHORT_NAMES.get(name, name)


def plan_note(config: Config, command: str) -> str:
    """Return what a sweep searches, on what, and the command that does it once more."""
    asked = ", ".join(f"`{path}` {_values(config, path)}" for path in config.search.space)
    return (
        f"Searched in {config.search.trials} trials on `{config.data.path}`: {asked}.\n\n"
        f"The same once more, or on from where it stopped:\n\n```\n{command}\n```\n"
    )


def sweep_note(config: Config, views: Sequence[TrialView], command: str) -> str:
    """Return a finished sweep: its winner, how the trials ended, the best of them as a table.

    Args:
        config: Settings of the sweep.
        views: All its trials; `others` are further columns.
        command: What was typed to run it.
    """
    metric, best = config.train.monitor, best_trial(views)
    lines = []
    if best is not None:
        scores = {metric: best.value, **best.others}
        shown = ", ".join(f"{name} {_percent(value)}" for name, value in scores.items())
        lines.append(f"**Best: trial {best.number}**, `{trial_name(best.params)}`: {shown}.")
    states = [view.state for view in views]
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("complete", "pruned", "failed"))
    seconds = duration(sum(view.seconds for view in views))
    lines.append(f"{len(views)} trials: {counts}; {seconds} in all.")
    shown = ranked(views)[:_ROWS]
    lines.append(_table(config, shown))
    if len(shown) < len(views):
        lines.append(f"These are the best {len(shown)} of {len(views)}.")
    return "\n\n".join([*lines, plan_note(config, command)])


def trial_note(view: TrialView, metric: str, message: str = "") -> str:
    """Return how a trial ended: how far it came, how good it was, or why it failed."""
    scores = {metric: view.value, **view.others}
    known = [f"{name} {_percent(x)}" for name, x in scores.items() if x is not None]
    best = f"; at its best epoch {', '.join(known)}" if known else ""
    ended = (
        f"**Trial {view.number}, {view.state}** after epoch {view.epoch} of {view.epochs}{best}."
    )
    return "\n\n".join([ended, *([f"```\n{message}\n```"] if message else [])])


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a bar inside a cell, which would end it, is shown as `¦`."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '¦') for cell in line)} |\n" for line in lines)


def _table(config: Config, views: Iterable[TrialView]) -> str:
    views, paths = list(views), list(config.search.space)
    others = list(dict.fromkeys(name for view in views for name in view.others))
    titles = ["trial", "state", config.train.monitor, *others, "epochs", "time"]
    rows = []
    for view in views:
        numbers = [_percent(view.value), *(_percent(view.others.get(name)) for name in others)]
        cells = [str(view.number), view.state, *numbers, str(view.epoch), duration(view.seconds)]
        cells += [param_text(view.params.get(path, "")) for path in paths]
        rows.append([f"{cell}{_SPACE}" for cell in cells])
    return markdown_table([*titles, *map(short_name, paths)], rows).rstrip("\n")


def _values(config: Config, path: str) -> str:
    """The values that a setting may take in the search."""
    values = config.search.space[path]
    if values.choices:
        return "of " + ", ".join(str(choice) for choice in values.choices)
    return f"{values.low:g} to {values.high:g}{' (log)' if values.log else ''}"


def _percent(value: float | None) -> str:
    return "" if value is None or value != value else f"{100 * value:.1f} %"
