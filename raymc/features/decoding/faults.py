"""What can go wrong inside FFmpeg, as one line of text; FFmpeg's own log is silenced."""

from collections.abc import Collection

import av.logging
from av.error import FFmpegError

FAULTS = (FFmpegError, OSError, ValueError)  # ValueError: av itself, of what it can't convert
# H.264 frames that begin an open group name older frames to be dropped, which aren't decoded here.
_HARMLESS = ("mmco: ",)


if av.logging.get_level() is None:
    av.logging.set_level(av.logging.PANIC)  # prints nothing, but counts and keeps errors


class ErrorLog:
    """What FFmpeg reports as errors without failing, such as lost references or bad headers."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Forget what was reported so far."""
        self._count = av.logging.get_last_error()[0]

    def last(self, name: str = "", *, but: Collection[str] = ()) -> str:
        """The last error since `start`, or nothing.

        With a name, of that part of FFmpeg alone; and not of the parts in `but`.
        """
        count, last = av.logging.get_last_error()
        if count == self._count or last is None or last[2].startswith(_HARMLESS):
            return ""
        if (name and last[1] != name) or last[1] in but:
            return ""
        return _line(f"{last[1]}: {last[2]}")


def reason(error: BaseException) -> str:
    """What an error says, in one line and without the path."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    log = getattr(error, "log", None)
    return _line(f"{text} ({log[1]}: {log[2]})" if log else text)


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
