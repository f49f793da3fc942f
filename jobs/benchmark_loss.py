"""Measure the loss in chunks beside its plain formula, the same compiled, and a BCE, in one run.

    python jobs/benchmark_loss.py [--class 19 --class 1000 …] [--batch 256 …] [--out DIR]

Prints seconds and memory, forward and backward. Ways for which there is no memory are told.
"""

import sys

from raymc.cli import main

if __name__ == "__main__":
    main(["bench", "loss", *sys.argv[1:]])
