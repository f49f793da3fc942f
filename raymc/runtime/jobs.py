"""On Ray: jobs on a cluster, listed, followed and stopped through its dashboard.

Top layer, over Ray's JobSubmissionClient. Whatever goes wrong there becomes one line.
"""

import asyncio
import difflib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import ray.job_submission
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobType

from raymc.errors import ResourceError

PENDING = JobStatus.PENDING.value
NAME_KEY, COMMAND_KEY = "job_name", "command"  # of a job's metadata; the first is Ray's own
_ADDRESS = "RAY_API_SERVER_ADDRESS"
_REQUEST_SECONDS = (10.0, 120.0)  # to connect; for an answer
_POLL_SECONDS = 0.25  # between looks at a job that is to stop
_PENDING_SECONDS = 10.0  # after which a job is not just about to start
_LOG_SECONDS = 1.0  # between looks at a job that is followed
_WAITING_SECONDS = 15.0  # after which to report what a pending job waits for
_SILENT_SECONDS = 30.0  # without output, after which to check that the server is still there
_LOST = (aiohttp.ClientError, OSError, RuntimeError)  # how a lost connection shows


@dataclass(frozen=True, kw_only=True)
class Job:
    """One submission.

    Attributes:
        id: Ray's submission id; every attempt has its own.
        name: What all attempts at it have in common.
        state: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        command: What it runs, as people type it.
        message: Ray's words on the state.
        exit_code: The command's, once it has ended by itself.
        started: Unix time of submission, in seconds.
        ended: Unix time of its end; None before.
    """

    id: str
    name: str
    state: str
    command: str
    message: str
    exit_code: int | None
    started: float
    ended: float | None

    @property
    def is_over(self) -> bool:
        """Say whether nothing of it runs any more."""
        return JobStatus(self.state).is_terminal()

    @property
    def seconds(self) -> float:
        """Return how long it took, or has been under way."""
        return (self.ended or time.time()) - self.started


class Client(ray.job_submission.JobSubmissionClient):
    """Ray's client, which by itself would wait for ever for a server that says nothing."""

    def _do_request(self, method: str, endpoint: str, **given: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": _REQUEST_SECONDS, **given})


def connect(address: str) -> Client:
    """Reach the job server at an address such as http://HEAD:8265.

    A token is Ray's own matter: RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.

    Raises:
        ResourceError: no job server answers there, or it refuses us.
    """
    if not address.startswith(("http://", "https://")):
        raise ResourceError(f"no address of a job server: {address!r}; expected http://HEAD:8265")
    for name in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
    given = os.environ.get(_ADDRESS)
    os.environ[_ADDRESS] = address  # or Ray would take its old value instead of our argument
    try:
        with explained(address):
            return Client(address)
    finally:
        os.environ.pop(_ADDRESS)
        if given is not None:
            os.environ[_ADDRESS] = given


@contextmanager
def explained(address: str) -> Iterator[None]:
    """Turn whatever Ray's client raises into one line.

    Raises:
        ResourceError: instead of it.
    """
    try:
        yield
    except AuthenticationError as error:
        has_token = "Authentication failed" in str(error)
        raise ResourceError(
            f"the job server at {address} {'refuses the token' if has_token else 'wants a token'}: "
            "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"
        ) from None
    except (OSError, KeyError) as error:
        reason = type(error).__name__
        raise ResourceError(
            f"no Ray job server answers at {address} ({reason}): check --address, and the tunnel "
            "to the head's dashboard"
        ) from None
    except (RuntimeError, ValueError) as error:
        raise ResourceError(f"the job server at {address}: {_last_line(str(error))}") from None


def list_jobs(client: Client) -> list[Job]:
    """Return the submitted jobs that the server knows, the newest first.

    Raises:
        ResourceError: it doesn't answer.
    """
    with explained(client.get_address()):
        details = client.list_jobs()
    jobs = [_job(found) for found in details if found.type is JobType.SUBMISSION]
    return sorted(jobs, key=lambda job: job.started, reverse=True)


def find_job(client: Client, name: str) -> Job:
    """Return the newest job of a name, or the one that has it as its id.

    Raises:
        ResourceError: there is none, or the server doesn't answer.
    """
    jobs = list_jobs(client)
    found = [job for job in jobs if job.name == name] or [job for job in jobs if job.id == name]
    if found:
        return found[0]
    names = list(dict.fromkeys(job.name for job in jobs))
    near = difflib.get_close_matches(name, [*names, *(job.id for job in jobs)], n=1)
    known = f"known are {', '.join(names[:8])}" if names else "it has none"
    hint = f"did you mean {near[0]!r}?" if near else known
    raise ResourceError(f"the job server at {client.get_address()} has no job {name!r}: {hint}")


def look(client: Client, id: str) -> Job:
    """Return a job as it is now; unlike the rest, with Ray's own errors for what may pass.

    Raises:
        ResourceError: the server has forgotten the job.
    """
    try:
        return _job(client.get_job_info(id))
    except RuntimeError as error:
        if "status code 404" not in str(error):
            raise
        raise ResourceError(
            f"{client.get_address()} no longer knows the job {id}: its head has been replaced; "
            "submit the same name again to go on"
        ) from None


def stop(client: Client, job: Job, *, patience_seconds: float = 60.0) -> Job:
    """End a job and wait until nothing of it runs.

    Raises:
        ResourceError: it doesn't end in that time, or the server doesn't answer.
    """
    began = time.monotonic()
    with explained(client.get_address()):
        if not job.is_over:
            client.stop_job(job.id)
        while not (job := look(client, job.id)).is_over:
            waited = time.monotonic() - began
            if job.state == PENDING and waited > _PENDING_SECONDS:
                raise ResourceError(
                    f"{job.id} still waits for a node; it ends when it gets one, or when Ray has "
                    "waited for one for RAY_JOB_START_TIMEOUT_SECONDS (15 minutes)"
                )
            if waited > patience_seconds:
                raise ResourceError(f"{job.id} was told to stop and is still {job.state}")
            time.sleep(_POLL_SECONDS)
    return job


def exit_code(job: Job) -> int:
    """Return the exit code of a job that is over, as a shell gives it.

    A job that was ended by a signal, `raymc stop` included, has 128 more than the signal's
    number; one that couldn't be started has 1.
    """
    if job.exit_code is not None:
        return job.exit_code if job.exit_code >= 0 else 128 - job.exit_code
    return {JobStatus.SUCCEEDED: 0, JobStatus.STOPPED: 128 + 15}.get(JobStatus(job.state), 1)


def _job(details: JobDetails) -> Job:
    metadata = details.metadata or {}
    id = details.submission_id or ""
    return Job(
        id=id,
        name=metadata.get(NAME_KEY, id),
        state=details.status.value,
        command=metadata.get(COMMAND_KEY, details.entrypoint),
        message=_first_line(details.message or ""),
        exit_code=details.driver_exit_code,
        started=(details.start_time or 0) / 1000,
        ended=None if details.end_time is None else details.end_time / 1000,
    )


def _first_line(message: str) -> str:
    """Return what a message says first, or last if it begins with a traceback."""
    return _last_line(message) if message.startswith("Traceback") else message.partition("\n")[0]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip(" .")]
    return lines[-1].strip().removesuffix("..") if lines else "an error without a word"


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
            if is_new and not told and time.monotonic() - began > _WAITING_SECONDS:
                tell(f"{job.name} is waiting: {job.message}")
                told = True
            time.sleep(_LOG_SECONDS)


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
