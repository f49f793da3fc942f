"""Measure how checking a dataset and counting its labels grow with its rows, in one run.

    python jobs/benchmark_growth.py [--rows 100000] [--rounds 5] [--out DIR]

Prints seconds, GB/s beside reading and hashing the same files, and memory.
"""

import sys

from raymc.cli import main

if __name__ == "__main__":
    main(["bench", "growth", *sys.argv[1:]])
