"""Timelines as other programs read them: tables, JSON, chapters of players, and ELAN's files."""

import json
from collections.abc import Callable
from html import escape
from os.path import relpath
from pathlib import Path
from typing import Any

import numpy as np

from raymc.errors import ConfigError
from raymc.evaluation.prediction_files import write_workbook
from raymc.evaluation.timeline import Timeline
from raymc.terminal import one_line

_ANY_TYPE = "application/octet-stream"  # of media whose suffix pympi doesn't know


def timeline_writer(out: Path) -> Callable[[Timeline, Path], None] | None:
    """Return what writes the kind of file that a name asks for; None for a page.

    Raises:
        ConfigError: Its suffix is not known.
    """
    suffix = out.suffix.lower()
    if suffix in (".html", ".htm"):
        return None
    if suffix not in _WRITERS:
        raise ConfigError(f"{out}: timelines are written as .html, {', '.join(_WRITERS)}")
    return _WRITERS[suffix]


def _write_csv(timeline: Timeline, out: Path) -> None:
    frame = timeline.segments
    frame.insert(0, "path", timeline.path)
    frame.to_csv(out, index=False, float_format="%.3f", encoding="utf-8")


def _write_excel(timeline: Timeline, out: Path) -> None:
    segments = timeline.segments
    segments.insert(0, "path", timeline.path)
    write_workbook({"segments": [segments], "windows": [timeline.windows]}, out)


def _write_json(timeline: Timeline, out: Path) -> None:
    out.write_text(json.dumps(as_json(timeline), ensure_ascii=False, allow_nan=False, indent=1))


def as_json(timeline: Timeline, *, windows: bool = True) -> dict[str, Any]:
    """Return a timeline as plain JSON values; `kind` says what its values are."""
    values = timeline.values(timeline.scores)
    return {
        "video": timeline.path,
        "seconds": round(timeline.seconds, 3),
        "window_seconds": timeline.window_seconds,
        "stride_seconds": timeline.stride_seconds,
        "kind": timeline.kind,
        "segments": [
            {
                "label": one.label,
                "start": round(one.start, 3),
                "end": round(one.end, 3),
                "value": round(one.value, 4),
                "peak": round(one.peak, 3),
            }
            for one in timeline.all_segments
        ],
        "labels": [
            {
                "label": name,
                "value": round(float(highest), 4),
                "threshold": None if np.isnan(enter) else round(float(enter), 4),
            }
            for name, highest, enter in zip(timeline.labels, values.max(axis=0), timeline.enter)
        ],
        "windows": [
            {
                "start": round(float(start), 3),
                "end": round(float(end), 3),
                "values": [round(float(value), 4) for value in row],
            }
            for start, end, row in zip(timeline.starts, timeline.ends, values)
            if windows
        ],
        "failures": list(timeline.failures),
    }


def _write_vtt(timeline: Timeline, out: Path) -> None:
    """Write a cue for each segment; escaped as WebVTT wants it, which also keeps `-->` apart."""
    lines = ["WEBVTT", ""]
    for one in timeline.all_segments:
        text = escape(one_line(one.label), quote=False)
        lines += [f"{_clock(one.start)} --> {_clock(one.end)}", text, ""]
    out.write_text("\n".join(lines), encoding="utf-8")


def _clock(seconds: float) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}.{milliseconds % 1000:03}"


def _write_eaf(timeline: Timeline, out: Path) -> None:
    """Write an annotation for each segment, in a tier for each label."""
    import pympi

    eaf = pympi.Eaf(author="raymc")
    eaf.remove_tier("default")
    kind = eaf.MIMES.get(Path(timeline.path).suffix.lower().removeprefix("."), _ANY_TYPE)
    address, relative = addresses_of(timeline.path, out)
    eaf.add_linked_file(address, relpath=relative and f"./{relative}", mimetype=kind)
    for name in timeline.labels:
        eaf.add_tier(one_line(name))
    for one in timeline.all_segments:
        name, start, end = one_line(one.label), round(one.start * 1000), round(one.end * 1000)
        eaf.add_annotation(name, start, end, value=name)
    eaf.to_file(str(out))


def addresses_of(video: str, out: Path) -> tuple[str, str | None]:
    """Return a video's address, and its path from the folder of a file if it is local."""
    if "://" in video:
        return video, None
    there = Path(video).absolute()
    return there.as_uri(), relpath(there, out.absolute().parent)


_WRITERS: dict[str, Callable[[Timeline, Path], None]] = {
    ".vtt": _write_vtt,
    ".eaf": _write_eaf,
    ".csv": _write_csv,
    ".xlsx": _write_excel,
    ".json": _write_json,
}
