"""Starts one node of a local cluster, as Ray's fake provider does.

`ray start` would not stay on loopback. `cluster/local.py` runs this module with Ray's own
parameters as JSON. The node outlives this process, except where processes are kept apart.
"""

import json
import os
import signal
import sys

from ray._private.node import Node
from ray._private.parameter import RayParams

if __name__ == "__main__":
    parameters = {"min_worker_port": 0, "max_worker_port": 0, "dashboard_agent_listen_port": 0}
    given = RayParams(**parameters, **json.loads(sys.argv[1]))
    Node(given, head=False, shutdown_at_exit=False, spawn_reaper=False)
    if os.getpid() == 1:  # in a PID namespace of its own, all processes end with the first one
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            signal.pause()
