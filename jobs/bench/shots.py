"""Accuracy from few clips: each loss trained on 1, 5 and 20 clips of each class, and on all.

The clips are drawn anew for each seed, the same for all losses. A model's epoch is chosen on the
validation split, which is always whole; it is tested once.

Axes: N clips, C classes.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from jobs.bench.groups import GROUPS, group_precision
from jobs.bench.measure import Columns, Measurement, plus_minus, publish, table
from raymc.config import Config, LossName, load, override
from raymc.data.feed.shared import with_modalities
from raymc.evaluation.review.out_of_fold import Clips, feed_of_rows, feeds_of_rows, read_clips_of
from raymc.events import EpochEnded
from raymc.formats.prepare import prepare_dataset
from raymc.metrics.metrics import evaluate_scores
from raymc.training import checkpoint
from raymc.training.learner import make_model
from raymc.training.loop import fit
from raymc.training.validation import predict

ARGUMENTS = {"config": "CONFIG", "overrides": "[KEY=VALUE]..."}
CPU = torch.device("cpu")
ALL = 0
MOST_EPOCHS = 5  # times those of the configuration


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """Which losses learn from how much."""

    config: str = Field(description="The configuration.")
    overrides: tuple[str, ...] = Field(default=(), description="Settings to change, KEY=VALUE.")
    losses: tuple[LossName, ...] = Field(
        default=("prototype_contrast", "proxy_anchor", "bce", "asl"), description="A loss."
    )
    clips: tuple[int, ...] = Field(
        default=(1, 5, 20, ALL), description=f"Clips of each class, at least; {ALL}: all there are."
    )
    seeds: int = Field(default=3, ge=1, description="How often clips are drawn.")
    groups: Mapping[str, str] = GROUPS


def bench_shots(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Train and test; prints mean ± standard deviation in percent. Results in `out` are kept."""
    torch.set_num_threads(1)
    config = load(settings.config, settings.overrides)
    splits = (config.data.train, config.data.val, config.data.test)
    dataset = prepare_dataset(config)
    manifest = with_modalities(dataset.manifest, config.data.modalities)
    clips = read_clips_of(replace(dataset, manifest=manifest), splits)
    lines = []
    for count in settings.clips:
        for loss in settings.losses:
            line = Measurement(loss, {"clips": count})
            for seed in range(settings.seeds):
                given = override(config, {"loss.name": loss, "train.seed": seed})
                line.add(**_kept(given, clips, count, settings.groups, out))
            lines.append(line)
            console.print(f"{_clips(line)}: {loss} done", style="dim")
    columns: Columns = {
        "clips of each class": _clips,
        "clips in all": lambda m: f"{np.mean(m['rows']):.0f}",
        "loss": lambda m: m.name,
        "mAP": lambda m: plus_minus(m["mAP"]),
        "R@80": lambda m: plus_minus(m["R80"]),
        "micro-AP": lambda m: plus_minus(m["micro_AP"]),
        **{name: lambda m, name=name: plus_minus(m[name]) for name in settings.groups},
    }
    text = f"`{config.data.test}` of `{config.data.path}`, {settings.seeds} seeds.\n\n"
    publish("Shots", text + table(columns, lines), lines, console, out)


def _clips(line: Measurement) -> str:
    return "all" if line.case["clips"] == ALL else str(line.case["clips"])


def _kept(
    config: Config, clips: Clips, count: int, groups: Mapping[str, str], out: Path | None
) -> dict[str, float]:
    """Return a model's figures, as kept or new."""
    name = f"shots-{config.loss.name}-{count}-{config.train.seed}.json"
    file = out / name if out else None
    if file is not None and file.exists():
        return json.loads(file.read_text())
    figures = train_and_test(config, clips, count, groups)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(figures, indent=1))
    return figures


def train_and_test(
    config: Config, clips: Clips, count: int, groups: Mapping[str, str]
) -> dict[str, float]:
    """Train on some clips of each class; return what the model scores on the test split."""
    splits = np.array(clips.splits)
    train, val, test = (
        np.flatnonzero(splits == name)
        for name in (config.data.train, config.data.val, config.data.test)
    )
    if count != ALL:
        steps = -(-len(train) // config.batch.size)
        train = train[draw(clips.block.labels[train], count, seed=config.train.seed)]
        times = min(steps / -(-len(train) // config.batch.size), MOST_EPOCHS)
        config = override(config, {"train.epochs": round(times * config.train.epochs)})
    feeds = feeds_of_rows(clips, train, val, config)
    manifest = replace(clips.dataset.manifest, splits=feeds.train.manifest.splits)
    weights: dict[str, torch.Tensor] = {}

    def report(event: EpochEnded, folder: Path | None) -> None:
        if event.is_best and folder is not None:
            weights.update(checkpoint.load_weights(folder))

    fit(config, manifest, feeds, device=CPU, emit=lambda event: None, report=report)
    model = make_model(config, manifest)
    model.load_state_dict(weights)
    found = predict(model, feed_of_rows(clips, test, config), device=CPU)
    scores = evaluate_scores(found.scores, found.labels, found.observed)
    shown = {"mAP": scores.mAP, "R80": scores.R80, "micro_AP": scores.micro_AP}
    shown |= group_precision(scores.per_class_AP, groups, manifest.vocabulary)
    return {"rows": len(train)} | {name: 100 * value for name, value in shown.items()}


def draw(labels: Bool[np.ndarray, "N C"], count: int, *, seed: int) -> Int64[np.ndarray, " n"]:
    """Draw clips until each class has `count` of them, or all that there are; rare ones first."""
    generator = np.random.default_rng([seed, 23])
    chosen = np.zeros(len(labels), bool)
    for k in np.argsort(labels.sum(axis=0), kind="stable"):
        missing = count - int(labels[chosen, k].sum())
        if missing > 0:
            others = generator.permutation(np.flatnonzero(labels[:, k] & ~chosen))
            chosen[others[:missing]] = True
    return np.flatnonzero(chosen)
