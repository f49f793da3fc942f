"""What fusion is worth: mean AP by label group on the test split, for each fusion depth and seed.

    python jobs/compare_fusion.py jobs/configs/digits-speech.yaml [KEY=VALUE]...

Each model is trained once, its epoch chosen on the validation split, and tested once.
"""

import sys
from statistics import mean, stdev

from rich.console import Console
from rich.table import Table

from raymc.commands import run_evaluate, run_train
from raymc.config import load, override
from raymc.evaluate import group_means

SEEDS = (0, 1, 2)


def main(path: str, *overrides: str) -> None:
    """Train every depth with every seed, and print mean ± standard deviation in percent."""
    config, console = load(path, overrides), Console()
    table = Table("fusion depth", "mAP", title=f"{config.data.test} split, {len(SEEDS)} seeds")
    for depth in range(config.model.depth + 1):
        runs = []
        for seed in SEEDS:
            settings = {"model.fusion_depth": depth, "train.seed": seed}
            bundle = run_train(override(config, settings), console)
            result = run_evaluate(str(bundle), config.data.path, console, split=config.data.test)
            runs.append({"mAP": result.scores.mAP, **group_means(result)})
        for group in list(runs[0])[len(table.columns) - 1 :]:
            table.add_column(group)
        columns = [[100 * run[name] for run in runs] for name in runs[0]]
        table.add_row(str(depth), *(f"{mean(c):.1f} ± {stdev(c):.1f}" for c in columns))
    console.print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
