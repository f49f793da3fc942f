"""Brings records to MLflow in order, each once, in a thread of its own.

Training never waits for MLflow's server, continues while it is unreachable, and never fails
because of it. Records that wait are kept as JSON lines in the run's folder, its spool, so they
outlive the process: the next process of the run writes them, or `raymc replay`. A record read from
a spool may be in MLflow already, so writing one again must change nothing.
"""

import errno
import fcntl
import json
import logging
import os
import queue
import shlex
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raymc.addresses import without_password
from raymc.errors import ResourceError
from raymc.tracking.records import reason

SPOOL_FILE = "mlflow-spool.jsonl"
_REFUSED = {  # MLflow's error codes for records that no further attempt can save
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """Something to be written to MLflow, which messages call `what`.

    `method` of `tracker._MlflowRuns` writes it, given the arguments, which are JSON values.
    """

    what: str
    method: str
    arguments: Mapping[str, Any]


class Spool:
    """The file of one run's records, held by one process at a time.

    `left` are records of an earlier process, oldest first; `unsaved` did not fit on the disk yet.

    Raises:
        ResourceError: Another process holds it, or it can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / SPOOL_FILE
        try:
            self._lines = self.file.open("a+b", buffering=0)
        except OSError as error:
            raise ResourceError(f"{self.file} can't be written: {error.strerror}") from None
        with suppress(OSError):  # a file system without locks
            self._lock()
        self.left = self._read()
        self.unsaved: list[Record] = []

    def add(self, record: Record) -> None:
        """Keep a record, after those that did not fit on the disk before.

        Raises:
            OSError: The disk is full. The record is tried again with the next one.
        """
        self.unsaved.append(record)
        while self.unsaved:
            self._append(json.dumps(asdict(self.unsaved[0])).encode() + b"\n")
            self.unsaved.pop(0)

    def clear(self) -> None:
        """Remove all records: MLflow has them."""
        self._lines.truncate(0)
        self.unsaved.clear()

    def close(self, *, keep: bool) -> None:
        """Release the file, or remove it unless its records are to be kept."""
        if not keep:
            self.file.unlink(missing_ok=True)
        self._lines.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResourceError(
                f"another process is writing the records of {self.folder}: wait until it ends, or "
                "stop it"
            ) from None

    def _append(self, line: bytes) -> None:
        """Write a whole line, or nothing."""
        end = self._lines.seek(0, os.SEEK_END)
        if self._lines.write(line) != len(line):
            self._lines.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _read(self) -> list[Record]:
        """Read what is there, and cut off a last line that a crash left incomplete."""
        self._lines.seek(0)
        lines = self._lines.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        self._lines.truncate(sum(map(len, lines)))
        try:
            return [Record(**json.loads(line)) for line in lines]
        except (TypeError, ValueError):
            raise ResourceError(
                f"{self.file} does not contain records: move it elsewhere"
            ) from None


def count_left(folder: Path) -> int:
    """Return how many records in a run's folder may be missing in MLflow."""
    file = folder / SPOOL_FILE
    return file.read_bytes().count(b"\n") if file.exists() else 0


class Writer:
    """Writes records one after the other, and retries each until it succeeds or is refused.

    `write` may raise any error of a store, and is then called again. The spool keeps records that
    wait, and what an earlier process left there is written first; with None, they are lost when
    the process ends. `place` is the address without a password; `waiting` counts the records that
    are still to be written.
    """

    def __init__(
        self, uri: str, write: Callable[[Record], None], spool: Spool | None = None
    ) -> None:
        self.place = without_password(uri)
        self._store, self._spool = write, spool
        left = spool.left if spool else []
        self.waiting = len(left)
        self._refused = 0
        self._lock = threading.Condition()
        self._queue: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        for record in left:
            self._queue.put(record)
        self._away = self._is_full = False
        self._give_up = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="mlflow", daemon=True)
        self._thread.start()

    def send(self, record: Record) -> None:
        """Queue a record and return at once; it is retried while MLflow is unreachable."""
        with self._lock:
            if not self._give_up.is_set():
                self.waiting += 1
                self._keep(record)
                self._queue.put(record)

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until all records are written, or none was for so long; returns whether all are."""
        with self._lock:
            while self.waiting:
                if not self._lock.wait(timeout_seconds):  # it is notified of every record
                    return False
            return True

    def close(self, timeout_seconds: float) -> int:
        """Write the records that wait, and stop. Records sent later are ignored.

        Returns:
            How many records were not written: those that MLflow refused, and those that
            still waited after `timeout_seconds`.
        """
        if not self._give_up.is_set():
            self._queue.put(None)
            self._thread.join(timeout_seconds)
            with self._lock:
                self._give_up.set()
                if self._spool:
                    self._spool.close(keep=self.waiting > 0)
            if self.waiting:
                _log.warning("%s", self._farewell())
        return self.waiting + self._refused

    def _farewell(self) -> str:
        away, spool = f"MLflow at {self.place} stayed unreachable", self._spool
        lost = len(spool.unsaved) if spool else self.waiting
        end = f"{lost} records were not written; the run itself is not affected" if lost else ""
        if spool is None or lost == self.waiting:
            return f"{away}: {end}"
        folder = shlex.quote(str(spool.folder))
        return (
            f"{away}: {self.waiting - lost} records wait in {spool.file}; when it is back, run "
            f"`raymc replay {folder}` to send them{end and '; '}{end}"
        )

    def _keep(self, record: Record) -> None:
        if self._spool is None:
            return
        try:
            self._spool.add(record)
        except OSError as error:  # a full disk must not end the training
            if not self._is_full:
                _log.warning("%s can't be written: %s", self._spool.file, error.strerror)
            self._is_full = True

    def _write_all(self) -> None:
        while (record := self._queue.get()) is not None:
            written = self._write(record)
            with self._lock:
                if self._give_up.is_set():
                    return
                self.waiting -= 1
                self._refused += not written
                if self._spool and not self.waiting:
                    self._spool.clear()
                self._lock.notify_all()

    def _write(self, record: Record) -> bool:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                self._store(record)
            except Exception as error:  # no error of a store may end the training
                if not may_pass(error):
                    _log.warning("MLflow refused %s: %s", record.what, reason(error))
                    return False
                if not self._away:
                    _log.warning(
                        "MLflow at %s is unreachable (%s); records wait, and the run continues",
                        self.place,
                        reason(error),
                    )
                self._away = True
            else:
                self._away = False
                return True
            if self._give_up.wait(pause):
                return False
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def may_pass(error: Exception) -> bool:
    """Return whether a later attempt may succeed: the server is unreachable or overloaded."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code not in _REFUSED
    response = getattr(error, "response", None)
    if response is not None:  # artifact stores raise HTTP errors of `requests`
        return response.status_code == 429 or response.status_code >= 500
    return isinstance(error, ConnectionError | TimeoutError)
