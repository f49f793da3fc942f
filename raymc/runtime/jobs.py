"""On Ray: jobs on a cluster: submitted, listed, followed and stopped through its job server.

Uses Ray's JobSubmissionClient; each of its errors becomes one line.
"""

import asyncio
import difflib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import ray.job_submission
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobType

from raymc.addresses import keep_password
from raymc.errors import ResourceError
from raymc.runtime.packing import archived, size_text
from raymc.runtime.provenance import Code, from_texts
from raymc.runtime.submit import Plan

PENDING = JobStatus.PENDING.value
_NAME_KEY, _COMMAND_KEY = "job_name", "command"  # in a job's metadata; the first is Ray's own
_ADDRESS = "RAY_API_SERVER_ADDRESS"
_REQUEST_SECONDS = (10.0, 120.0)  # to connect; for an answer
_FIRST_SECONDS = 30.0  # for the first answer, which says that a job server is there
_POLL_SECONDS = 0.25  # between looks at a job that is to stop
_PENDING_SECONDS = 10.0  # after which a job is not just about to start
_LOG_SECONDS = 1.0  # between looks at a job that is followed
_WAITING_SECONDS = 15.0  # after which to report what a pending job waits for
_SILENT_SECONDS = 30.0  # without output, after which to check that the server is still there
_LOST = (aiohttp.ClientError, OSError, RuntimeError)  # what a lost connection raises


@dataclass(frozen=True, kw_only=True)
class Job:
    """One submission.

    Attributes:
        id: Ray's submission id; every attempt has its own.
        name: Name that all attempts at a job share.
        state: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        command: Command that it runs, as a user types it.
        message: Ray's description of the state.
        exit_code: Exit code of the command, once it has ended by itself.
        started: Time of submission, in seconds since 1970.
        ended: Time of its end; None before.
        code: The code that it runs, as far as it was recorded.
    """

    id: str
    name: str
    state: str
    command: str
    message: str
    exit_code: int | None
    started: float
    ended: float | None
    code: Code = field(default_factory=Code)

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs any more."""
        return JobStatus(self.state).is_terminal()

    @property
    def seconds(self) -> float:
        """How long it took, or has been running."""
        return (self.ended or time.time()) - self.started


class Client(ray.job_submission.JobSubmissionClient):
    """Ray's client with a time-out; Ray's own would wait for a silent server for ever."""

    def _do_request(self, method: str, endpoint: str, **given: Any) -> Any:
        seconds = _FIRST_SECONDS if endpoint == "/api/version" else _REQUEST_SECONDS
        return super()._do_request(method, endpoint, **{"timeout": seconds, **given})


def connect(address: str) -> Client:
    """Connect to the job server at an address such as http://HEAD:8265.

    Ray itself adds a token: RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.

    Raises:
        ResourceError: no job server answers there, or it refuses access.
    """
    keep_password(address)  # so that no message shows it
    if not address.startswith(("http://", "https://")):
        raise ResourceError(
            f"{address!r} is not the address of a job server; expected http://HEAD:8265"
        )
    for name in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
    given = os.environ.get(_ADDRESS)
    os.environ[_ADDRESS] = address  # Ray prefers this variable to our argument
    try:
        with client_errors(address):
            return Client(address)
    finally:
        os.environ.pop(_ADDRESS)
        if given is not None:
            os.environ[_ADDRESS] = given


@contextmanager
def client_errors(address: str) -> Iterator[None]:
    """Replace every error of Ray's client by one line.

    Raises:
        ResourceError: the client raised an error.
    """
    try:
        yield
    except AuthenticationError as error:
        has_token = "Authentication failed" in str(error)
        problem = "refuses the token" if has_token else "wants a token"
        raise ResourceError(
            f"the job server at {address} {problem}: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN "
            "or RAY_AUTH_TOKEN_PATH to the cluster's token"
        ) from None
    except (OSError, KeyError) as error:
        reason = type(error).__name__
        raise ResourceError(
            f"no Ray job server answers at {address} ({reason}): check --address, and the tunnel "
            "to the head's dashboard"
        ) from None
    except (RuntimeError, ValueError) as error:
        raise ResourceError(f"the job server at {address}: {_last_line(str(error))}") from None


def send(plan: Plan, client: Client, report: Callable[[str], object]) -> Job:
    """Pack the tree, upload it if the server lacks it, and start the job.

    Ray accepts each submission id once: the first attempt's id is the name, the next NAME-2.

    Args:
        plan: What to send.
        client: Client of the server.
        report: Receives lines about what is packed and what is not.

    Raises:
        ResourceError: a job with that name is still running, the tree is too large, or the
            server refuses the job.
    """
    _free_id(client, plan.name)
    with archived(plan.tree) as (archive, size, code):
        if plan.tree.left_out:
            report(f"not packed: {', '.join(plan.tree.left_out)}")
        report(f"packed {plan.tree.root}: {len(plan.tree.files):,} files, {size_text(size)}")
        if not code.commit:
            report("nothing is committed there: the job records only the digest of what is sent")
        with client_errors(client.get_address()):
            return look(client, _start(plan, client, archive, code))


def _start(plan: Plan, client: Client, archive: Path, code: Code) -> str:
    """Submit a plan; return the submission id."""
    for is_last in (False, False, True):
        try:
            return client.submit_job(
                entrypoint=plan.entry_point,
                submission_id=_free_id(client, plan.name),
                runtime_env={
                    "working_dir": str(archive),
                    "env_vars": {**plan.env, **code.as_variable()},
                },
                metadata={_NAME_KEY: plan.name, _COMMAND_KEY: plan.command, **code.as_texts()},
                entrypoint_num_cpus=plan.cpus,
                entrypoint_label_selector=dict(plan.labels) or None,
            )
        except RuntimeError as error:  # someone else may have taken the id in between
            if is_last or "already exists" not in str(error):
                raise
    raise AssertionError


def _free_id(client: Client, name: str) -> str:
    """Return the id of the next attempt at a job; refuse if an earlier one is still running."""
    jobs = list_jobs(client)
    running = next((job for job in jobs if name in (job.name, job.id) and not job.is_over), None)
    if running is not None:
        raise ResourceError(
            f"a job {name!r} is {running.state} already: follow it with `raymc logs {name} "
            f"--follow`, end it with `raymc stop {name}`, or submit under another --name"
        )
    taken = {job.id for job in jobs}
    attempts = (f"{name}-{number}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(id for id in attempts if id not in taken)


def list_jobs(client: Client) -> list[Job]:
    """Return the submitted jobs that the server knows, the newest first.

    Raises:
        ResourceError: the server does not answer.
    """
    with client_errors(client.get_address()):
        details = client.list_jobs()
    jobs = [_job(found) for found in details if found.type is JobType.SUBMISSION]
    return sorted(jobs, key=lambda job: job.started, reverse=True)


def find_job(client: Client, name: str) -> Job:
    """Return the newest job with a name, or the job with that id.

    Raises:
        ResourceError: there is none, or the server does not answer.
    """
    jobs = list_jobs(client)
    found = [job for job in jobs if job.name == name] or [job for job in jobs if job.id == name]
    if found:
        return found[0]
    names = list(dict.fromkeys(job.name for job in jobs))
    near = difflib.get_close_matches(name, [*names, *(job.id for job in jobs)], n=1)
    known = f"its jobs are {', '.join(names[:8])}" if names else "it has no jobs"
    hint = f"did you mean {near[0]!r}?" if near else known
    raise ResourceError(f"the job server at {client.get_address()} has no job {name!r}: {hint}")


def look(client: Client, id: str) -> Job:
    """Return a job in its present state.

    Unlike the other functions, this one raises Ray's own errors where trying again may help.

    Raises:
        ResourceError: the server no longer knows the job.
    """
    try:
        return _job(client.get_job_info(id))
    except RuntimeError as error:
        if "status code 404" not in str(error):
            raise
        raise ResourceError(
            f"{client.get_address()} no longer knows the job {id}, because its head was replaced: "
            "submit the same name again to resume"
        ) from None


def stop(client: Client, job: Job, *, patience_seconds: float = 60.0) -> Job:
    """End a job and wait until nothing of it runs.

    Raises:
        ResourceError: it does not end within that time, or the server does not answer.
    """
    began = time.monotonic()
    with client_errors(client.get_address()):
        if not job.is_over:
            client.stop_job(job.id)
        while not (job := look(client, job.id)).is_over:
            waited = time.monotonic() - began
            if job.state == PENDING and waited > _PENDING_SECONDS:
                raise ResourceError(
                    f"{job.id} is still waiting for a node; it ends when it gets one, or when Ray "
                    "has waited for RAY_JOB_START_TIMEOUT_SECONDS (15 minutes)"
                )
            if waited > patience_seconds:
                raise ResourceError(f"{job.id} was asked to stop, but is still {job.state}")
            time.sleep(_POLL_SECONDS)
    return job


def exit_code(job: Job) -> int:
    """Return the exit code of a job that is over, as a shell gives it.

    It is 128 plus the signal's number for a job that was ended by a signal, also by `raymc stop`,
    and 1 for a job that could not be started.
    """
    if job.exit_code is not None:
        return job.exit_code if job.exit_code >= 0 else 128 - job.exit_code
    return {JobStatus.SUCCEEDED: 0, JobStatus.STOPPED: 128 + 15}.get(JobStatus(job.state), 1)


def _job(details: JobDetails) -> Job:
    metadata = details.metadata or {}
    id = details.submission_id or ""
    return Job(
        id=id,
        name=metadata.get(_NAME_KEY, id),
        state=details.status.value,
        command=metadata.get(_COMMAND_KEY, details.entrypoint),
        message=_first_line(details.message or ""),
        exit_code=details.driver_exit_code,
        started=(details.start_time or 0) / 1000,
        ended=None if details.end_time is None else details.end_time / 1000,
        code=from_texts(metadata),
    )


def _first_line(message: str) -> str:
    """Return the first line of a message, or the last if it begins with a traceback."""
    return _last_line(message) if message.startswith("Traceback") else message.partition("\n")[0]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip(" .")]
    return lines[-1].strip().removesuffix("..") if lines else "an error without a message"


def read_log(client: Client, job: Job) -> str:
    """Return everything that a job has printed.

    Raises:
        ResourceError: the server, or the node on which the job ran, does not answer.
    """
    with client_errors(client.get_address()):
        return client.get_job_logs(job.id)


def follow(
    client: Client,
    job: Job,
    write: Callable[[str], object],
    report: Callable[[str], object],
    *,
    patience_seconds: float = 120.0,
) -> Job:
    """Write a job's log as it grows, from its first line to the job's end.

    Args:
        client: Client of the server that has the job.
        job: The job to follow.
        write: Receives pieces of the log.
        report: Receives lines about the job.
        patience_seconds: How long to try again after the connection is lost.

    Returns:
        The job at its end.

    Raises:
        ResourceError: the connection did not come back, or the server no longer knows the job.
    """
    log, began, lost_since, reported = GrowingLog(write), time.monotonic(), None, False
    with client_errors(client.get_address()):
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
            # a restarted head also calls running jobs pending: those have written something
            is_new = job.state == PENDING and not log.written
            if is_new and not reported and time.monotonic() - began > _WAITING_SECONDS:
                report(f"{job.name} is waiting: {job.message}")
                reported = True
            time.sleep(_LOG_SECONDS)


class GrowingLog:
    """Writes each part of a log once, although every connection sends it from the beginning."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._seen = 0
        self.written = 0

    def restart(self) -> None:
        """Begin again: the next piece is the log's first."""
        self._seen = 0

    def add(self, piece: str) -> None:
        """Write the new part of a piece."""
        new = piece[max(0, self.written - self._seen) :]
        self._seen += len(piece)
        if new:
            self._write(new)
            self.written = self._seen


def _advance(client: Client, job: Job, log: GrowingLog) -> Job:
    """Write the log until the job or the connection ends; return at once if it has not begun."""
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
            await asyncio.to_thread(look, client, job.id)  # raises if the server is gone
        text = piece.result()
        if text is None:
            return
        log.add(text)


def _gave_up(client: Client, job: Job, error: Exception) -> ResourceError:
    return ResourceError(
        f"lost the connection to {client.get_address()} ({type(error).__name__}); {job.name} "
        "continues to run: return to it with `raymc logs --follow`, end it with `raymc stop`"
    )
