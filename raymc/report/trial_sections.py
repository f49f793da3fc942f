"""The report's sections about trials: all of them, which settings mattered, what they cost."""

import math
from collections.abc import Mapping, Sequence

from optuna.distributions import BaseDistribution

from raymc.metrics.text import percent
from raymc.report import trial_figures as draw
from raymc.report.page import Cell, Figure, Note, Part, Section, Table, number, text
from raymc.report.trials import FEWEST_FOR_IMPORTANCES, Costs, importances
from raymc.search.trials import Trial, duration, param_text

FEW_TRIALS = 20  # with fewer, every new trial changes the importances
MOST_MESSAGES = 3


def trial_sections(
    trials: Sequence[Trial],
    space: Mapping[str, BaseDistribution],
    costs: Costs,
    *,
    metric: str,
    best: int,
) -> list[Section]:
    """Return the sections about the sweep itself."""
    history = (
        f"Each mark is a trial at its best epoch; the line is the best {metric} so far. If it "
        "still rises at the right end, more trials may help."
    )
    course = Figure(draw.history(trials, metric), history)
    return [
        Section("trials", "Trials", _trials(trials, space, metric, best)),
        Section("history", "Course of the search", [course]),
        Section("settings", "What mattered", _settings(trials, space, metric)),
        Section("cost", "Stopped early, and cost", _cost(trials, costs, metric, best)),
    ]


def hours(value: float) -> str:
    """Return hours as people say them: `40 s`, `4 min`, `3.2 hours`."""
    if value < 1 / 60:
        return f"{3600 * value:.0f} s"
    if value < 1:
        return f"{60 * value:.0f} min"
    return f"{value:.3g} hours" if value < 100 else f"{value:,.0f} hours"


def _trials(
    trials: Sequence[Trial], space: Mapping[str, BaseDistribution], metric: str, best: int
) -> list[Part]:
    order = sorted(trials, key=lambda trial: (math.isnan(trial.score), -trial.score))
    rows = [_row(trial, space) for trial in order]
    names = [_short(path, space) for path in space]
    heads = ["trial", "state", metric, "R80", "epochs", "time", *names]
    plain = {1} | {6 + at for at, path in enumerate(space) if not _is_numeric(trials, path)}
    marked = next(at for at, trial in enumerate(order) if trial.number == best)
    table = Table(
        "All trials, the best one first and marked. Click a heading to sort by that column. "
        f"{metric} and R80 (recall at 80 % precision) are taken from a trial's best epoch.",
        heads,
        rows,
        numeric=frozenset(range(len(heads))) - plain,
        marked=marked,
    )
    failed = [trial for trial in trials if trial.message]
    notes = [Note(f"Trial {t.number} failed: {t.message}") for t in failed[:MOST_MESSAGES]]
    if len(failed) > MOST_MESSAGES:
        notes.append(Note(f"{len(failed) - MOST_MESSAGES} more failed."))
    return [table, *notes]


def _row(trial: Trial, space: Mapping[str, BaseDistribution]) -> list[Cell]:
    recall = math.nan if trial.recall is None or trial.state == "failed" else trial.recall
    params = [trial.params.get(path, "") for path in space]
    return [
        number(trial.number, str(trial.number)),
        text(trial.state),
        number(trial.score, percent(trial.score, 2)),
        number(recall, percent(recall, 2)),
        number(trial.epoch, f"{trial.epoch}/{trial.planned}"),
        number(trial.seconds, duration(trial.seconds)),
        *(
            number(float(value), param_text(value))
            if isinstance(value, int | float) and not isinstance(value, bool)
            else text(param_text(value))
            for value in params
        ),
    ]


def _short(path: str, space: Mapping[str, BaseDistribution]) -> str:
    """Return a setting's name without its section, where no other has the same."""
    last = [other.rpartition(".")[2] for other in space]
    name = path.rpartition(".")[2]
    return name if last.count(name) == 1 else path


def _is_numeric(trials: Sequence[Trial], path: str) -> bool:
    values = [trial.params[path] for trial in trials if path in trial.params]
    return all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)


def _settings(
    trials: Sequence[Trial], space: Mapping[str, BaseDistribution], metric: str
) -> list[Part]:
    shares, parts = importances(trials, space), list[Part]()
    usable = len(draw.scored(trials))
    if shares and len(space) > 1:
        caution = f" With {usable} trials this is only a hint." if usable < FEW_TRIALS else ""
        caption = (
            f"How much of the difference between trials each setting explains (functional ANOVA, "
            f"from {usable} trials).{caution}"
        )
        parts.append(Figure(draw.importance_bars(shares), caption))
    elif len(space) > 1:
        parts.append(
            Note(
                f"Importances need {FEWEST_FOR_IMPORTANCES} trials with different results; "
                f"{usable} finished an epoch."
            )
        )
    caption = (
        f"{metric} against each setting, while the others vary too. Marks that rise or fall "
        "together show an effect; a cloud shows none. Trials that were stopped early might have "
        "scored higher."
    )
    parts.append(Figure(draw.slices(trials, space, metric), caption))
    if pairs := draw.pairs_of(shares, space):
        caption = (
            "Two settings at a time. Marks are trials; the colours between them are linear "
            "interpolation, reliable only near marks. Between choices nothing is drawn."
        )
        parts.append(Figure(draw.contours(trials, space, metric, pairs), caption))
    return parts


def _cost(trials: Sequence[Trial], costs: Costs, metric: str, best: int) -> list[Part]:
    states = list(dict.fromkeys(trial.state for trial in trials))
    rows = []
    for state in states:
        some = [trial for trial in trials if trial.state == state]
        seconds = sum(trial.seconds for trial in some)
        epochs = sum(trial.epoch for trial in some)
        rows.append(
            [
                text(state),
                number(len(some), str(len(some))),
                number(epochs, f"{epochs} of {sum(trial.planned for trial in some)}"),
                number(seconds, duration(seconds)),
            ]
        )
    caption = "Trials by how they ended, with their epochs and time."
    table = Table(caption, ["state", "trials", "epochs", "time"], rows, frozenset({1, 2, 3}))
    course = (
        f"{metric} of every trial by epoch (one pass over the training clips). Lines that end "
        "early with a square were pruned: stopped because other trials were ahead (by ASHA, "
        "asynchronous successive halving). If one of them was still rising steeply, try more "
        "grace_epochs."
    )
    sentences = Note(" ".join(cost_sentences(costs)))
    return [sentences, table, Figure(draw.courses(trials, metric, best), course)]


def cost_sentences(costs: Costs) -> list[str]:
    """Return in words what the sweep cost and saved."""
    money = "" if costs.money is None else f", {costs.money:,.2f} at {costs.price:g} an hour"
    said = [f"The trials took {hours(costs.hours)} of {costs.unit}{money}."]
    if costs.saved_epochs:
        share = costs.saved_epochs / (costs.epochs + costs.saved_epochs)
        worth = "" if costs.saved_money is None else f" or {costs.saved_money:,.2f}"
        said.append(
            f"Stopping weak trials early avoided {costs.saved_epochs} epochs ({share:.0%} of all) "
            f"and saved an estimated {hours(costs.saved_hours)} of {costs.unit}{worth}."
        )
    return said
