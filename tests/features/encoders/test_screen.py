"""Words on the screen: which lines are the same, and from when to when they are there."""

from pathlib import Path

import numpy as np
import pytest

from raymc.features.clips import Picture
from raymc.features.encoders.screen import Line, ScreenReader, lines_by_interval, shown_lines
from raymc.features.transcripts import Cue


def read(*frames: list[Line] | str, rate_hz: float = 2.0) -> list[Cue]:
    lines = [[(frame, 0.9)] if isinstance(frame, str) else frame for frame in frames]
    return shown_lines(iter(lines), rate_hz)


def test_a_line_is_one_cue_for_as_long_as_it_stays() -> None:
    found = read("B is for ball", "B is for ball", "D is for ball", [], "D is for ball")
    assert found == [
        Cue(0.0, 1.0, "B is for ball"),
        Cue(1.0, 1.5, "D is for ball"),
        Cue(2.0, 2.5, "D is for ball"),
    ]


def test_the_surest_reading_of_a_line_counts() -> None:
    readings: list[list[Line]] = [
        [("count the appies", 0.7)],
        [("Count the apples", 0.95)],
        [("count the apqles", 0.8)],
    ]
    assert read(*readings) == [Cue(0.0, 1.5, "Count the apples")]


@pytest.mark.parametrize(
    ("one", "other"), [("3 + 4 = 7", "3 + 5 = 8"), ("cat", "hat"), ("a cat", "cat"), ("12", "123")]
)
def test_short_words_and_numbers_must_be_equal(one: str, other: str) -> None:
    assert [cue.text for cue in read(one, other)] == [one, other]


def test_lines_side_by_side_are_told_apart() -> None:
    both: list[Line] = [("cat", 0.9), ("cat", 0.9)]
    assert read(both, [("cat", 0.9)]) == [Cue(0.0, 0.5, "cat"), Cue(0.0, 1.0, "cat")]


def test_an_interval_has_each_line_that_is_on_the_screen_in_it_once() -> None:
    cues = [Cue(0.0, 5.0, "one"), Cue(2.0, 12.0, "two"), Cue(3.0, 4.0, "one")]
    assert lines_by_interval(cues, 12.0, 0.2) == ["one two", "two", "two"]
    assert lines_by_interval([], 5.1, 0.2) == ["", ""]
    assert lines_by_interval(cues, 0.0, 0.2) == []


def test_only_changed_pictures_are_read_and_black_margins_are_not(tmp_path: Path) -> None:
    seen: list[np.ndarray] = []

    def lines_in(frame: np.ndarray) -> list[Line]:
        seen.append(frame)
        return [(f"slide {frame[0, 0, 0]}", 0.9)]

    reader = ScreenReader(rate_hz=1.0, lines_in=lines_in, folder=tmp_path)
    frames = np.zeros((5, 40, 40, 3), np.uint8)
    for frame, grey in zip(frames, (100, 103, 200, 200, 100)):
        frame[10:30, 5:35] = grey
    assert [(cue.start_seconds, cue.end_seconds) for cue in reader.read(frames)] == [
        (0.0, 2.0),
        (2.0, 4.0),
        (4.0, 5.0),
    ]
    assert [frame.shape for frame in seen] == [(20, 30, 3)] * 3
    assert reader.read(frames[:0]) == []
    assert reader.picture == Picture(height=640, width=640, fits=True)
