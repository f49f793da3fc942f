"""Runs a command beside a Ray cluster of several nodes on this machine, and ends both.

    python cluster/local.py [--gpu-nodes 0:2] [--cpu-nodes 1] [--token] [-- COMMAND...]

Nodes with GPUs have stand-ins, the resource `fake_gpu`; of 0:2 of them Ray's own autoscaler starts
as many as are asked for. Without a command it says how to join the cluster, until Ctrl-C.
"""

import secrets
import shlex
import signal
import sys
from argparse import REMAINDER, ArgumentParser
from contextlib import suppress

from cluster.chaos.local_cluster import LocalCluster, Shape
from cluster.chaos.processes import end_in_order


def node_range(text: str) -> tuple[int, int]:
    """Return fewest and most of N or FEWEST:MOST."""
    fewest, _, most = text.partition(":")
    return int(fewest), int(most or fewest)


def make_parser() -> ArgumentParser:
    """Return what reads the command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--head-cpus", type=int, default=2)
    parser.add_argument("--cpu-nodes", type=int, default=0)
    parser.add_argument("--gpu-nodes", type=node_range, default=(0, 0), metavar="N or FEWEST:MOST")
    parser.add_argument("--node-cpus", type=int, default=1)
    parser.add_argument("--idle-seconds", type=float, default=15.0)
    parser.add_argument("--token", action="store_true", help="Let nobody in without a token.")
    parser.add_argument("command", nargs=REMAINDER)
    return parser


def main() -> int:
    """Parse, start, run, end; returns the command's exit code."""
    given = vars(make_parser().parse_args())
    command = [word for word in given.pop("command") if word != "--"]
    given["token"] = secrets.token_hex(32) if given["token"] else ""
    end_in_order()
    with LocalCluster(Shape(**given)) as cluster, suppress(KeyboardInterrupt):
        if command:
            return cluster.run(command).returncode
        for name, value in cluster.environment.items():
            print(f"export {name}={shlex.quote(value)}")
        print("# until Ctrl-C", flush=True)
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
