"""What is said in a video, and when: the timed text in files beside it, as words per interval.

Such files often have small errors, so a cue that can't be read is counted and left out.
"""

import codecs
import html
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyarrow import fs

from raymc.data.storage import open_address, reaching, read_bytes
from raymc.errors import DataError

SIDECARS = (".vtt", ".srt", ".en.vtt", ".en.srt", ".txt")
_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d+))?"
_TIMING = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_INNER_TIME = re.compile(rf"<{_TIME}>")
_TOUCHING_SECONDS = 0.1  # a scrolled line is shown again within this time
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|\{\\[^{}]*\}")


@dataclass(frozen=True)
class Cue:
    """Words, and when they are said in the video; the end is infinite if unknown."""

    start_seconds: float
    end_seconds: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """The cues of a file, by the order of their starts.

    `broken` is the number of cues that could not be read.
    """

    cues: tuple[Cue, ...]
    broken: int = 0
    path: str = ""

    def __len__(self) -> int:
        """Return the number of cues."""
        return len(self.cues)

    def __iter__(self) -> Iterator[Cue]:
        """Go through the cues."""
        return iter(self.cues)


def read_sidecar(media: str, *, duration_seconds: float | None = None) -> Transcript | None:
    """Read the text file beside a media file: the same name, ending in one of `SIDECARS`.

    Returns the first that exists; None if there is none. `duration_seconds` is the length of the
    media, over which an untimed text is spread; see `parse_plain`.
    """
    filesystem, inner = open_address(media)
    folder, slash, name = inner.rpartition("/")
    stem = f"{folder}{slash}{name.rpartition('.')[0] or name}"
    with reaching(media):
        found = filesystem.get_file_info([stem + ending for ending in SIDECARS])
        for info in found:
            if info.type == fs.FileType.File:
                data = read_bytes(filesystem, info.path)
                return parse_transcript(data, info.path, duration_seconds=duration_seconds)
    return None


def parse_transcript(
    data: bytes, path: str, *, duration_seconds: float | None = None
) -> Transcript:
    """Read the contents of a .vtt, .srt or .txt file, as the path's ending says."""
    text = _decode(data, path)
    if path.lower().endswith(".txt"):
        return Transcript(parse_plain(text, duration_seconds), 0, path)
    cues, broken = parse_timed(text)
    return Transcript(cues, broken, path)


def parse_plain(text: str, duration_seconds: float | None = None) -> tuple[Cue, ...]:
    """One cue for an untimed text, from the start to the end of the video.

    Without a duration it has no end, and `texts_by_interval` spreads it over the interval that it
    is given, which is correct for the whole video.
    """
    words = " ".join(text.split())
    end_seconds = math.inf if duration_seconds is None else duration_seconds
    return (Cue(0.0, end_seconds, words),) if words else ()


def parse_timed(text: str) -> tuple[tuple[Cue, ...], int]:
    """The cues of a WebVTT or SubRip text, and how many timings could not be understood.

    Tags, settings, cue numbers, headers and notes are left out. Captions in which words carry
    times of their own (`<00:00:01.200>`), as machines write them, become one cue a stretch; the
    lines that such files repeat from cue to cue, to scroll them, are taken once.
    """
    scrolls = _INNER_TIME.search(text) is not None
    cues: list[Cue] = []
    broken, shown, shown_until = 0, frozenset[str](), -math.inf
    for timing, lines in _blocks(text):
        found = _TIMING.fullmatch(timing)
        start, end = (_seconds(found, 1), _seconds(found, 5)) if found else (math.inf, 0.0)
        if end < start:
            broken += 1
            continue
        fresh = lines
        if scrolls and start <= shown_until + _TOUCHING_SECONDS:
            fresh = [line for line in lines if _plain(line) not in shown]
        cues += _stretches(start, end, "\n".join(fresh))
        shown, shown_until = frozenset(map(_plain, lines)), end
    return tuple(sorted(cues, key=lambda cue: cue.start_seconds)), broken


def texts_by_interval(
    cues: Iterable[Cue], start_seconds: float, end_seconds: float, rate_hz: float
) -> list[str]:
    """The words that are said in each interval of 1/rate_hz seconds.

    Args:
        cues: The words of a cue are spread evenly over it, and each belongs to the interval in
            which its middle lies.
        start_seconds: Where the first interval begins.
        end_seconds: Where the last one ends; it may be cut short.
        rate_hz: Intervals a second.

    Returns:
        ceil((end_seconds - start_seconds) · rate_hz) texts; empty where nothing is said.
    """
    intervals = max(math.ceil((end_seconds - start_seconds) * rate_hz - 1e-6), 0)
    words: list[list[str]] = [[] for _ in range(intervals)]
    for cue in cues:
        untimed = math.isinf(cue.end_seconds)
        first, last = (
            (start_seconds, end_seconds) if untimed else (cue.start_seconds, cue.end_seconds)
        )
        spoken = cue.text.split()
        for i, word in enumerate(spoken):
            seconds = first + (i + 0.5) / len(spoken) * (last - first)
            if start_seconds <= seconds < end_seconds:
                words[min(int((seconds - start_seconds) * rate_hz), intervals - 1)].append(word)
    return [" ".join(spoken) for spoken in words]


def _blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each line of timing, and the lines up to an empty one or to the next cue."""
    timing: str | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        if "-->" in line:
            if timing is not None:
                # without an empty line between them, the next cue's number stands above its timing
                yield timing, lines[:-1] if lines and lines[-1].strip().isdigit() else lines
            timing, lines = line, []
        elif timing is not None and line:
            lines.append(line)
        elif timing is not None:
            yield timing, lines
            timing, lines = None, []
    if timing is not None:
        yield timing, lines


def _stretches(start: float, end: float, text: str) -> list[Cue]:
    """The cue, cut where a time stands among its words."""
    inner = list(_INNER_TIME.finditer(text))
    times = [start, *(min(max(_seconds(found, 1), start), end) for found in inner), end]
    bounds = zip([0, *(found.end() for found in inner)], [*(f.start() for f in inner), len(text)])
    parts = [_plain(text[first:last]) for first, last in bounds]
    return [
        Cue(first, max(first, last), words)
        for first, last, words in zip(times, times[1:], parts)
        if words
    ]


def _seconds(found: re.Match[str], group: int) -> float:
    hours, minutes, seconds, fraction = found.group(group, group + 1, group + 2, group + 3)
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction or 0}")


def _plain(text: str) -> str:
    """The words alone: without tags, with entities resolved."""
    bare = _TAG.sub("", _INNER_TIME.sub("", text))
    return " ".join(html.unescape(bare).split())


def _decode(data: bytes, path: str) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", "replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp1252", "replace")  # what older editors wrote
    if "\0" in text:
        raise DataError(f"{path}: not a text; expected WebVTT, SubRip or plain text")
    return text.replace("\r\n", "\n").replace("\r", "\n")
