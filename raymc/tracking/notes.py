"""What MLflow's pages show of sweeps and trials: names, notes in Markdown, and saved views.

Views are MLflow's own: experiment tags that its menu "Views" lists, and that an address can name.
"""

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

from raymc.config import Config
from raymc.search.trials import Trial, best_trial, duration, param_text, ranked
from raymc.terminal import one_line, visible
from raymc.tracking.connect import answering, open_client
from raymc.tracking.records import PARENT_TAG, STATE_TAG, TRIAL_TAG, best_name, now

SHORT_NAMES = {"temperature": "τ", "fusion_depth": "fusion"}
_ROWS = 10
_SPACE = "&nbsp;" * 3  # MLflow leaves no space between the columns of a table
SWEEPS_VIEW, BEST_VIEW = "raymc-sweeps", "raymc-best"
_VIEW_TAG = "mlflow.sharedViewState."
_MOST_PARAMS, _MOST_COMPARED = 20, 40
_KIND = "workflowType=machine_learning"  # without it, MLflow shows its pages on LLM traces
_CHECKBOX, _NAME = "0", "attributes.`Run Name`"
_NAME_WIDTH, _WIDTH = 310, 130  # pixels; MLflow's own widths cut names off


def trial_name(params: Mapping[str, object]) -> str:
    """Return a trial's params in a line, such as `margin=0.31 τ=0.07 fusion=2`."""
    parts = []
    for path, value in params.items():
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        parts.append(f"{short_name(path)}={shown}")
    return " ".join(parts)


def short_name(path: str) -> str:
    """Return a setting's short name: `τ` for `loss.temperature`."""
    name = path.rpartition(".")[2]
    return SHORT_NAMES.get(name, name)


def plan_note(config: Config, command: str) -> str:
    """Return what a sweep searches, on what, and the command that repeats it."""
    asked = ", ".join(f"{code(path)} {_values(config, path)}" for path in config.search.space)
    trials, hours = config.search.trials, config.search.hours
    planned = f"{trials} trials" if hours is None else f"up to {trials} trials, {hours:g} hours"
    return (
        f"Searched in {planned} on {code(config.data.path)}: {asked}.\n\n"
        "Run this command again to resume the sweep, or to repeat it elsewhere:\n\n"
        f"{code_block(command)}\n"
    )


def sweep_note(config: Config, trials: Sequence[Trial], command: str) -> str:
    """Return a finished sweep: its winner, how the trials ended, and a table of the best."""
    best, lines = best_trial(trials), []
    if best is not None:
        shown = ", ".join(_scores(best, config.train.monitor))
        lines.append(f"**Best: trial {best.number}**, {code(trial_name(best.params))}: {shown}.")
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
    return "\n\n".join([ended, *([code_block(trial.message)] if trial.message else [])])


def _scores(trial: Trial, metric: str) -> list[str]:
    scores = {metric: trial.value, "R80": trial.recall}
    return [f"{name} {_percent(value)}" for name, value in scores.items() if value is not None]


def code(text: str) -> str:
    """Return a text as code in Markdown, which shows it as it is."""
    text = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def code_block(text: str) -> str:
    """Return a text as a block of code in Markdown."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{visible(text)}\n{fence}"


def plain(text: str) -> str:
    """Return a text that Markdown and HTML show as it is."""
    text = html.escape(one_line(text), quote=False).replace("|", "&#124;")
    return re.sub(r"([\\`*\[\]~]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of cells that are Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _table(config: Config, trials: Sequence[Trial]) -> str:
    paths, has_recall = list(config.search.space), any(t.recall is not None for t in trials)
    titles = ["trial", "state", config.train.monitor, *["R80"][:has_recall], "epochs", "time"]
    rows = []
    for trial in trials:
        numbers = [_percent(trial.value), *[_percent(trial.recall)][:has_recall]]
        cells = [str(trial.number), trial.state, *numbers]
        cells += [str(trial.epoch), duration(trial.seconds)]
        cells += [plain(param_text(trial.params.get(path, ""))) for path in paths]
        rows.append([f"{cell}{_SPACE}" for cell in cells])
    return markdown_table([*titles, *(plain(short_name(path)) for path in paths)], rows).rstrip(
        "\n"
    )


def _values(config: Config, path: str) -> str:
    values = config.search.space[path]
    if values.choices:
        return "of " + ", ".join(plain(str(choice)) for choice in values.choices)
    return f"{values.low:g} to {values.high:g}{' (log)' if values.log else ''}"


def _percent(value: float | None) -> str:
    return "" if value is None or value != value else f"{100 * value:.1f} %"


def sweep_page_tags(parent_id: str, params: Sequence[str], metric: str) -> dict[str, str]:
    """Return the experiment tags that make the views of all sweeps and of the newest one's trials.

    `parent_id` is that sweep's id in MLflow.
    """
    metrics = dict.fromkeys((best_name(metric), best_name("val/R80")))
    columns = [
        *(f"metrics.`{name}`" for name in metrics),
        *(f"params.`{name}`" for name in params[:_MOST_PARAMS]),
        *(f"tags.`{name}`" for name in (STATE_TAG, TRIAL_TAG)),
    ]
    sweeps = {
        "selectedColumns": columns,
        "columnOrder": [_CHECKBOX, _NAME, *columns],
        "columnWidths": {_NAME: _NAME_WIDTH, **dict.fromkeys(columns, _WIDTH)},
    }
    best = {
        **sweeps,
        "searchFilter": f"tags.`{PARENT_TAG}` = '{parent_id}'",
        "orderByKey": f"metrics.`{best_name(metric)}`",
        "orderByAsc": False,
    }
    return {
        _VIEW_TAG + SWEEPS_VIEW: _saved_view("Sweeps, with their trials", sweeps),
        _VIEW_TAG + BEST_VIEW: _saved_view("Newest sweep, best first", best),
    }


def comparison(run_ids: Sequence[str], experiment_id: str) -> str:
    """Return the address of a comparison of the first 40 runs, relative to MLflow's pages."""
    runs, experiments = json.dumps(list(run_ids[:_MOST_COMPARED])), json.dumps([experiment_id])
    return f"#/compare-runs?runs={quote(runs)}&experiments={quote(experiments)}&{_KIND}"


def runs_page(uri: str, experiment: str, server: str) -> str:
    """Return the address of an experiment's page, or the server's if there is no such experiment.

    The records are at `uri`; `server` shows them.

    Raises:
        ResourceError: MLflow does not answer.
    """
    client = open_client(uri, create=False)
    with answering(uri):
        found = client.get_experiment_by_name(experiment)
    server = server.rstrip("/")
    if found is None:
        return server
    page = f"{server}/#/experiments/{found.experiment_id}/runs?{_KIND}"
    has_view = _VIEW_TAG + SWEEPS_VIEW in found.tags
    return f"{page}&viewStateShareKey={SWEEPS_VIEW}" if has_view else page


def _saved_view(name: str, state: object) -> str:
    made = now()
    return json.dumps(
        {"name": name, "createdAt": made, "updatedAt": made, "state": json.dumps(state)}
    )
