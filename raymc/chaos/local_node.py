"""Starts a node of a local cluster, as Ray's fake provider does: `ray start` would leave loopback.

Run by `local_cluster.py` with Ray's own parameters as JSON; the node outlives this process.
"""

import json
import sys

from ray._private.node import Node
from ray._private.parameter import RayParams

if __name__ == "__main__":
    parameters = {"min_worker_port": 0, "max_worker_port": 0, "dashboard_agent_listen_port": 0}
    given = RayParams(**parameters, **json.loads(sys.argv[1]))
    Node(given, head=False, shutdown_at_exit=False, spawn_reaper=False)
