"""The page of a timeline: the video, a track for each label, and what speaks for a prediction.

The page is a function of a timeline and the video's address, so that a file and a service show the
same one.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jaxtyping import Float
from markupsafe import Markup, escape

from raymc.evaluation.neighbours import TrainingClips
from raymc.evaluation.timeline import Segment, Timeline, clock, timeline_lines
from raymc.evaluation.timeline_files import addresses_of
from raymc.metrics.text import percent
from raymc.report.page import render_template
from raymc.terminal import visible

EMBED_BYTES = 16 << 20  # a video up to this size is part of the page
STEPS = 600  # of a curve: what a screen can show
MOST_LABELS = 6  # of a moment
NEAREST = 3  # training clips
_KINDS = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm",
    ".mp3": "audio/mpeg", ".m4a": "audio/mp4", ".wav": "audio/wav",
}  # fmt: skip


@dataclass(frozen=True)
class _Track:
    """A label over time: its curve as an SVG path in a box of 1000 × 100, and its segments."""

    label: str
    curve: str
    line: float | None
    told: str
    segments: Sequence[dict[str, Any]]


def timeline_page(
    timeline: Timeline,
    address: str,
    *,
    clips: TrainingClips | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Return a timeline as one HTML page, which loads the video and nothing else.

    Args:
        timeline: What to show.
        address: Of the video, for the page: relative, of the same server, or `data:`.
        clips: Those of training, of which the nearest to each moment are shown; None: of none.
        notes: What else is to be said at the top, such as why there are no clips of training.
    """
    tracks = _tracks(timeline)
    failures = [f"Not read: {failure}." for failure in timeline.failures]
    lines = timeline_lines(timeline)
    return render_template(
        "timeline.html",
        page={
            "title": Path(timeline.path).name,
            "summary": [f"{line[0].upper()}{line[1:]}." for line in [lines[1], lines[0]]]
            + [f"{line[0].upper()}{line[1:]}." for line in lines[2:]]
            + [*failures, *notes],
            "about": f"{timeline.path} · written by `raymc timeline`",
        },
        address=Markup(escape(address)),  # as it is, however long
        found=[track for track in tracks if track.segments],
        others=[track for track in tracks if not track.segments],
        ticks=_ticks(timeline.seconds),
        segments=[_segment(timeline, one) for one in timeline.all_segments],
        kind=timeline.kind,
        moments=_moments(timeline, clips),
    )


def page_address(video: str, out: Path) -> str:
    """Return the address by which a page at `out` shows a local video that browsers play.

    A small video becomes part of the page; a larger one is named by its path from the page.
    """
    file = Path(video)
    if file.stat().st_size <= EMBED_BYTES:
        kind = _KINDS.get(file.suffix.lower(), "video/mp4")
        return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
    _, relative = addresses_of(video, out)
    assert relative is not None
    return f"./{quote(relative)}"


def _tracks(timeline: Timeline) -> list[_Track]:
    starts, ends, scores = timeline.pieces
    values = timeline.values(scores)
    heights = _heights(timeline, values)
    lines = _heights(timeline, timeline.enter[None])[0]
    tracks = []
    for c, label in enumerate(timeline.labels):
        best = int(values[:, c].argmax())
        told = f"highest {_text(timeline, float(values[best, c]))} at {clock(float(starts[best]))}"
        tracks.append(
            _Track(
                label,
                _curve(starts, ends, heights[:, c], timeline.seconds),
                None if np.isnan(lines[c]) else 100 - 100 * float(lines[c]),
                told,
                [_segment(timeline, one) for one in timeline.all_segments if one.label == label],
            )
        )
    return tracks


def _heights(timeline: Timeline, values: Float[np.ndarray, "P C"]) -> Float[np.ndarray, "P C"]:
    """Return values between 0 and 1: probabilities, or scores between their extremes."""
    if timeline.kind == "probability":
        return values
    low, high = float(timeline.scores.min()), float(timeline.scores.max())
    return np.clip((values - low) / max(high - low, 1e-9), 0, 1)


def _curve(
    starts: Float[np.ndarray, " P"],
    ends: Float[np.ndarray, " P"],
    heights: Float[np.ndarray, " P"],
    seconds: float,
) -> str:
    """Draw a step for each piece, or the highest of several where there are more than `STEPS`."""
    group = math.ceil(len(starts) / STEPS)
    parts, last = [], -1.0
    for low in range(0, len(starts), group):
        high = min(low + group, len(starts))
        left, right = 1000 * starts[low] / seconds, 1000 * ends[high - 1] / seconds
        top = 100 - 100 * float(heights[low:high].max())
        if starts[low] - last > 1e-6:  # after a gap
            parts.append(("V100" if parts else "") + f"M{left:.1f} 100")
        parts.append(f"V{top:.1f}H{right:.1f}")
        last = float(ends[high - 1])
    return "".join(parts) + "V100"


def _segment(timeline: Timeline, one: Segment) -> dict[str, Any]:
    middle = (timeline.starts + timeline.ends) / 2
    return {
        "label": one.label,
        "start": round(one.start, 3),
        "left": 100 * one.start / timeline.seconds,
        "width": 100 * (one.end - one.start) / timeline.seconds,
        "from": clock(one.start),
        "to": clock(one.end),
        "value": _text(timeline, one.value),
        "key": round(one.value, 6),
        "moment": int(np.abs(middle - one.peak).argmin()),
    }


def _text(timeline: Timeline, value: float) -> str:
    if np.isnan(value):
        return "–"
    return percent(float(value), 0) if timeline.kind == "probability" else f"{value:.2f}"


def _ticks(seconds: float) -> list[dict[str, Any]]:
    """Return at most six round moments of a video."""
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
    step = next((x for x in steps if seconds / x <= 6), 14_400)
    return [
        {"left": 100 * at / seconds, "text": clock(float(at))}
        for at in range(0, math.ceil(0.94 * seconds), step)
    ]


def _moments(timeline: Timeline, clips: TrainingClips | None) -> dict[str, Any]:
    """Return, for each window, its likeliest labels and the nearest training clips.

    Labels and clips are named by their number, to keep the page small.
    """
    values = timeline.values(timeline.scores)
    alone = [timeline.values(scores) for scores in timeline.alone.values()]
    order = np.argsort(-values, axis=1, kind="stable")[:, :MOST_LABELS]
    windows = []
    for w, best in enumerate(order):
        rows = [
            [int(c), *(_text(timeline, float(x[w, c])) for x in (values, *alone))] for c in best
        ]
        times = [round(float(timeline.starts[w]), 3), round(float(timeline.ends[w]), 3)]
        windows.append({"time": times, "labels": rows, "near": []})
    shown: dict[int, int] = {}
    if clips is not None:
        for window, numbers, cosines in zip(windows, *clips.nearest(timeline.embeddings, NEAREST)):
            for number, cosine in zip(numbers.tolist(), cosines.tolist()):
                window["near"].append([shown.setdefault(number, len(shown)), f"{cosine:.2f}"])
    return {
        "labels": [visible(name) for name in timeline.labels],
        "modalities": list(timeline.alone),
        "windows": windows,
        "clips": [] if clips is None else [_clip(clips, number) for number in shown],
    }


def _clip(clips: TrainingClips, number: int) -> dict[str, str]:
    row = clips.clips.slice(number, 1).to_pylist()[0]
    start, end = row.get("start_seconds"), row.get("end_seconds")
    times = "" if start is None or end is None else f"{clock(start)} to {clock(end)}"
    return {
        "id": visible(row["id"]),
        "labels": visible(", ".join(row["labels"]) or "no label"),
        "place": visible(" ".join(filter(None, [row.get("path"), times]))),
    }
