"""The log of a job on a cluster, as it grows: connections come and go, each line is written once.

Top layer, over Ray's JobSubmissionClient.
"""

import asyncio
import time
from collections.abc import Callable

import aiohttp

from raymc.errors import ResourceError
from raymc.job_server import PENDING, Client, Job, explained, look

_SILENT_SECONDS = 30.0  # of a log, before the server is asked whether it is still there
_POLL_SECONDS = 1.0
_PENDING_SECONDS = 15.0  # of waiting, before a person is told what for
_LOST = (aiohttp.ClientError, OSError, RuntimeError)


def read_log(client: Client, job: Job) -> str:
    """Return all that a job has printed.

    Raises:
        ResourceError: the node that it ran on, or the server, doesn't answer.
    """
    with explained(client.get_address()):
        return client.get_job_logs(job.id)


def follow(
    client: Client,
    job: Job,
    write: Callable[[str], object],
    tell: Callable[[str], object],
    *,
    patience_seconds: float = 120.0,
) -> Job:
    """Write a job's log while it grows, from its first line to the job's end.

    Args:
        client: Of the server that has the job.
        job: The one to follow.
        write: Takes pieces of the log.
        tell: Takes lines about the job.
        patience_seconds: How long to try again when the connection is lost.

    Returns:
        The job as it ended.

    Raises:
        ResourceError: the connection didn't come back, or the server has forgotten the job.
    """
    log, began, lost_since, told = GrowingLog(write), time.monotonic(), None, False
    with explained(client.get_address()):
        while True:
            written = log.written
            try:
                job = _advance(client, job, log)
                if job.is_over:
                    return job
                lost_since = None
            except _LOST as error:
                if lost_since is None or log.written > written:
                    lost_since = time.monotonic()
                if time.monotonic() - lost_since > patience_seconds:
                    raise _gave_up(client, job, error) from None
            is_new = job.state == PENDING and not log.written  # a new head says so of old ones, too
            if is_new and not told and time.monotonic() - began > _PENDING_SECONDS:
                tell(f"{job.name} is waiting: {job.message}")
                told = True
            time.sleep(_POLL_SECONDS)


class GrowingLog:
    """Writes each part of a log once, though every connection sends it from its beginning."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._seen = 0
        self.written = 0

    def restart(self) -> None:
        """Begin again: the next piece is the log's first."""
        self._seen = 0

    def add(self, piece: str) -> None:
        """Write what is new of a piece."""
        new = piece[max(0, self.written - self._seen) :]
        self._seen += len(piece)
        if new:
            self._write(new)
            self.written = self._seen


def _advance(client: Client, job: Job, log: GrowingLog) -> Job:
    """Write a job's log until it is over or the connection ends; nothing if it hasn't begun."""
    job = look(client, job.id)
    if job.state == PENDING:
        return job
    asyncio.run(_tail(client, job, log))
    return look(client, job.id)


async def _tail(client: Client, job: Job, log: GrowingLog) -> None:
    log.restart()
    pieces = client.tail_job_logs(job.id)
    while True:
        piece = asyncio.ensure_future(anext(pieces, None))
        while not (await asyncio.wait({piece}, timeout=_SILENT_SECONDS))[0]:
            await asyncio.to_thread(look, client, job.id)  # raises if nobody is there any more
        text = piece.result()
        if text is None:
            return
        log.add(text)


def _gave_up(client: Client, job: Job, error: Exception) -> ResourceError:
    return ResourceError(
        f"the connection to {client.get_address()} is lost ({type(error).__name__}); {job.name} "
        "goes on without it: `raymc logs --follow` comes back to it, `raymc stop` ends it"
    )
