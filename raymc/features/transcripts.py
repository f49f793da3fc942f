"""What is said in a video, and when: the timed text in files beside it, as words per interval.

Such files often have small errors, so a cue that can't be read is counted and left out. We parse
them ourselves: webvtt-py, pysubs2 and srt give scrolled words two or three times, and take a broken
timing for text, together with the cues around it.
"""

import html
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pyarrow import fs

from raymc.data.storage import open_address, reaching, read_bytes
from raymc.features.text_files import decode_text

SIDECARS = (".vtt", ".srt", ".txt")  # of one language, the first that exists is read
# name.en-US.vtt, as yt-dlp writes, or name.en.forced.srt
_LANGUAGE = re.compile(
    r"\.([a-z]{2,3}(?:-[a-z0-9]{1,8})*)(?:\.(?:cc|sdh|hi|forced|default|auto))?", re.IGNORECASE
)
_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d+))?"
_TIMING = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_STRICT_TIMING = re.compile(r"\s*(\d+:)?\d\d:\d\d[.,]\d+\s*-->\s*(\d+:)?\d\d:\d\d[.,]\d+.*")
# what is meant as a timing: nothing at all beside the arrow, or something like a time
_MEANT = re.compile(r"\s*-->\s*|\s*\d+:[\d:.,]*\s*-->.*|\s*[\d:.,\w]*\s*-->\s*\d+:[\d:.,]+\s*")
_NOT_SAID = re.compile(r"(NOTE|STYLE|REGION)\b")  # blocks of WebVTT that are no text
_INNER_TIME = re.compile(rf"<{_TIME}>")
_TOUCHING_SECONDS = 0.1  # a scrolled line is shown again within this time
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+")
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


def read_sidecar(
    media: str, *, language: str = "", duration_seconds: float | None = None
) -> Transcript | None:
    """Read the text file beside a media file that `rank_sidecars` prefers; None if there is none.

    `duration_seconds` is the length of the media, over which an untimed text is spread; see
    `parse_plain`.
    """
    filesystem, inner = open_address(media)
    folder, slash, name = inner.rpartition("/")
    with reaching(media):
        for file in rank_sidecars(name, _names_in(filesystem, folder or slash), language):
            info = filesystem.get_file_info(f"{folder}{slash}{file}")
            if info.type == fs.FileType.File:
                data = read_bytes(filesystem, info.path)
                return parse_transcript(data, info.path, duration_seconds=duration_seconds)
    return None


def find_sidecars(media: Iterable[str], language: str = "") -> dict[str, list[str]]:
    """Return the names of the text files beside each media file, the preferred one first."""
    inside: dict[str, list[str]] = {}
    found: dict[str, list[str]] = {}
    for path in media:
        filesystem, inner = open_address(path)
        folder, slash, name = inner.rpartition("/")
        place = path[: len(path) - len(name)]
        if place not in inside:
            with reaching(path):
                inside[place] = _names_in(filesystem, folder or slash)
        found[path] = rank_sidecars(name, inside[place], language)
    return found


def rank_sidecars(media: str, files: Iterable[str], language: str = "") -> list[str]:
    """Return those names of files that are texts of a media file, the preferred one first.

    A text has the name of the media with another suffix, in any case, or one more, and maybe a
    language before it. A file without a language comes first, then English, then others; timed
    ones before untimed ones. If a language such as `de` is asked for, files of others are left out.

    Args:
        media: Its name, without a folder.
        files: The names in its folder.
        language: What is asked for; empty: any.
    """
    media = unicodedata.normalize("NFC", media)  # a Mac writes ü as u and two dots
    stem, names = os.path.splitext(media)[0], [*files]
    # lesson.de.vtt is the text of lesson.de.mp4 where that exists, not of lesson.mp4
    others = {os.path.splitext(file)[0] for file in names if not _is_sidecar(file)} - {stem}
    ranked = []
    for file in names:
        base, suffix = os.path.splitext(unicodedata.normalize("NFC", file))
        tag = _LANGUAGE.fullmatch(base[len(stem) :])
        if not _is_sidecar(file) or not base.startswith(stem) or base in others:
            continue
        if base not in (stem, media) and tag is None:
            continue
        spoken = tag[1].lower() if tag and base != media else ""
        is_asked = spoken == language.lower() or spoken.startswith(f"{language.lower()}-")
        if language and spoken and not is_asked:
            continue
        place = 0 if (language and is_asked and spoken) or (not language and not spoken) else 1
        english = not (spoken == "en" or spoken.startswith("en-"))
        kind = SIDECARS.index(suffix.lower())
        ranked.append(((kind == 2, place, english, len(base), base.lower(), kind), file))
    return [file for _, file in sorted(ranked)]


def _is_sidecar(file: str) -> bool:
    return file.lower().endswith(SIDECARS)


def _names_in(filesystem: fs.FileSystem, folder: str) -> list[str]:
    if isinstance(filesystem, fs.LocalFileSystem):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    infos = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return sorted(info.base_name for info in infos)


def parse_transcript(
    data: bytes, path: str, *, duration_seconds: float | None = None
) -> Transcript:
    """Read the contents of a .vtt, .srt or .txt file, as the path's ending says."""
    text, _ = decode_text(data, path, expected="WebVTT, SubRip or plain text")
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
    times of their own (`<00:00:01.200>`), as machines write them, become one cue a stretch. Lines
    that captions repeat from cue to cue, to scroll, are taken once.
    """
    timed: list[tuple[float, float, list[str]]] = []
    broken = 0
    for timing, lines in _blocks(text):
        found = _TIMING.fullmatch(timing)
        start, end = (_seconds(found, 1), _seconds(found, 5)) if found else (math.inf, 0.0)
        if end < start:
            broken += 1
        else:
            timed.append((start, end, lines))
    if not timed and not broken and text.strip() and not text.lstrip().startswith("WEBVTT"):
        broken = 1
    scrolls = _INNER_TIME.search(text) is not None or _rolls(timed)
    cues: list[Cue] = []
    shown, shown_until = list[str](), -math.inf
    for start, end, lines in timed:
        touches = scrolls and start <= shown_until + _TOUCHING_SECONDS
        fresh = _fresh(lines, shown) if touches else lines
        cues += _stretches(start, end, "\n".join(fresh))
        shown, shown_until = [_plain(line) for line in lines], end
    return tuple(sorted(cues, key=lambda cue: cue.start_seconds)), broken


def _rolls(timed: Sequence[tuple[float, float, Sequence[str]]]) -> bool:
    """Whether most cues that follow at once repeat what the cue before them ended with.

    Speakers repeat themselves too: a cue counts only if it adds to what it repeats, or is so short
    that nobody could read it.
    """
    followed, rolled, flashed = 0, 0, 0
    for (_, until, before), (start, end, lines) in pairwise(timed):
        shown = [text for text in map(_plain, before) if text]
        texts = [text for text in map(_plain, lines) if text]
        if not shown or not texts or start > until + _TOUCHING_SECONDS:
            continue
        followed += 1
        fresh = _fresh(texts, shown)
        if fresh != texts:
            flashed += not fresh and end - start <= _TOUCHING_SECONDS
            rolled += bool(fresh) or end - start <= _TOUCHING_SECONDS
    return 2 * rolled >= followed and (rolled > 1 or flashed > 0)


def _fresh(lines: Sequence[str], shown: Sequence[str]) -> list[str]:
    """Return the lines that were not shown; of one that has grown since, the new words."""
    fresh = [line for line in lines if _plain(line) not in shown]
    last = next((text for text in reversed(shown) if text), "")
    if last and fresh and fresh[0] == lines[0] and _plain(fresh[0]).startswith(f"{last} "):
        fresh[0] = _plain(fresh[0])[len(last) :]
    return fresh


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


def sentences_by_interval(cues: Iterable[Cue], seconds: float, rate_hz: float) -> list[str]:
    """The sentences that are said in each interval of 1/rate_hz seconds, whole.

    A sentence belongs to the interval in which its middle lies, because half of one means
    something else: `it makes the sound` may be about letters or cows. A cue's time is shared by its
    words.

    Args:
        cues: What is said, with stops between sentences; ends must be finite.
        seconds: Where the last interval ends; it may be cut short.
        rate_hz: Intervals a second.

    Returns:
        ceil(seconds · rate_hz) texts; empty where nothing is said.
    """
    intervals = max(math.ceil(seconds * rate_hz - 1e-6), 0)
    said: list[list[str]] = [[] for _ in range(intervals)]
    for cue in cues:
        sentences = _SENTENCE_END.split(cue.text)
        words = [len(sentence.split()) for sentence in sentences]
        before = 0
        for sentence, count in zip(sentences, words):
            share = (before + count / 2) / sum(words)
            middle = cue.start_seconds + share * (cue.end_seconds - cue.start_seconds)
            before += count
            if 0 <= middle < seconds:
                said[min(int(middle * rate_hz), intervals - 1)].append(sentence)
    return [" ".join(sentences) for sentences in said]


def _blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each line of timing, and the lines up to the next cue, also those after empty lines."""
    is_vtt = text.lstrip().startswith("WEBVTT")
    timing: str | None = None
    said: list[str] = []
    number = ""  # alone in a block: that of the next cue, unless it has its own
    for block in re.split(r"\n\n+", text):
        waiting: list[str] = []  # lines of which it is not known yet to which cue they belong
        begins = True
        lines = block.strip("\n").split("\n")
        if number and not _is_timing(lines[0], [], begins):
            said.append(number)
        number = ""
        for line in lines:
            if not _is_timing(line, waiting, begins):
                waiting.append(line)
                continue
            if waiting and (waiting[-1].strip().isdigit() or (is_vtt and begins)):
                waiting.pop()  # the number or the name of this cue
            said += waiting
            if timing is not None:
                yield timing, said
            timing, said, waiting, begins = line, [], [], False
        if begins and len(waiting) == 1 and waiting[0].strip().isdigit():
            number = waiting[0]
        elif not (is_vtt and begins and _NOT_SAID.match(block)):
            said += [line for line in waiting if line]
    if timing is not None:
        yield timing, said


def _is_timing(line: str, above: Sequence[str], begins: bool) -> bool:
    """Whether a line is a timing, though maybe a broken one, and not a text with an arrow."""
    if "-->" not in line:
        return False
    in_text = above and not begins and not above[-1].strip().isdigit()
    if in_text:
        return _STRICT_TIMING.fullmatch(line) is not None
    return (_TIMING.fullmatch(line) or _MEANT.fullmatch(line)) is not None


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
