"""Measure padded batches arriving in the training process, raymc's beside others', in one run.

    python jobs/benchmark_ingest.py [--megabytes 1000 10000] [--dtypes float16 uint8]
        [--workers 1 2] [--ways PART …] [--peer-python PATH] [--out DIR]

Sets are written to --data and kept. --ways takes the ways whose names hold one of the parts.
"""

from argparse import ArgumentParser
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
    ours = parser.add_argument_group("settings")
    ours.add_argument("--ways", nargs="+", default=[""])
    ours.add_argument("--data", type=Path, default=Path("data/ingest"))
    ours.add_argument("--rounds", type=int, default=5)
    ours.add_argument("--first-rounds", type=int, default=3)
    ours.add_argument("--warm", dest="is_cold", action="store_false")
    ours.add_argument("--batch", type=int, default=64)
    ours.add_argument("--shard-rows", type=int, default=256)
    ours.add_argument("--peer-python", default="")
    given = vars(parser.parse_args())
    names = ("data", "rounds", "first_rounds", "is_cold", "batch", "shard_rows", "peer_python")
    taken = {name: given.pop(name) for name in names}
    settings = Settings(ways=ways_named(given.pop("ways")), **taken)
    bench_ingest(Console(), settings, **given)
