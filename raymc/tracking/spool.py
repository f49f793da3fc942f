"""Records that MLflow may not have yet, as JSON lines in the folder of the run they are of.

Pure. What is here outlives the process: the next one, or `raymc replay`, writes it. A record may
be in MLflow already when it is read from here, so writing one again must change nothing.
"""

import errno
import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raymc.errors import ResourceError

SPOOL_FILE = "mlflow-spool.jsonl"


@dataclass(frozen=True)
class Record:
    """Something to be written to MLflow.

    Attributes:
        what: As messages name it.
        method: Of `MlflowRuns`, which writes it.
        arguments: The method's, as JSON values.
    """

    what: str
    method: str
    arguments: Mapping[str, Any]


class Spool:
    """The file of one run's records, held by one process at a time.

    Attributes:
        folder: The run's.
        file: Where the records are.
        left: Those of an earlier process, oldest first.
        unsaved: Those for which there was no space yet.

    Raises:
        ResourceError: another process holds it, or it can't be written.
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
        """Keep a record, after those for which there was no space before.

        Raises:
            OSError: there still is none; the record is tried again with the next.
        """
        self.unsaved.append(record)
        while self.unsaved:
            self._append(json.dumps(asdict(self.unsaved[0])).encode() + b"\n")
            self.unsaved.pop(0)

    def clear(self) -> None:
        """Forget all records: they are in MLflow."""
        self._lines.truncate(0)
        self.unsaved.clear()

    def close(self, *, keep: bool) -> None:
        """Leave the file to others, or remove it if nothing of it is to be kept."""
        if not keep:
            self.file.unlink(missing_ok=True)
        self._lines.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResourceError(
                f"another process is writing the records of {self.folder}: wait for its end, or "
                "end it"
            ) from None

    def _append(self, line: bytes) -> None:
        """Write a line, whole or not at all."""
        end = self._lines.seek(0, os.SEEK_END)
        if self._lines.write(line) != len(line):
            self._lines.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _read(self) -> list[Record]:
        """Read what is there, and cut off a last line that a crash has torn."""
        self._lines.seek(0)
        lines = self._lines.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        self._lines.truncate(sum(map(len, lines)))
        try:
            return [Record(**json.loads(line)) for line in lines]
        except (TypeError, ValueError):
            raise ResourceError(f"{self.file} holds no records: move it away") from None


def count_left(folder: Path) -> int:
    """Return how many records a run's folder holds that MLflow may not have."""
    file = folder / SPOOL_FILE
    return file.read_bytes().count(b"\n") if file.exists() else 0
