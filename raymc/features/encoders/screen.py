"""Words on the screen, and when: PP-OCR by RapidOCR, whose weights come in a package.

A picture is read only if it differs from the last one that was read, as slides stay for long.

Axes: T frames, H height, W width.
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from raymc.features.changes import repeated_frames
from raymc.features.clips import Picture
from raymc.features.encoders.packaged import RAPIDOCR, weights_folder
from raymc.features.encoders.weights import digest_of_files
from raymc.features.transcripts import Cue

_SIDE = 640
_FIND_SIDE = 480  # to which pictures are scaled to find lines; larger finds no more, and is slower
_SAME_WORD, _LONG_WORD = 0.8, 5  # similarity from which on two readings of long words are of one

Line = tuple[str, float]  # as read, and the reader's confidence in [0, 1]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScreenReader:
    """Reads the lines of text in frames; `rate_hz` is the number of frames a second."""

    rate_hz: float
    lines_in: Callable[[UInt8[np.ndarray, "H W 3"]], list[Line]] = field(repr=False)
    folder: Path = field(repr=False)
    name: str = RAPIDOCR
    license: str = "Apache-2.0"
    has_weights: bool = True

    @property
    def picture(self) -> Picture:
        """The frames it wants: the whole picture in its own shape, with black margins."""
        return Picture(height=_SIDE, width=_SIDE, fits=True)

    def digest(self) -> str:
        """Return the SHA-256 of the models' files, in hex."""
        return digest_of_files(self.folder.glob("*.onnx"))

    def read(self, frames: UInt8[np.ndarray, "T H W 3"]) -> list[Cue]:
        """Return each line that is shown, from the first to after the last of its frames.

        Times are from the first frame's, in seconds.
        """
        frames = _without_margins(frames)
        return shown_lines(self._lines_by_frame(frames), self.rate_hz)

    def _lines_by_frame(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Iterator[list[Line]]:
        lines: list[Line] = []
        for number, shown in enumerate(repeated_frames(frames)):
            if shown == number:
                lines = self.lines_in(frames[number])
            yield lines


def screen_reader(*, fps: float) -> ScreenReader:
    """Load the reader, which runs on the CPU.

    Raises:
        ResourceError: A package is not installed.
    """
    folder = weights_folder(RAPIDOCR, "models")
    from rapidocr import RapidOCR

    runtime = "EngineConfig.onnxruntime"
    engine: Any = RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.model_root_dir": str(folder),
            "Global.use_cls": False,
            "Det.limit_type": "max",
            "Det.limit_side_len": _FIND_SIDE,
            f"{runtime}.intra_op_num_threads": 1,  # as other encoders: the same bits everywhere
            f"{runtime}.inter_op_num_threads": 1,
        }
    )

    def lines_in(frame: UInt8[np.ndarray, "H W 3"]) -> list[Line]:
        found = engine(frame[:, :, ::-1])
        texts = [unicodedata.normalize("NFKC", text).strip() for text in found.txts or ()]
        return [(text, score) for text, score in zip(texts, found.scores or ()) if text]

    return ScreenReader(rate_hz=fps, lines_in=lines_in, folder=folder)


def shown_lines(frames: Iterator[list[Line]], rate_hz: float) -> list[Cue]:
    """Join the readings of one line in frames that follow each other.

    Of slightly different readings, the reader's surest counts.
    """
    cues: list[Cue] = []
    shown: list[tuple[str, float, float]] = []  # text, confidence, since when
    seconds = 0.0
    for number, lines in enumerate(frames):
        seconds = number / rate_hz
        still: list[tuple[str, float, float]] = []
        left = list(lines)
        for text, score, since in shown:
            again = next((line for line in left if _is_same(line[0], text)), None)
            if again is None:
                cues.append(Cue(since, seconds, text))
                continue
            left.remove(again)
            best = max((text, score), again, key=lambda line: line[1])
            still.append((*best, since))
        shown = still + [(text, score, seconds) for text, score in left]
        seconds += 1 / rate_hz
    cues += [Cue(since, seconds, text) for text, _, since in shown]
    return sorted(cues, key=lambda cue: cue.start_seconds)


def lines_by_interval(cues: Sequence[Cue], seconds: float, rate_hz: float) -> list[str]:
    """Return the lines that are on the screen in each interval of 1/rate_hz seconds, each once."""
    intervals = max(int(np.ceil(seconds * rate_hz - 1e-6)), 0)
    texts: list[dict[str, None]] = [{} for _ in range(intervals)]
    for cue in cues:
        first = int(cue.start_seconds * rate_hz + 1e-6)
        end = int(np.ceil(cue.end_seconds * rate_hz - 1e-6))
        for interval in texts[first:end]:
            interval[cue.text] = None
    return [" ".join(lines) for lines in texts]


def _is_same(one: str, other: str) -> bool:
    """Whether two readings are of one line: word by word, where only long words may vary.

    `B is for ball` and `D is for ball` are not the same, nor are `3 + 4` and `3 + 5`.
    """
    words, others = one.casefold().split(), other.casefold().split()
    return len(words) == len(others) and all(map(_is_same_word, words, others))


def _is_same_word(one: str, other: str) -> bool:
    is_long = min(len(one), len(other)) >= _LONG_WORD
    return one == other or (is_long and SequenceMatcher(None, one, other).ratio() >= _SAME_WORD)


def _without_margins(frames: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T h w 3"]:
    """Cut off rows and columns that are black in all frames, which would only cost time."""
    lit = (frames > 0).any(axis=(0, 3))
    rows, columns = np.flatnonzero(lit.any(axis=-1)), np.flatnonzero(lit.any(axis=0))
    if len(rows) == 0:
        return frames[:, :1, :1]
    return frames[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
