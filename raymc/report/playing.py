"""Media files for a page: how long they last, whether browsers play them, and copies that they do.

Files are opened in a child process, because FFmpeg may crash or hang on a damaged one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

from raymc.errors import DataError
from raymc.runtime.child_process import Child, ChildError, limit_cpu, received

_STUCK_SECONDS = 300.0  # of CPU time without a picture, by which FFmpeg never ends
_CLIP_HEIGHT = 240  # lines of a clip among many
_LOOK_SECONDS = 10.0  # of CPU time, for a header


@dataclass(frozen=True)
class Look:
    """What a file's header says: its length if it is known, and whether browsers play it."""

    seconds: float | None
    is_played: bool


class Looking:
    """Opens a file in a child process while the caller goes on, until it is closed."""

    def __init__(self, path: str) -> None:
        self._child = Child(_look, path)
        self._found: Look | None = None

    def result(self) -> Look:
        """Return what was found, once it is; nothing is known of a file that can't be opened."""
        if self._found is None:
            try:
                self._found = Look(*self._child.receive())
            except ChildError:
                self._found = Look(None, False)
        return self._found

    def close(self) -> None:
        """End the process."""
        self._child.close()


def _look(connection: Connection, path: str) -> None:
    from raymc.report.browser_copy import look

    limit_cpu(_LOOK_SECONDS)
    try:
        connection.send(look(path))
    except DataError:
        connection.send((None, False))


def copy_for_browsers(path: str, out: Path, *, listener: Callable[[float], None]) -> None:
    """Write a copy that browsers play: an MP4 file of at most 480 lines; tells the seconds done.

    Raises:
        DataError: The file can't be decoded, or FFmpeg crashes on it.
    """
    with closing(Child(_write_copy, path, str(out))) as child:
        try:
            while (found := child.receive()) is not None:
                if isinstance(found, DataError):
                    raise found
                listener(found)
        except ChildError as error:
            raise DataError(f"its decoder {error}") from error


def copies_of(places: Sequence[tuple[str, float, float]]) -> Iterator[bytes]:
    """Iterate over a small MP4 file of each clip whose file browsers don't play; nothing of others.

    Args:
        places: Path, and start and end in seconds, of each clip.
    """
    return received(_send_copies, places, lost=lambda _: b"")


def _send_copies(connection: Connection, places: Sequence[tuple[str, float, float]]) -> None:
    from raymc.report.browser_copy import look, write_copy

    with TemporaryDirectory(prefix="raymc-") as folder:
        for path, start, end in places:
            copy, made = Path(folder, "copy.mp4"), b""
            limit_cpu(_STUCK_SECONDS)
            with suppress(DataError):
                if not look(path)[1]:
                    given = {"part": (start, end), "most_height": _CLIP_HEIGHT}
                    write_copy(path, copy, on_seconds=lambda _: None, **given)
                    made = copy.read_bytes()
            limit_cpu(0)
            connection.send(made)


def _write_copy(connection: Connection, path: str, out: str) -> None:
    from raymc.report.browser_copy import write_copy

    def said(seconds: float) -> None:
        limit_cpu(_STUCK_SECONDS)
        connection.send(seconds)

    limit_cpu(_STUCK_SECONDS)
    try:
        write_copy(path, Path(out), on_seconds=said)
        connection.send(None)
    except DataError as error:
        connection.send(error)
