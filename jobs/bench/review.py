"""Planted wrong labels: how many a review finds, beside cleanlab's own way on a random forest.

Labels of the training and validation clips are made wrong, and a run is trained on them. Then
the labels are judged on the probabilities of models of the run's settings and of a random forest,
both out of fold on the same folds, and of the run's own model, which has seen its training clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console
from sklearn.ensemble import RandomForestClassifier

from jobs.bench.baselines import read_matrix
from jobs.bench.measure import Columns, Measurement, plus_minus, publish, table
from raymc.config import Config, load, override
from raymc.evaluation.review.doubts import LEAST_WRONG, Doubt, find_doubts
from raymc.evaluation.review.out_of_fold import (
    Clips,
    Training,
    draw_folds,
    feed_of_rows,
    feeds_of_rows,
    read_clips_of,
    train_and_score,
    trainings_of,
)
from raymc.formats.prepare import prepare_dataset
from raymc.metrics.calibration import fit_calibration
from raymc.training.loop import fit

ARGUMENTS = {"configs": "CONFIG..."}
CPU = torch.device("cpu")
# Whose probabilities each takes, and the least chance of being wrong; 0 is cleanlab's own way.
JUDGES: Mapping[str, tuple[str, float]] = {
    "raymc review": ("models", LEAST_WRONG),
    "cleanlab on its models": ("models", 0.0),
    "cleanlab on a random forest": ("forest", 0.0),
    "the run's own model": ("own", LEAST_WRONG),
}
FIGURES = ("found", "precision", "recall", "precision of as many")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """What is planted where, and how often."""

    configs: tuple[str, ...] = Field(min_length=1, description="YAML files of settings.")
    sets: tuple[str, ...] = Field(default=(), description="Settings, as KEY=VALUE.")
    kind: Literal["flipped", "swapped"] = Field(
        default="flipped",
        description="flipped: each label of each clip, given or not; swapped: labels that are "
        "given, for others.",
    )
    share: float = Field(default=0.1, gt=0, lt=1, description="Of the labels that are made wrong.")
    seeds: int = Field(default=3, ge=1, description="How often labels are drawn.")
    folds: int = Field(default=5, ge=2, description="Of the review.")
    trees: int = Field(default=100, ge=1, description="Of the forest of each label.")
    parts: int = Field(default=4, ge=1, description="Parts of a clip's time that the forest sees.")


def bench_review(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Plant wrong labels and count those found; results of seeds in `out` are not made again."""
    found: list[Measurement] = []
    for file in settings.configs:
        config = load(file, settings.sets)
        lines: dict[str, Measurement] = {}
        for seed in range(settings.seeds):
            for judge, figures in _kept(config, Path(file).stem, settings, seed, out).items():
                line = lines.setdefault(judge, Measurement(judge, {"dataset": Path(file).stem}))
                line.add(**figures)
        found += lines.values()
    columns: Columns = {
        "dataset": lambda m: str(m.case["dataset"]),
        "judge": lambda m: m.name,
        "planted": lambda m: f"{np.mean(m['planted']):.0f}",
        "found": lambda m: f"{np.mean(m['found']):.0f}",
        **{name: lambda m, name=name: plus_minus(m[name]) for name in FIGURES[1:]},
    }
    text = (
        f"Of the labels of training and validation clips, {100 * settings.share:g} % were "
        f"{settings.kind}; {settings.seeds} seeds, mean ± standard deviation in percent. The last "
        "column is the precision of the worst labels, as many as were planted.\n\n"
    )
    publish(f"Review {settings.kind}", text + table(columns, found), found, console, out)


def _kept(
    config: Config, name: str, settings: Settings, seed: int, out: Path | None
) -> dict[str, dict[str, float]]:
    """Return each judge's figures of a seed; their probabilities are kept, or new."""
    file = out / f"review-{name}-{settings.kind}-{seed}.npz" if out else None
    if file is not None and file.exists():
        with np.load(file) as kept:
            return _figures_of(kept)
    found = judge_planted(config, settings, seed)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, allow_pickle=False, **found)
    return _figures_of(found)


def _figures_of(found: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    planted = [found[name] for name in ("labels", "observed", "wrong")]
    return {
        name: _figures(found[whose], *planted, least_wrong=least)
        for name, (whose, least) in JUDGES.items()
    }


def judge_planted(config: Config, settings: Settings, seed: int) -> dict[str, np.ndarray]:
    """Plant wrong labels in a dataset.

    Returns:
        [N, C] each: `labels` with the wrong ones, which of them are `wrong`, which are `observed`,
        and the probability of each label by the review's `models`, the `forest`, and the run's
        `own` model.
    """
    config = override(config, {"train.seed": seed})
    clips = read_clips_of(prepare_dataset(config), (config.data.train, config.data.val))
    wrong = plant(clips.block.labels, settings.share, kind=settings.kind, seed=seed)
    clips = with_labels(clips, clips.block.labels ^ wrong)
    epochs = best_epoch_of(config, clips)
    folds = draw_folds(clips.block.labels, clips.groups, settings.folds, seed=seed)
    trainings = trainings_of(clips, folds, train_on=(config.data.train, config.data.val))
    scores = np.zeros(wrong.shape, dtype=np.float32)
    for one in trainings:
        scores[one.held_out] = train_and_score(config, clips, one, epochs=epochs, device=CPU)
    every, seen = np.arange(len(clips)), np.array(clips.splits) == config.data.train
    run = Training("run", every[seen], every)
    own = train_and_score(config, clips, run, epochs=epochs, device=CPU)
    return {
        "labels": clips.block.labels,
        "observed": clips.block.observed,
        "wrong": wrong,
        "models": _probable(scores, clips),
        "forest": _forest(clips, trainings, settings, seed),
        "own": _probable(own, clips),
    }


def plant(
    labels: Bool[np.ndarray, "N C"], share: float, *, kind: str, seed: int
) -> Bool[np.ndarray, "N C"]:
    """Return which entries become wrong: any of them, or given ones each with one that is not."""
    generator = np.random.default_rng([seed, 7])
    if kind == "flipped":
        return generator.random(labels.shape) < share
    wrong = np.zeros_like(labels)
    for row, k in zip(*np.nonzero(labels)):
        free = np.flatnonzero(~labels[row] & ~wrong[row])
        if generator.random() < share and len(free):
            wrong[row, [k, generator.choice(free)]] = True
    return wrong


def with_labels(clips: Clips, labels: Bool[np.ndarray, "N C"]) -> Clips:
    """Return the same clips with other labels."""
    names = np.asarray(clips.dataset.manifest.vocabulary.names, dtype=object)
    column = pa.array([names[row].tolist() for row in labels], pa.list_(pa.string()))
    at = clips.table.column_names.index("labels")
    return Clips(clips.dataset, clips.table.set_column(at, "labels", column), clips.splits)


def best_epoch_of(config: Config, clips: Clips) -> int:
    """Train as a run does; return the epoch that is best on the validation clips."""
    rows, splits = np.arange(len(clips)), np.array(clips.splits)
    train, val = (rows[splits == name] for name in (config.data.train, config.data.val))
    feeds = feeds_of_rows(clips, train, val, config)
    manifest = replace(clips.dataset.manifest, splits=feeds.train.manifest.splits)
    progress = fit(
        config, manifest, feeds, device=CPU, emit=lambda event: None, report=lambda *given: None
    )
    return progress.best_epoch


def _probable(scores: Float[np.ndarray, "N C"], clips: Clips) -> Float[np.ndarray, "N C"]:
    fitted = fit_calibration(scores, clips.block.labels, clips.block.observed)
    assert fitted is not None
    return fitted.probabilities(scores)


def _forest(
    clips: Clips, trainings: Sequence[Training], settings: Settings, seed: int
) -> Float[np.ndarray, "N C"]:
    """Return out-of-fold probabilities of a random forest for each label."""
    config = load(None)
    matrix = read_matrix(feed_of_rows(clips, np.arange(len(clips)), config), settings.parts)
    likely = np.zeros(matrix.labels.shape)
    for one in trainings:
        for k, given in enumerate(matrix.labels[one.train].T):
            likely[one.held_out, k] = given.mean()
            if given.any() and not given.all():
                forest = RandomForestClassifier(settings.trees, random_state=seed)
                forest.fit(matrix.features[one.train], given)
                found = np.asarray(forest.predict_proba(matrix.features[one.held_out]))
                likely[one.held_out, k] = found[:, 1]
    return likely


def _figures(
    likely: Float[np.ndarray, "N C"],
    labels: Bool[np.ndarray, "N C"],
    observed: Bool[np.ndarray, "N C"],
    wrong: Bool[np.ndarray, "N C"],
    *,
    least_wrong: float,
) -> dict[str, float]:
    """Return how many labels were found, and the shares of them, in percent."""
    doubts, _ = find_doubts(likely, labels, observed, least_wrong=least_wrong)
    quality = np.where(labels, likely, 1 - likely)
    worst = np.argsort(quality.ravel(), kind="stable")[: wrong.sum()]
    return {
        "planted": int(wrong.sum()),
        "found": len(doubts),
        "precision": 100 * _right(doubts, wrong) / max(1, len(doubts)),
        "recall": 100 * _right(doubts, wrong) / max(1, int(wrong.sum())),
        "precision of as many": 100 * float(wrong.ravel()[worst].mean()),
    }


def _right(doubts: Sequence[Doubt], wrong: Bool[np.ndarray, "N C"]) -> int:
    return sum(bool(wrong[one.row, one.label]) for one in doubts)
