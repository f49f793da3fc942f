"""Measure padded batches arriving in the training process, raymc's beside others', in one run.

    python jobs/benchmark_ingest.py [--megabytes 1000 10000] [--dtypes float16 uint8]
        [--workers 1 2] [--ways PART …] [--peer-python PATH] [--out DIR]

Sets are written to --data and kept. --ways takes the ways whose names hold one of the parts.
"""

from argparse import ArgumentParser
from dataclasses import fields
from pathlib import Path

from rich.console import Console

from raymc.bench.ingest import Settings, bench_ingest, ways_named

if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1000])
    parser.add_argument("--dtypes", nargs="+", default=["float16", "uint8"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--only-prepare", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--ways", nargs="+", default=[""])
    parser.add_argument("--data", type=Path, default=Path("data/ingest"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--first-rounds", type=int, default=3)
    parser.add_argument("--warm", dest="is_cold", action="store_false")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--shard-rows", type=int, default=256)
    parser.add_argument("--window-mb", type=int, default=1024)
    parser.add_argument("--peer-python", default="")
    given = vars(parser.parse_args())
    given["ways"] = ways_named(given["ways"])
    taken = {field.name: given.pop(field.name) for field in fields(Settings)}
    bench_ingest(Console(), Settings(**taken), **given)
