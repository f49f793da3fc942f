"""Measure `raymc tune` beside Optuna alone and Ray's documented pattern, in one run.

    python jobs/benchmark_tune.py [--way raymc --way optuna …] [--part ways …] [--out DIR]

Prints trials an hour and seconds around a trial, what early stopping saves, and how costs grow.
With `--part packed --device cuda`, what it brings that trials share a GPU.
"""

import sys

from raymc.cli import main

if __name__ == "__main__":
    main(["bench", "tune", *sys.argv[1:]])
