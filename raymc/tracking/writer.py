"""One thread that brings records to MLflow, in order and each once, while others work.

Imports mlflow inside functions only. Training never waits for a server, goes on while it is
away, and never ends because of it. What waits is in the run's folder too, so that nothing is
lost with the process.
"""

import logging
import queue
import shlex
import threading
from collections.abc import Callable

from raymc.tracking.records import reason, without_password
from raymc.tracking.spool import Record, Spool

_REFUSED = {  # MLflow's codes of records that no further attempt can save
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 5.0
_log = logging.getLogger(__name__)


class Writer:
    """Writes what it is sent, one after the other, each until it succeeds or is refused.

    Args:
        uri: Where the records go.
        write: Writes one; may raise whatever a store raises, and be called again with it.
        spool: Keeps what waits; None: it is lost with the process. What an earlier process left
            there is written first.

    Attributes:
        place: where the records go, as warnings name it.
        waiting: how many records are still to be written.
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
        """Have a record written soon, again and again while MLflow is away; returns at once."""
        with self._lock:
            if not self._give_up.is_set():
                self.waiting += 1
                self._keep(record)
                self._queue.put(record)

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until nothing waits to be written; returns whether that is so in time."""
        with self._lock:
            return self._lock.wait_for(lambda: not self.waiting, timeout_seconds)

    def close(self, timeout_seconds: float) -> int:
        """Write what waits and stop; what is sent later is ignored.

        Returns:
            How many records could not be written: those MLflow refused, and those still
            waiting for it after `timeout_seconds`.
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
        """Say what becomes of the records that are left."""
        away, spool = f"MLflow at {self.place} was away until the end", self._spool
        lost = len(spool.unsaved) if spool else self.waiting
        end = f"{lost} records were not written; the run itself is not affected" if lost else ""
        if spool is None or lost == self.waiting:
            return f"{away}: {end}"
        folder = shlex.quote(str(spool.folder))
        return (
            f"{away}: {self.waiting - lost} records wait in {spool.file}; when it is back, "
            f"`raymc replay {folder}` writes them there{end and '; '}{end}"
        )

    def _keep(self, record: Record) -> None:
        """Put a record into the spool, if there is one that can be written."""
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
            except Exception as error:  # whatever a store raises must not end the training
                if not may_pass(error):
                    _log.warning("MLflow refused %s: %s", record.what, reason(error))
                    return False
                self._warn_away(error)
            else:
                self._away = False
                return True
            if self._give_up.wait(pause):
                return False
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _warn_away(self, error: Exception) -> None:
        if not self._away:
            _log.warning(
                "MLflow at %s is away (%s); records wait, the run goes on",
                self.place,
                reason(error),
            )
        self._away = True


def may_pass(error: Exception) -> bool:
    """Say whether a later attempt may succeed: the server is away or overloaded."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code not in _REFUSED
    response = getattr(error, "response", None)
    if response is not None:  # an HTTP error of an artifact store
        return response.status_code == 429 or response.status_code >= 500
    return isinstance(error, ConnectionError | TimeoutError)
