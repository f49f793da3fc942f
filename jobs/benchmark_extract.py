"""Measure `raymc extract` beside bare decoding with PyAV, in one run.

    python jobs/benchmark_extract.py MEDIA [--clips 1000] [--rounds 3] [--out DIR]

MEDIA is a folder, glob or table of videos with sound; they are repeated to as many clips.
"""

from argparse import ArgumentParser
from pathlib import Path

from rich.console import Console

from raymc.bench.extraction import bench_extraction

if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("media")
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    bench_extraction(given.media, Console(), clips=given.clips, rounds=given.rounds, out=given.out)
