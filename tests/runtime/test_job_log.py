"""Logs of jobs that come in pieces, over connections that break."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from raymc.errors import ResourceError
from raymc.runtime import jobs as job_log
from raymc.runtime.jobs import Client, GrowingLog, Job, follow


def job(state: str = "RUNNING", **changed: Any) -> Job:
    made = Job(
        id="lesson", name="lesson", state=state, command="", message="", exit_code=None,
        started=time.time(), ended=None,
    )  # fmt: skip
    return replace(made, **changed)


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
            return job("PENDING", message="no CPU yet")
        return job() if self.connections else job("FAILED", exit_code=7)

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for piece in self.connections.pop(0):
            await asyncio.sleep(0)
            if isinstance(piece, Exception):
                raise piece
            yield piece


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Job, str, list[str]]]:
    """Follow a job on a server; returns its end, what was written and what was told."""
    monkeypatch.setattr(job_log, "_LOG_SECONDS", 0.0)
    monkeypatch.setattr(job_log, "_WAITING_SECONDS", 0.0)

    def followed(server: FlakyServer, **given: Any) -> tuple[Job, str, list[str]]:
        monkeypatch.setattr(job_log, "look", server.look)
        written, told = [], []
        end = follow(server, job(), written.append, told.append, **given)
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
    with pytest.raises(ResourceError, match=r"is lost \(OSError\); lesson goes on .*raymc logs"):
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
