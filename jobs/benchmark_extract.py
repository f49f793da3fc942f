"""Measure `raymc extract` beside bare decoding with PyAV, in one run.

    python jobs/benchmark_extract.py --media MEDIA [--clips 1000] [--rounds 3] [--out DIR]

MEDIA is a folder, glob or table of videos with sound; they are repeated to as many clips.
"""

import sys

from raymc.cli import main

if __name__ == "__main__":
    main(["bench", "extract", *sys.argv[1:]])
