"""Compare every loss, and what people would try first, on datasets, with the same tuning budget.

    python jobs/benchmark_accuracy.py jobs/configs/accuracy/emotions.yaml … --out DIR
        [--methods "random forest" bce …] [--seeds 5] [--set KEY=VALUE …]

Run again after an interruption, it goes on.
"""

from argparse import ArgumentParser
from pathlib import Path

from rich.console import Console

from jobs.bench.accuracy import METHODS, bench_accuracy
from raymc.config import load

if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    asked = parser.parse_args()
    configs = {path.stem: load(path, asked.overrides) for path in asked.configs}
    bench_accuracy(configs, Console(), methods=asked.methods, seeds=asked.seeds, out=asked.out)
