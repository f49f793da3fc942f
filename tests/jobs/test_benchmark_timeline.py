"""The benchmark of timelines: its lessons show what they say, and perfect segments score 100 %."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.bench.timeline import (
    LABELS,
    SAMPLE_RATE_HZ,
    Lesson,
    mean_ap,
    read_lessons,
    ways,
    write_lesson,
)
from raymc.errors import DataError
from raymc.evaluation.segments import TrueSegment
from raymc.evaluation.timeline import Timeline
from raymc.features.clips import Clip, ClipRequest, Picture
from raymc.features.media import read_clips
from raymc.features.sources import Source
from raymc.features.transcripts import read_sidecar
from raymc.formats.digit_sounds import draw_tones
from raymc.metrics.calibration import Calibration


def test_a_lesson_shows_and_sounds_as_it_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    lesson = write_lesson(tmp_path / "a.mp4", "test", draw_tones(0), rng, seconds=20.0)
    picture = Picture(height=32, width=32)
    request = ClipRequest(fps=10.0, picture=picture, sample_rate_hz=SAMPLE_RATE_HZ)
    (clip,) = read_clips(Source(path=lesson.path, id="a"), request)
    assert isinstance(clip, Clip)
    assert clip.frames is not None
    assert clip.waveform is not None
    bright = clip.frames.mean(axis=(1, 2, 3))
    loud = np.square(clip.waveform[: 800 * 200].reshape(200, 800)).mean(axis=1)  # 0.1 s each
    for what, values in (("shown", bright), ("heard", np.sqrt(loud))):
        inside = np.zeros(200, bool)
        for label, segments in lesson.truth.items():
            for one in segments if label.startswith(what) else ():
                inside[round(10 * one.start) : round(10 * one.end)] = True
        assert 0.2 < inside.mean() < 0.9
        middle = (values[inside].mean() + values[~inside].mean()) / 2
        assert (values[~inside] < middle).mean() > 0.95
        assert (values[inside] > middle).mean() > (0.95 if what == "shown" else 0.5)


def test_labels_fill_a_quarter_of_a_window() -> None:
    truth = {"a": [TrueSegment("v", 0.0, 0.6), TrueSegment("v", 1.9, 5.0)], "b": []}
    lesson = Lesson("v", truth)
    assert lesson.labels(0.0, 2.0) == ["a"]
    assert lesson.labels(0.2, 2.0) == ["a"]  # 0.4 and 0.1 of 1.8 seconds
    assert lesson.labels(0.4, 2.0) == []


def test_lessons_are_read_with_what_is_said_and_written(tmp_path: Path) -> None:
    (tmp_path / "train-0000.mp4").touch()
    told = {
        "path": "train-0000.mp4",
        "labels": ["counting"],
        "scenes": [
            {"start": 0.5, "end": 3.0, "label": "counting", "facts": {}},
            {"start": 3.0, "end": 5.0, "label": None, "facts": {}},
        ],
        "said": [{"start": 0.5, "end": 61.25, "text": "one, two"}],
        "written": [{"start": 0.0, "end": 1.0, "text": "2"}],
    }
    with pytest.raises(DataError, match=r"cues\.jsonl is missing: make the lessons with"):
        read_lessons(tmp_path, tmp_path / "links")
    (tmp_path / "cues.jsonl").write_text(json.dumps(told) + "\n")
    ((lesson,),) = read_lessons(tmp_path, tmp_path / "links").values()
    assert len(lesson.truth) == 18
    assert lesson.labels(0.0, 4.0) == ["counting"]
    assert lesson.labels(2.5, 6.5) == []
    text = read_sidecar(lesson.path)
    assert text is not None
    assert [(one.start_seconds, one.end_seconds, one.text) for one in text.cues] == [
        (0.0, 1.0, "2"),
        (0.5, 61.25, "one, two"),
    ]


def test_perfect_scores_are_perfect_segments() -> None:
    truth: dict[str, list[TrueSegment]] = {label: [] for label in LABELS}
    truth["shown_3"] = [TrueSegment("v", 2.0, 6.0), TrueSegment("v", 10.0, 14.0)]
    truth["heard_7"] = [TrueSegment("v", 4.0, 8.0)]
    starts = np.arange(0.0, 19.0)
    scores = np.full((19, len(LABELS)), -5.0, np.float32)
    for label, segments in truth.items():
        for one in segments:
            inside = (starts >= one.start) & (starts + 2 <= one.end)
            scores[inside, LABELS.index(label)] = 5.0
    timeline = Timeline(
        path="v",
        labels=LABELS,
        window_seconds=2.0,
        stride_seconds=1.0,
        chosen="",
        starts=starts,
        ends=starts + 2,
        scores=scores,
        embeddings=np.zeros((19, 1), np.float32),
        alone={},
        calibration=Calibration(1.0, (0.0,) * len(LABELS)),
        thresholds=np.zeros(len(LABELS), np.float32),
    )
    lesson = Lesson("v", truth)
    for name, changed in ways([timeline]).items():
        assert mean_ap(changed, [lesson], 0.5) == 1.0, name
    wrong = replace(timeline, scores=-scores)
    assert mean_ap([wrong], [lesson], 0.5) < 0.5
    silent = replace(timeline, thresholds=np.full(len(LABELS), np.inf, np.float32))
    assert mean_ap([silent], [lesson], 0.5) == pytest.approx(0)
