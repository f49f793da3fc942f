"""What fusion is worth: mean AP by label group on the test split, by modality and fusion depth.

    python jobs/compare_fusion.py jobs/configs/digits-speech.yaml [KEY=VALUE]...

Each modality alone, and all of them with every fusion depth; each model is trained once a seed, its
epoch chosen on the validation split, and tested once.
"""

import sys
from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from raymc.cli.runs import run_evaluate, run_train
from raymc.config import Config, load, override
from raymc.evaluation.evaluate import group_means
from raymc.formats.prepare import prepare_dataset

SEEDS = (0, 1, 2)


def variants(config: Config) -> Mapping[str, Mapping[str, Any]]:
    """Return what differs, by what the table calls it."""
    there = [modality.name for modality in prepare_dataset(config).manifest.modalities]
    names = config.data.modalities or there
    alone = {f"{name} alone": {"data.modalities": [name]} for name in names}
    depths = range(config.model.depth + 1)
    return alone | {f"all, fusion depth {depth}": {"model.fusion_depth": depth} for depth in depths}


def main(path: str, *overrides: str) -> None:
    """Train every variant with every seed, and print mean ± standard deviation in percent."""
    config, console = load(path, overrides), Console()
    table = Table("trained on", title=f"{config.data.test} split, {len(SEEDS)} seeds")
    for name, settings in variants(config).items():
        runs = []
        for seed in SEEDS:
            bundle = run_train(override(config, {**settings, "train.seed": seed}), console)
            result = run_evaluate(str(bundle), config.data.path, console, split=config.data.test)
            scores = {"mAP": result.scores.mAP, "R@80": result.scores.R80}
            runs.append({**scores, **group_means(result)})
        for group in list(runs[0])[len(table.columns) - 1 :]:
            table.add_column(group)
        columns = [[100 * run[group] for run in runs] for group in runs[0]]
        table.add_row(name, *(f"{mean(c):.1f} ± {stdev(c):.1f}" for c in columns))
    console.print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
