"""Files of programs in which people code videos, as tables: ELAN, BORIS and Label Studio.

Each span of a video with codes becomes a row; codes of the same span are labels of one row.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from raymc.errors import DataError
from raymc.features.tables import Table

_BORIS_FILES = ("Media file name", "Media file path", "Media file")  # headings
Span = tuple[str, float | None, float | None, str]  # path, start and end in seconds, code


def read_eaf(data: bytes, where: str) -> Table:
    """Read the annotations of an ELAN file: the value of each is a label, or else its tier.

    Raises:
        DataError: It is no ELAN file, names no media, or has no annotation.
    """
    import pympi

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.eaf")
        file.write_bytes(data)
        try:
            eaf = pympi.Eaf(str(file), suppress_version_warning=True)
        except Exception as error:  # whatever a damaged file makes of it
            raise DataError(f"{where}: can't be read as an ELAN file; save it again") from error
    media = [
        unquote(one.get("RELATIVE_MEDIA_URL") or one.get("MEDIA_URL") or "")
        for one in eaf.media_descriptors
    ]
    if not any(media):
        raise DataError(f"{where}: names no media file; link the video in ELAN and save it again")
    path = next(filter(None, media)).removeprefix("file://").removeprefix("./")
    tiers = list(eaf.get_tier_names())
    spans: list[Span] = [
        (path, found[0] / 1000, found[1] / 1000, (found[2] or "").strip() or tier)
        for tier in tiers
        for found in eaf.get_annotation_data_for_tier(tier)
    ]
    return _table(spans, where, f"tiers {', '.join(tiers)}")


def is_boris(table: Table) -> bool:
    """Tell whether a table is one of events that BORIS exports."""
    names = set(table.names)
    return {"Behavior", "Behavior type"} <= names and bool(names & set(_BORIS_FILES))


def read_boris(table: Table) -> Table:
    """Read events of BORIS: aggregated ones, or each with its START and STOP.

    Raises:
        DataError: A time is no number, an event has no end, or no event has a length.
    """
    file = next(name for name in _BORIS_FILES if name in table.names)
    spans: list[Span] = []
    begun: dict[tuple[object, ...], float] = {}
    for place, row in zip(table.places, table.rows):
        where = f"{table.where}: {place}"
        path, name = str(row[file] or ""), str(row["Behavior"] or "")
        kind = str(row["Behavior type"] or "").upper()
        if "Start (s)" in row:
            start = _number(row["Start (s)"], where)
            end = start if kind == "POINT" else _number(row.get("Stop (s)"), where)
            spans.append((path, start, end, name))
            continue
        time, key = _number(row.get("Time"), where), (path, row.get("Subject"), name)
        if kind == "START":
            begun[key] = time
        elif kind == "STOP" and key in begun:
            spans.append((path, begun.pop(key), time, name))
        else:
            spans.append((path, time, time, name))
    if begun:
        path, _, name = next(iter(begun))
        raise DataError(f"{table.where}: '{name}' in {path} has a START, but no STOP; add it")
    return _table(spans, table.where, "events of BORIS")


def _number(value: object, where: str) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise DataError(f"{where}: {value!r} is no time in seconds") from None


def is_label_studio(rows: object) -> bool:
    """Tell whether the contents of a JSON file are tasks of Label Studio."""
    return (
        isinstance(rows, list)
        and bool(rows)
        and all(isinstance(row, dict) and "data" in row and "annotations" in row for row in rows)
    )


def read_label_studio(data: bytes, where: str) -> Table:
    """Read an export of Label Studio (JSON): choices, and labels of spans of time.

    Raises:
        DataError: A task names no file, or nothing is labelled.
    """
    spans: list[Span] = []
    unlabelled = 0
    for number, task in enumerate(json.loads(data), 1):
        path = next((x for x in map(_file, task["data"].values()) if x), None)
        if path is None:
            raise DataError(f"{where}: task {number} names no file in its data")
        done = [one for one in task["annotations"] if not one.get("was_cancelled")]
        found = [span for one in done for span in _results(one.get("result", ()), path)]
        spans += found
        unlabelled += not found
    notes = f"{unlabelled} tasks without labels are left out" if unlabelled else "Label Studio"
    return _table(spans, where, notes)


def _file(value: object) -> str | None:
    """Return the path in a task's value: a path, an address, or one of Label Studio's own."""
    if not isinstance(value, str) or "." not in value:
        return None
    local = parse_qs(urlsplit(value).query).get("d")
    return local[0] if local else value


def _results(results: Iterable[Mapping[str, Any]], path: str) -> Iterator[Span]:
    for result in results:
        value = result.get("value", {})
        kind = str(result.get("type", "")).lower()
        names = next((v for k, v in value.items() if k.lower() == kind and isinstance(v, list)), [])
        for name in names:
            if isinstance(name, str) and isinstance(value.get("start"), int | float):
                yield path, float(value["start"]), float(value["end"]), name
            elif isinstance(name, str) and kind in ("choices", "taxonomy", "labels"):
                yield path, None, None, name


def _table(spans: Iterable[Span], where: str, note: str) -> Table:
    """Join the codes of equal spans; those without length are left out."""
    labels: dict[tuple[str, float | None, float | None], dict[str, None]] = {}
    points = 0
    for path, start, end, name in spans:
        if start is not None and end is not None and end <= start:
            points += 1
            continue
        labels.setdefault((path, start, end), {})[name] = None
    if not labels:
        raise DataError(f"{where}: no span of a video has a label")
    rows = [
        {"path": path, "start_seconds": start, "end_seconds": end, "labels": list(names)}
        for (path, start, end), names in labels.items()
    ]
    notes = [note, *([f"{points} codes without length are left out"] if points else [])]
    places = tuple(f"clip {number}" for number in range(1, len(rows) + 1))
    return Table(where, tuple(rows[0]), tuple(rows), places, tuple(notes))
