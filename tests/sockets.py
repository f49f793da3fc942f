"""Where processes listen, so that tests can say who can reach them, and where nobody does."""

from collections.abc import Iterable

import psutil

from cluster.processes import free_ports

LOOPBACK = {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def addresses_of(pids: Iterable[int]) -> set[tuple[str, int]]:
    """Host and port of everything that processes listen on."""
    found = set()
    for pid in pids:
        try:
            connections = psutil.Process(pid).net_connections("tcp")
        except psutil.NoSuchProcess:
            continue
        listening = [each for each in connections if each.status == psutil.CONN_LISTEN]
        found |= {(each.laddr.ip, each.laddr.port) for each in listening}
    return found


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    return int(*free_ports(1))
