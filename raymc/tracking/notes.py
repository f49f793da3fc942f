"""What raymc writes on MLflow's pages about sweeps and trials: names, and notes in Markdown."""

from collections.abc import Iterable, Mapping, Sequence

from raymc.config import Config
from raymc.search.trials import Trial, best_trial, duration, param_text, ranked

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
    """Return what a sweep searches, on what, and the command that repeats it."""
    asked = ", ".join(f"`{path}` {_values(config, path)}" for path in config.search.space)
    return (
        f"Searched in {config.search.trials} trials on `{config.data.path}`: {asked}.\n\n"
        "Run this command again to resume the sweep, or to repeat it elsewhere:\n\n"
        f"```\n{command}\n```\n"
    )


def sweep_note(config: Config, trials: Sequence[Trial], command: str) -> str:
    """Return a finished sweep: its winner, how the trials ended, and a table of the best.

    Args:
        config: Settings of the sweep.
        trials: All its trials.
        command: What was typed to run it.
    """
    best, lines = best_trial(trials), []
    if best is not None:
        shown = ", ".join(_scores(best, config.train.monitor))
        lines.append(f"**Best: trial {best.number}**, `{trial_name(best.params)}`: {shown}.")
    states = [trial.state for trial in trials]
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("complete", "pruned", "failed"))
    seconds = duration(sum(trial.seconds for trial in trials))
    lines.append(f"{len(trials)} trials: {counts}; {seconds} in all.")
    shown = ranked(trials)[:_ROWS]
    lines.append(_table(config, shown))
    if len(shown) < len(trials):
        lines.append(f"These are the best {len(shown)} of {len(trials)}.")
    return "\n\n".join([*lines, plan_note(config, command)])


def trial_note(trial: Trial, metric: str) -> str:
    """Return how a trial ended: how far it came, how good it was, or why it failed."""
    known = _scores(trial, metric)
    best = f"; at its best epoch {', '.join(known)}" if known else ""
    reached = f"after epoch {trial.epoch} of {trial.planned}"
    ended = f"**Trial {trial.number}, {trial.state}** {reached}{best}."
    return "\n\n".join([ended, *([f"```\n{trial.message}\n```"] if trial.message else [])])


def _scores(trial: Trial, metric: str) -> list[str]:
    scores = {metric: trial.value, "R80": trial.recall}
    return [f"{name} {_percent(value)}" for name, value in scores.items() if value is not None]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a bar inside a cell, which would end it, is shown as `¦`."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '¦') for cell in line)} |\n" for line in lines)


def _table(config: Config, trials: Sequence[Trial]) -> str:
    paths, has_recall = list(config.search.space), any(t.recall is not None for t in trials)
    titles = ["trial", "state", config.train.monitor, *["R80"][:has_recall], "epochs", "time"]
    rows = []
    for trial in trials:
        numbers = [_percent(trial.value), *[_percent(trial.recall)][:has_recall]]
        cells = [str(trial.number), trial.state, *numbers]
        cells += [str(trial.epoch), duration(trial.seconds)]
        cells += [param_text(trial.params.get(path, "")) for path in paths]
        rows.append([f"{cell}{_SPACE}" for cell in cells])
    return markdown_table([*titles, *map(short_name, paths)], rows).rstrip("\n")


def _values(config: Config, path: str) -> str:
    values = config.search.space[path]
    if values.choices:
        return "of " + ", ".join(str(choice) for choice in values.choices)
    return f"{values.low:g} to {values.high:g}{' (log)' if values.log else ''}"


def _percent(value: float | None) -> str:
    return "" if value is None or value != value else f"{100 * value:.1f} %"
