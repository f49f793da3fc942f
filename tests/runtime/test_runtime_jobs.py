"""Jobs on a cluster: the server's answers, errors as single lines, logs that arrive in pieces."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobType

from raymc.errors import ResourceError
from raymc.runtime import jobs
from raymc.runtime.jobs import (
    Client,
    GrowingLog,
    Job,
    _free_id,
    client_errors,
    connect,
    exit_code,
    find_job,
    follow,
    list_jobs,
    send,
    stop,
)
from raymc.runtime.packing import Tree
from raymc.runtime.submit import Plan


def details(id: str, state: str = "RUNNING", **given: Any) -> JobDetails:
    """What Ray says of a job, submitted an hour ago."""
    known = {"entrypoint": f"run {id}", "start_time": 1000 * int(time.time() - 3600)}
    known |= {"type": JobType.SUBMISSION, "submission_id": id, "status": JobStatus(state)}
    return JobDetails(**{**known, **given})


class Server(Client):
    """A server that knows some jobs, and lets each end after some looks at it."""

    def __init__(self, *known: JobDetails, looks: int = 0) -> None:
        self.known = known
        self.looks = looks
        self.told: list[str] = []

    def get_address(self) -> str:
        return "http://head"

    def list_jobs(self) -> list[JobDetails]:
        return list(self.known)

    def stop_job(self, job_id: str) -> bool:
        self.told.append(job_id)
        return True

    def get_job_info(self, job_id: str) -> JobDetails:
        self.looks -= 1
        state = "STOPPED" if self.looks < 0 else self.known[0].status.value
        return details(job_id, state, message="")


def job(id: str, state: str = "RUNNING", **given: Any) -> Job:
    (made,) = list_jobs(Server(details(id, state, **given)))
    return made


def test_jobs() -> None:
    made = job("a-2", "FAILED", end_time=1000 * int(time.time()), driver_exit_code=3)
    assert (made.id, made.name, made.command, made.exit_code) == ("a-2", "a-2", "run a-2", 3)
    assert made.is_over
    assert made.seconds == pytest.approx(3600, abs=2)
    made = job("a-2", metadata={"job_name": "a", "command": "raymc train"})
    assert (made.name, made.command, made.is_over) == ("a", "raymc train", False)
    assert made.seconds == pytest.approx(3600, abs=60)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("failed with exit code 7, last logs:\na\nb", "failed with exit code 7, last logs:"),
        (
            "Traceback (most recent call last):\n  File x\nOSError: disk full\n",
            "OSError: disk full",
        ),
        (None, ""),
    ],
)
def test_a_message_is_one_line(message: str | None, expected: str) -> None:
    assert job("a", "FAILED", message=message).message == expected


def test_jobs_are_found_by_name_newest_first() -> None:
    named = {"metadata": {"job_name": "sweep-2"}}
    server = Server(
        details("sweep", start_time=1),
        details("sweep-2", start_time=2, metadata={"job_name": "sweep"}),
        details("sweep-2-2", start_time=3, **named),
        details("sweep-2-3", start_time=4, **named),
        details("driver", type=JobType.DRIVER),
    )
    assert [found.id for found in list_jobs(server)][:2] == ["sweep-2-3", "sweep-2-2"]
    assert find_job(server, "sweep").id == "sweep-2"
    assert find_job(server, "sweep-2").id == "sweep-2-3"
    assert find_job(server, "sweep-2-2").id == "sweep-2-2"
    with pytest.raises(ResourceError, match=r"no job 'swep': did you mean 'sweep'\?$"):
        find_job(server, "swep")
    with pytest.raises(ResourceError, match=r"no job 'xyz': its jobs are sweep-2, sweep$"):
        find_job(server, "xyz")
    with pytest.raises(ResourceError, match=r"no job 'xyz': it has no jobs$"):
        find_job(Server(), "xyz")


def test_a_name_is_taken_while_its_job_runs(tmp_path: Path) -> None:
    plan = Plan(
        name="sweep", command="raymc tune", entry_point="exec raymc tune", env={},
        tree=Tree(tmp_path, {}), cpus=1.0, labels={},
    )  # fmt: skip
    message = r"^a job 'sweep' is RUNNING already: follow it with `raymc logs sweep --follow`, end"
    for running in (details("sweep"), details("sweep-2", metadata={"job_name": "sweep"})):
        with pytest.raises(ResourceError, match=message):
            send(plan, Server(running), print)
    over = Server(details("sweep", "FAILED"), details("sweep-2", "STOPPED"))
    assert _free_id(over, "sweep") == "sweep-3"
    assert _free_id(over, "other") == "other"


def test_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_POLL_SECONDS", 0.0)
    server = Server(details("a"), looks=3)
    assert stop(server, job("a")).state == "STOPPED"
    assert server.told == ["a"]
    server = Server(details("a", "SUCCEEDED"))
    stop(server, job("a", "SUCCEEDED"))
    assert server.told == []
    server = Server(details("a"), looks=10**9)
    with pytest.raises(ResourceError, match=r"^a was asked to stop, but is still RUNNING$"):
        stop(server, job("a"), patience_seconds=0.01)
    monkeypatch.setattr(jobs, "_PENDING_SECONDS", 0.01)
    server = Server(details("a", "PENDING"), looks=10**9)
    with pytest.raises(ResourceError, match=r"^a is still waiting for a node; it ends when"):
        stop(server, job("a", "PENDING"))


HTTP_500 = "Request failed with status code 500: Traceback:\n  File x\nOSError: agent is gone\n."


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AuthenticationError("Authentication required: …"), r"http://head wants a token: set RAY"),
        (AuthenticationError("Authentication failed: …"), r"http://head refuses the token: set"),
        (requests.exceptions.ReadTimeout(), r"no Ray job server answers at .* \(ReadTimeout\)"),
        (requests.exceptions.InvalidJSONError(), r"no Ray job server answers at http://head"),
        (KeyError("ray_version"), r"no Ray job server answers at http://head \(KeyError\)"),
        (RuntimeError(HTTP_500), r"^the job server at http://head: OSError: agent is gone$"),
        (RuntimeError(""), r"^the job server at http://head: an error without a message$"),
    ],
)
def test_errors_are_one_line(error: Exception, message: str) -> None:
    with pytest.raises(ResourceError, match=message) as caught, client_errors("http://head"):
        raise error
    assert "\n" not in str(caught.value)


def test_no_address() -> None:
    with pytest.raises(
        ResourceError,
        match=r"'head:8265' is not the address of a job server; expected http://HEAD:8265$",
    ):
        connect("head:8265")
    with pytest.raises(
        ResourceError, match=r"^no Ray job server answers at http://127\.0\.0\.1:1 "
    ):
        connect("http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("state", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("SUCCEEDED", None, 0),
        ("FAILED", 3, 3),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 143),
    ],
)
def test_exit_codes(state: str, code: int | None, expected: int) -> None:
    assert exit_code(job("a", state, driver_exit_code=code)) == expected


class FlakyServer(Client):
    """Sends a log from its beginning at each connection, as far as it has got."""

    def __init__(self, *connections: list[str | Exception], pending: int = 0) -> None:
        self.connections = list(connections)
        self.pending = pending

    def get_address(self) -> str:
        return "http://nowhere"

    def look(self, _: Any, __: str) -> Job:
        if self.pending:
            self.pending -= 1
            return job("lesson", "PENDING", message="no CPU yet")
        return job("lesson") if self.connections else job("lesson", "FAILED", driver_exit_code=7)

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for piece in self.connections.pop(0):
            await asyncio.sleep(0)
            if isinstance(piece, Exception):
                raise piece
            yield piece


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Job, str, list[str]]]:
    """Follow a job on a server; returns its end, what was written and what was told."""
    monkeypatch.setattr(jobs, "_LOG_SECONDS", 0.0)
    monkeypatch.setattr(jobs, "_WAITING_SECONDS", 0.0)

    def followed(server: FlakyServer, **given: Any) -> tuple[Job, str, list[str]]:
        monkeypatch.setattr(jobs, "look", server.look)
        written, told = [], []
        end = follow(server, job("lesson"), written.append, told.append, **given)
        return end, "".join(written), told

    return followed


def test_a_log_is_written_once(watch: Callable[..., Any]) -> None:
    server = FlakyServer(
        ["one\ntw", ConnectionResetError()],
        ["one\n"],
        [OSError()],
        ["one\ntwo\nth", RuntimeError("WebSocket connection closed")],
        ["one\ntwo\nthree\n"],
    )
    end, written, told = watch(server)
    assert written == "one\ntwo\nthree\n"
    assert (end.state, end.exit_code, told) == ("FAILED", 7, [])


def test_waiting_for_a_node_is_told_once(watch: Callable[..., Any]) -> None:
    _, written, told = watch(FlakyServer(["a"], pending=3))
    assert (written, told) == ("a", ["lesson is waiting: no CPU yet"])


def test_a_lost_connection_says_how_to_come_back(watch: Callable[..., Any]) -> None:
    server = FlakyServer(*([OSError()] for _ in range(10_000)))
    message = r"^lost the connection .*\(OSError\); lesson continues to run: .*raymc logs"
    with pytest.raises(ResourceError, match=message):
        watch(server, patience_seconds=0.05)


def test_pieces_of_a_growing_log() -> None:
    written: list[str] = []
    log = GrowingLog(written.append)
    for piece in ("ab", "cd"):
        log.add(piece)
    log.restart()
    for piece in ("a", "bc", "", "defg"):
        log.add(piece)
    assert (written, log.written) == (["ab", "cd", "efg"], 7)
