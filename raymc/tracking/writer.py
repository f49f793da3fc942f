"""One thread that brings records to MLflow, in order and each once, while others work.

Imports mlflow inside functions only. Training never waits for a server, goes on while it is
away, and never ends because of it.
"""

import logging
import queue
import threading
from collections.abc import Callable

from raymc.tracking.records import reason, without_password

_REFUSED = {  # MLflow's codes of records that no further attempt can save
    "BAD_REQUEST",
    "ENDPOINT_NOT_FOUND",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 5.0

_log = logging.getLogger(__name__)


class Writer:
    """Carries out what it is sent, one after the other, each until it succeeds or is refused.

    Attributes:
        place: where the records go, as warnings name it.
        waiting: how many records are still to be written.
    """

    def __init__(self, uri: str) -> None:
        self.place = without_password(uri)
        self.waiting = 0
        self._refused = 0
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[str, Callable[[], None]] | None] = queue.SimpleQueue()
        self._away = False
        self._give_up = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="mlflow", daemon=True)
        self._thread.start()

    def send(self, what: str, write: Callable[[], None]) -> None:
        """Have `write` called soon, again and again while MLflow is away; returns at once."""
        if not self._give_up.is_set():
            with self._lock:
                self.waiting += 1
            self._queue.put((what, write))

    def close(self, timeout_seconds: float) -> int:
        """Write what waits and stop; what is sent later is ignored.

        Returns:
            How many records could not be written: those MLflow refused, and those still
            waiting for it after `timeout_seconds`.
        """
        if not self._give_up.is_set():
            self._queue.put(None)
            self._thread.join(timeout_seconds)
            self._give_up.set()
            if self.waiting:
                _log.warning(
                    "MLflow at %s was away until the end: %d records were not written; "
                    "the run itself is not affected",
                    self.place,
                    self.waiting,
                )
        return self.waiting + self._refused

    def _write_all(self) -> None:
        while (record := self._queue.get()) is not None:
            written = self._write(*record)
            if not written and self._give_up.is_set():
                return
            with self._lock:
                self.waiting -= 1
                self._refused += not written

    def _write(self, what: str, write: Callable[[], None]) -> bool:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                write()
            except Exception as error:  # whatever a store raises must not end the training
                if not may_pass(error):
                    _log.warning("MLflow refused %s: %s", what, reason(error))
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
