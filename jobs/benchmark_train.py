"""Measure `raymc train` beside a bare loop, Lightning and Hugging Face's Trainer, in one run.

    python jobs/benchmark_train.py [--cases digits ragged] [--threads 1] [--device cuda]
        [--set KEY=VALUE …] [--out DIR]

The peers come with the extra `bench`. On a GPU it also says how much of it training uses.
"""

from argparse import ArgumentParser
from pathlib import Path

import yaml
from rich.console import Console

from raymc.bench.train import CASES, Plan, bench_train

if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--epochs", type=int, default=Plan.epochs)
    parser.add_argument("--commands", type=int, default=Plan.commands)
    parser.add_argument("--threads", type=int, default=Plan.threads)
    parser.add_argument("--device", choices=["cpu", "cuda"], default=Plan.device)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--out", type=Path)
    asked = vars(parser.parse_args())
    out = asked.pop("out")
    pairs = [setting.split("=", 1) for setting in asked.pop("settings")]
    settings = {key: yaml.safe_load(value) for key, value in pairs}
    bench_train(Console(), Plan(**asked, settings=settings), out=out)
