"""What fusion is worth: mean AP by label group on the test split, by modality and fusion depth.

Each modality alone, all but each, and all of them with every fusion depth. Each model is trained
once a seed, its epoch chosen on the validation split, and tested once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from jobs.bench.groups import GROUPS, group_precision
from jobs.bench.measure import Columns, Measurement, plus_minus, publish, table
from raymc.cli.runs import run_train
from raymc.cli.use import run_evaluate
from raymc.config import Config, load, override
from raymc.evaluation.evaluate import group_means
from raymc.formats.prepare import prepare_dataset

ARGUMENTS = {"config": "CONFIG", "overrides": "[KEY=VALUE]..."}


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """What is trained, and how often."""

    config: str = Field(description="The configuration.")
    overrides: tuple[str, ...] = Field(default=(), description="Settings to change, KEY=VALUE.")
    seeds: int = Field(default=3, ge=1, description="How often each model is trained and tested.")
    groups: Mapping[str, str] = GROUPS


def bench_fusion(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Train every variant with every seed; prints mean ± standard deviation in percent."""
    config = load(settings.config, settings.overrides)
    found = []
    for name, changes in variants(config).items():
        one = Measurement(name)
        for seed in range(settings.seeds):
            bundle = run_train(override(config, {**changes, "train.seed": seed}), console)
            result = run_evaluate(str(bundle), config.data.path, console, split=config.data.test)
            scores = {"mAP": result.scores.mAP, "R@80": result.scores.R80, **group_means(result)}
            per_class, vocabulary = result.scores.per_class_AP, result.bundle.vocabulary
            scores |= group_precision(per_class, settings.groups, vocabulary)
            one.add(**{group: 100 * value for group, value in scores.items()})
        found.append(one)
    groups = {
        group: lambda m, group=group: plus_minus(m[group]) if m[group] else ""
        for one in found
        for group in one.figures
    }
    columns: Columns = {"trained on": lambda m: m.name, **groups}
    text = f"`{config.data.test}` of `{config.data.path}`, {settings.seeds} seeds.\n\n"
    publish("Fusion", text + table(columns, found), found, console, out)


def variants(config: Config) -> Mapping[str, Mapping[str, Any]]:
    """Return the settings that differ, by the row of the table."""
    there = [modality.name for modality in prepare_dataset(config).manifest.modalities]
    names = config.data.modalities or there
    alone = {f"{name} alone": {"data.modalities": [name]} for name in names}
    others = {
        f"all but {name}": {"data.modalities": [other for other in names if other != name]}
        for name in names
        if len(names) > 2
    }
    depths = range(config.model.depth + 1)
    fused = {f"all, fusion depth {depth}": {"model.fusion_depth": depth} for depth in depths}
    return {**alone, **others, **fused}
