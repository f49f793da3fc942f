"""Measure the loss in chunks beside its plain formula, the same compiled, and a BCE, in one run.

    python jobs/benchmark_loss.py [--classes 19 1000 …] [--batches 256 1024 …] [--out DIR]

Prints seconds and memory, forward and backward. Ways for which there is no memory are told.
"""

from argparse import ArgumentParser
from pathlib import Path

from rich.console import Console

from raymc.bench.loss import bench_loss

if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[19, 10**3, 10**4, 10**5, 10**6])
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 1024, 16384])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    bench_loss(Console(), **vars(parser.parse_args()))
