"""The command `python -m cluster.chaos`: inject faults and print a table, or run the soak test."""

from argparse import ArgumentParser
from pathlib import Path

from rich.console import Console

from cluster.chaos.faults import FAULTS
from cluster.chaos.run import run_chaos
from cluster.chaos.soak import run_soak
from cluster.processes import end_in_order


def make_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    names = [fault.name for fault in FAULTS]
    parser = ArgumentParser(
        prog="python -m cluster.chaos",
        description="Inject faults into runs and sweeps on clusters of several nodes on this "
        "machine, and print a table of the results. All faults take half an hour. Those of disks, "
        "the head, Redis and the clock need root; the clock is changed only if it is named. Redis "
        "and Postgres must be installed for the faults that kill them.",
    )
    add = parser.add_argument
    add(
        "--faults",
        nargs="+",
        choices=names,
        default=(),
        metavar="FAULT",
        help=f"faults to inject (default: all but the clock): {', '.join(names)}",
    )
    add("--times", type=int, help="how often to inject each fault")
    add("--seed", type=int, default=0, help="seed of the random moments and victims (default: 0)")
    add("--out", type=Path, help="folder to append the results to; the table shows all in it")
    add(
        "--soak-minutes",
        type=float,
        metavar="MINUTES",
        help="instead run a sweep with a fault every 20 s, of all kinds in turn, for about this "
        "long, and print its use of memory",
    )
    return parser


if __name__ == "__main__":
    given = vars(make_parser().parse_args())
    end_in_order()
    if minutes := given.pop("soak_minutes"):
        run_soak(Console(), minutes=minutes, seed=given["seed"])
    else:
        run_chaos(Console(), **given)
