"""The head of a Ray cluster that takes jobs: a process of its own, all of its ports free ones.

The Ray of the other tests can't be told on which port its agent is to take jobs, and takes none
where another Ray on the machine has the usual one.
"""

import json
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from drivers import running, wait_until

from cluster.processes import free_ports

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """Where it listens, which folder is its own, and how others get in."""

    address: str
    folder: Path
    token: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to be let in."""
        mode = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        return {**(mode if self.token else {"RAY_AUTH_MODE": "disabled"}), **_OF_RAY}

    def ask(self, path: str, content: Mapping[str, object] | None = None) -> Any:
        """Ask its server for something, or post something, as a program does."""
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.address}/api/{path}", body)
        request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


_OF_RAY = {"RAY_USAGE_STATS_ENABLED": "0"}


@contextmanager
def running_head(
    log: Path, *, token: str = "", cpus: int = 3, environment: Mapping[str, str] | None = None
) -> Iterator[Head]:
    """Run a head; yields when it takes jobs. With a token it asks everyone for it."""
    port, dashboard, agent = free_ports(3)
    with TemporaryDirectory(prefix="ray-") as folder:  # Ray's sockets need a short path
        head = Head(f"http://127.0.0.1:{dashboard}", Path(folder), token)
        where = ["--port", port, "--dashboard-port", dashboard, "--temp-dir", folder]
        where += ["--dashboard-agent-listen-port", agent, "--num-cpus", str(cpus)]
        start = ["start", "--head", "--block", *where, "--object-store-memory", str(300 << 20)]
        given = {**head.environment, "RAY_API_SERVER_ADDRESS": head.address, **(environment or {})}
        with running(BIN / "ray", *start, log=log, environment=given) as process:
            wait_until(lambda: _takes_jobs(head), process)
            yield head


def _takes_jobs(head: Head) -> bool:
    """Say whether a head has begun to take jobs, by having it do nothing once."""
    try:
        return bool(head.ask("jobs/", {"entrypoint": "true"}))
    except OSError:
        return False
