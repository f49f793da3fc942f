"""Builds the report of a sweep from its folder, with a summary in words.

If something is missing, such as a dataset that has moved or a deleted checkpoint, the page says so
in its place and holds the rest.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution

from raymc.config import Config, flatten
from raymc.data.shards import open_dataset
from raymc.data.storage import write_text
from raymc.errors import ConfigError, DataError, RaymcError
from raymc.evaluation.compare import Comparison, ScoredRun, compare, quick_resamples
from raymc.evaluation.scored import ScoredSplit
from raymc.evaluation.scoring import embed_rows, stored_scores
from raymc.events import Count, unheard
from raymc.metrics.text import explained, percent
from raymc.report.class_sections import MAPPED_ROWS, class_sections
from raymc.report.comparison import metric_tables
from raymc.report.page import Note, Page, Part, Section, render
from raymc.report.trial_sections import cost_sentences, trial_sections
from raymc.report.trials import Costs, costs_of
from raymc.search.study import GPUS_ATTRIBUTE, read_study, trials_in
from raymc.search.trials import Trial, winner
from raymc.training.bundle import Bundle, load_bundle, save_bundle
from raymc.training.runs import BUNDLE, Run, read_config


@dataclass(frozen=True)
class _Judged:
    """The winner on a split, and the default settings' model if there is one."""

    bundle: Bundle
    scored: ScoredSplit
    embeddings: np.ndarray
    default: ScoredRun | None
    without_default: str

    def compared(self) -> Comparison:
        """Compare the winner with the default settings, if their model could be scored."""
        best = ScoredRun("best trial", self.bundle.config, self.bundle.dataset_digest, self.scored)
        return compare(
            [best] if self.default is None else [self.default, best],
            metrics=("mAP", "R80"),
            resamples=quick_resamples(self.scored),
        )


def build_report(
    run: Run,
    *,
    split: str | None = None,
    price: float | None = None,
    on_rows: Count = unheard,
) -> str:
    """Return the report of a sweep, with its own settings or another `data.path`, as HTML.

    The model is judged on `split`, None for the validation split. The price is that of an hour of
    a GPU, or of a worker if the sweep used no GPU. `on_rows` is called while a model scores rows.

    Raises:
        ConfigError: The folder does not contain a sweep.
        SweepError: No trial finished an epoch.
    """
    config, split = run.config, split or run.config.data.val
    study = read_study(run)
    trials = trials_in(study, run)
    best, default = winner(trials), default_trial(trials, config)
    gpus = study.user_attrs.get(GPUS_ATTRIBUTE, config.search.gpus_per_trial)
    costs = costs_of(trials, workers=config.train.most_workers, gpus=gpus, price=price)
    metric, space = config.train.monitor, dict[str, BaseDistribution]()
    for trial in study.get_trials(deepcopy=False):
        space.update(trial.distributions)
    sections = trial_sections(trials, space, costs, metric=metric, best=best.number)
    try:
        judged = _judge(run.folder, config, split, best=best, default=default, on_rows=on_rows)
    except RaymcError as error:
        note = Note(f"The model could not be examined: {error}")
        sections.append(Section("model", "The model", [note]))
        compared = None
    else:
        compared = judged.compared()
        sections.insert(0, _comparison(compared, judged.without_default, metric.rpartition("/")[2]))
        sections += class_sections(
            judged.bundle,
            judged.scored,
            judged.embeddings,
            default=judged.default.scored if judged.default else None,
        )
    page = Page(
        title=f"Sweep {run.name}",
        summary=summary(trials, best, default, costs, compared, metric=metric, split=split),
        sections=sections,
        about=f"{config.data.path} · {run.folder} · written by `raymc report {run.name}`",
    )
    return render(page)


def save_report(page: str, path: Path) -> None:
    """Write a report; the file appears complete or not at all.

    Raises:
        ConfigError: It can't be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page)
    except OSError as error:
        raise ConfigError(f"the report can't be written to {path}: {error.strerror}") from None


def default_trial(trials: Sequence[Trial], config: Config) -> Trial | None:
    """Return the trial of the configuration's own values, if there is one with a result."""
    settings = flatten(config)
    for trial in trials[:1]:
        own = all(settings.get(path) == value for path, value in trial.params.items())
        if own and not math.isnan(trial.score):
            return trial
    return None


def summary(
    trials: Sequence[Trial],
    best: Trial,
    default: Trial | None,
    costs: Costs,
    compared: Comparison | None,
    *,
    metric: str,
    split: str,
) -> list[str]:
    """Return the result of the sweep in words."""
    params = ((p, f"{v:.3g}" if isinstance(v, float) else v) for p, v in best.params.items())
    settings = ", ".join(f"{path} = {value}" for path, value in params) or "no setting was searched"
    said = [f"Trial {best.number} won with {metric} {percent(best.score)}: {settings}."]
    said.append(f"A trial is one training with settings of its own. {explained(metric)}".rstrip())
    said.append(_gain(best, default, compared, split))
    states = [trial.state for trial in trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    one = "trial was" if len(trials) == 1 else "trials were"
    said.append(" ".join([f"{len(trials)} {one} run ({counts}).", *cost_sentences(costs)]))
    return said


def _gain(best: Trial, default: Trial | None, compared: Comparison | None, split: str) -> str:
    """Say by how much the best trial beats the default, and whether that is significant."""
    if default is not None and default.number == best.number:
        return (
            "This trial is the default settings: the search found nothing better. More trials or "
            "another search space may."
        )
    if compared is None or len(compared.models) < 2:
        return "There is no comparison with the default settings; the reason is given below."
    (difference,) = compared.differences["mAP"]
    points = 100 * difference.value
    gain = f"That is {points:+.1f} points of mAP against the default settings on {split}"
    chosen = (
        "The trial was chosen for its score on these clips, so the score is too optimistic: "
        "evaluate the bundle once on the test split."
    )
    if not compared.resamples:
        return f"{gain}; the split is too large for an interval here. {chosen}"
    between = f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    if difference.is_clear and points > 0:
        verdict = "larger than chance differences between splits"
    elif difference.is_clear:
        verdict = "so the default is the better model here"
    else:
        verdict = "which may be a chance difference between splits"
    return f"{gain} (95 % interval {between}), {verdict}. {chosen}"


def _comparison(compared: Comparison, without_default: str, monitored: str) -> Section:
    terms = [text for name in compared.metrics if name != monitored and (text := explained(name))]
    parts: list[Part] = [*map(Note, terms), *metric_tables(compared)]
    if without_default:
        parts.append(Note(without_default))
    if not compared.resamples:
        parts.append(Note("The split is too large for bootstrap intervals here."))
    elif len(compared.models) > 1:
        parts.append(
            Note(
                f"On the split {compared.split.split}; in brackets the 95 % bootstrap interval "
                "over its clips. The difference is resampled in pairs, so it may be clear although "
                "the two intervals overlap."
            )
        )
    return Section("default", "Best trial against default", parts)


def _judge(
    folder: Path,
    config: Config,
    split: str,
    *,
    best: Trial,
    default: Trial | None,
    on_rows: Count,
) -> _Judged:
    """Score the split with the winner, and with the default settings' model if there is one."""
    path = config.data.path
    dataset = open_dataset(path)
    given: dict[str, Any] = {"device": config.train.device, "run": folder, "on_rows": on_rows}
    with _bundle_of(best, folder) as made:
        bundle = load_bundle(made)
        is_own = path == read_config(folder).data.path
        if is_own and dataset.manifest.digest() != bundle.dataset_digest:
            raise DataError(
                f"{path} holds another dataset than the sweep was trained on: name where that one "
                "is now, or another to judge on, with data.path=FOLDER"
            )
        scored = stored_scores(bundle, dataset, split, **given)
        embeddings = embed_rows(bundle, dataset, split, most=MAPPED_ROWS)
    rival, missing = None, ""
    if default is None:
        missing = "The default settings were not tried, so there is nothing to compare with."
    elif default.number == best.number:
        missing = "The best trial is the default itself."
    else:
        try:
            with _bundle_of(default, folder) as path:
                other = load_bundle(path)
                before = stored_scores(other, dataset, split, **given)
            rival = ScoredRun("default", other.config, other.dataset_digest, before)
        except RaymcError as error:
            missing = f"The default's model can't be compared: {error}"
    return _Judged(bundle, scored, embeddings, rival, missing)


@contextmanager
def _bundle_of(trial: Trial, folder: Path) -> Iterator[Path]:
    """Provide a trial's best epoch as a bundle: the sweep's, or one made from its checkpoint."""
    kept = folder / BUNDLE
    if kept.is_dir():
        metrics = load_bundle(kept).metrics.items()
        if all(trial.best.get(key) == value for key, value in metrics if not math.isnan(value)):
            yield kept
            return
    with TemporaryDirectory() as temporary:
        made = Path(temporary) / BUNDLE
        save_bundle(Path(trial.checkpoint), made)
        yield made
