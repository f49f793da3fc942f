"""Measure `raymc train` beside a bare loop, Lightning and Hugging Face's Trainer, in one run.

    python jobs/benchmark_train.py [--case digits --case ragged] [--threads 1] [--device cuda]
        [--override KEY=VALUE …] [--out DIR]

The peers come with the extra `bench`. On a GPU it also tells how much of it training uses.
"""

import sys

from raymc.cli import main

if __name__ == "__main__":
    main(["bench", "train", *sys.argv[1:]])
