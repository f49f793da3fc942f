"""Do faults to runs and sweeps, on clusters of several nodes on this machine; print a table.

    python jobs/chaos.py [--faults worker trial driver …] [--times N] [--out DIR]
    python jobs/chaos.py --soak-minutes 10

The second is a sweep with a fault every 20 s, and its memory. Both end what they started. Full and
read-only disks, a lost head and the clock need root, the last is moved only if it is named; Redis
and Postgres need to be installed where they are killed. All faults take half an hour.
"""

from argparse import ArgumentParser
from pathlib import Path

from rich.console import Console

from cluster.chaos.faults import FAULTS
from cluster.chaos.processes import end_in_order
from cluster.chaos.run import run_chaos
from cluster.chaos.soak import run_soak


def make_parser() -> ArgumentParser:
    """Return what reads the command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--faults", nargs="+", choices=[fault.name for fault in FAULTS], default=())
    parser.add_argument("--times", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--soak-minutes", type=float)
    return parser


if __name__ == "__main__":
    given = vars(make_parser().parse_args())
    end_in_order()
    if minutes := given.pop("soak_minutes"):
        run_soak(Console(), minutes=minutes, seed=given["seed"])
    else:
        run_chaos(Console(), **given)
