"""Files of programs in which people code videos, as tables: ELAN, BORIS and Label Studio.

Each span of a video with codes becomes a row; codes of the same span are labels of one row.
"""

import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from raymc.errors import DataError
from raymc.features.tables import Table

_BORIS_FILES = ("Media file name", "Media file path", "Media file")  # headings of its versions
_BORIS_KINDS = ("Behavior type", "Status")
_FRAME_RATES = ("fps", "frame_rate", "frameRate", "framerate")
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
    # a recording of its own for the sound may be listed first
    media = sorted(eaf.media_descriptors, key=lambda one: "video" not in one.get("MIME_TYPE", ""))
    named = [(one.get("RELATIVE_MEDIA_URL") or one.get("MEDIA_URL"), one) for one in media]
    url, chosen = next(((url, one) for url, one in named if url), ("", {}))
    if not url:
        raise DataError(f"{where}: names no media file; link the video in ELAN and save it again")
    path = unquote(url).removeprefix("file://").removeprefix("./")
    skipped = int(chosen.get("TIME_ORIGIN") or 0)  # milliseconds cut off the beginning
    tiers = list(eaf.get_tier_names())
    found = [(tier, *one) for tier in tiers for one in eaf.get_annotation_data_for_tier(tier)]
    spans: list[Span] = [
        (path, (start + skipped) / 1000, (end + skipped) / 1000, (value or "").strip() or tier)
        for tier, start, end, value, *_ in found
        if start is not None and end is not None
    ]
    notes = [f"tiers {', '.join(tiers)}"]
    if len(media) > 1:
        notes.append(f"the first of {len(media)} media, {path}")
    if len(spans) < len(found):
        notes.append(f"annotations without times are left out ({len(found) - len(spans)})")
    return _table(spans, where, notes)


def is_boris(table: Table) -> bool:
    """Tell whether a table is one of events that BORIS exports."""
    names = set(table.names)
    return "Behavior" in names and bool(names & set(_BORIS_KINDS)) and bool(names & {*_BORIS_FILES})


def read_boris(table: Table) -> Table:
    """Read events of BORIS: aggregated ones, or each with its START and STOP.

    An observation may join several files. Its times then count from the beginning of the first,
    and begin at its time offset; BORIS lists the files and their lengths in each row.

    Raises:
        DataError: A time is no number, an event has no end or no file, or none has a length.
    """
    kinds = next(name for name in _BORIS_KINDS if name in table.names)
    spans: list[Span] = []
    begun: dict[tuple[object, ...], tuple[float, str]] = {}
    joined = _joined_files(table)
    for place, row in zip(table.places, table.rows):
        where = f"{table.where}: {place}"
        files = _boris_files(row, where, joined)
        name, kind = str(row["Behavior"] or ""), str(row[kinds] or "").upper()
        offset = _number(row.get("Time offset (s)") or 0, where)
        if "Start (s)" in row:
            start = _number(row["Start (s)"], where) - offset
            end = start if kind == "POINT" else _number(row.get("Stop (s)"), where) - offset
        else:
            end = start = _number(row.get("Time"), where) - offset
            modifiers = [value for head, value in row.items() if head.startswith("Modifier")]
            key = (row.get("Observation id"), row.get("Subject"), name, *modifiers)
            if kind == "START":
                begun[key] = start, place
                continue
            if kind == "STOP" and key in begun:
                start, _ = begun.pop(key)
        spans += _in_files(files, start, end, name, where)
    if begun:
        (_, _, name, *_), (_, place) = next(iter(begun.items()))
        raise DataError(f"{table.where}: {place}: '{name}' has a START, but no STOP; add it")
    return _table(spans, table.where, ["events of BORIS"])


def _joined_files(table: Table) -> set[object]:
    """Return the observations that have events in several files."""
    file = next(name for name in _BORIS_FILES if name in table.names)
    pairs = {(row.get("Observation id"), row[file]) for row in table.rows}
    seen: set[object] = set()
    return {name for name, _ in pairs if name in seen or seen.add(name)}


def _boris_files(
    row: Mapping[str, Any], where: str, joined: Set[object]
) -> list[tuple[str, float]]:
    """Return the files of a row's observation in the first player, and their seconds."""
    names, lengths = (str(row.get(one) or "") for one in ("Source", "Media duration (s)"))
    if names.startswith("player #1:") and lengths:
        files = names.partition("|")[0].removeprefix("player #1:").split(";")
        seconds = [_number(one, where) for one in lengths.partition("|")[0].split(";")]
        if len(files) == len(seconds):
            return list(zip(files, seconds))
    if row.get("Observation id") in joined:
        raise DataError(
            f"{where}: its observation has several files, and the table not their lengths; export "
            "the events with BORIS 8 or later"
        )
    file = next(str(row[name] or "") for name in _BORIS_FILES if name in row)
    if file in ("", "NA", "LIVE", "Not found"):
        raise DataError(f"{where}: names no media file; leave live observations out of the export")
    return [(file, math.inf)]


def _in_files(
    files: Sequence[tuple[str, float]], start: float, end: float, name: str, where: str
) -> Iterator[Span]:
    """Yield the parts of a span in each of several files that were played in a row."""
    if end <= start:
        yield files[0][0], start, end, name
        return
    begin, total = 0.0, sum(seconds for _, seconds in files)
    if start < 0 or start >= total:
        raise DataError(f"{where}: '{name}' begins outside of the media, at {start:g} s")
    for path, seconds in files:
        first, last = max(start - begin, 0.0), min(end - begin, seconds)
        if first < last:
            yield path, round(first, 3), round(last, 3), name
        begin += seconds


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
        DataError: A task names no file, its labels are frames without a rate, or nothing is
            labelled.
    """
    spans: list[Span] = []
    other: Counter[str] = Counter()
    unlabelled = 0
    for number, task in enumerate(json.loads(data), 1):
        place = f"{where}: task {number}"
        path = next((x for x in map(_file, task["data"].values()) if x), None)
        if path is None:
            raise DataError(f"{place} names no file in its data")
        done = [one for one in task["annotations"] if not one.get("was_cancelled")]
        results = [result for one in done for result in one.get("result", ())]
        found = [list(_labelled(result, path, task["data"], place)) for result in results]
        other.update(str(result.get("type")) for result, of in zip(results, found) if not of)
        spans += [span for of in found for span in of]
        unlabelled += not any(found)
    notes = ["Label Studio"]
    if unlabelled:
        notes.append(f"tasks without labels are left out ({unlabelled})")
    if other:
        told = ", ".join(f"{kind} {count}" for kind, count in other.most_common())
        notes.append(f"not read: {told}")
    return _table(spans, where, notes)


def _file(value: object) -> str | None:
    """Return the path in a task's value: a path, an address, or one of Label Studio's own."""
    if not isinstance(value, str) or "." not in value:
        return None
    local = parse_qs(urlsplit(value).query).get("d")
    return local[0] if local else value


def _labelled(
    result: Mapping[str, Any], path: str, data: Mapping[str, Any], where: str
) -> Iterator[Span]:
    """Yield the labels of a result; none if it is of another kind, such as boxes."""
    value, kind = result.get("value", {}), str(result.get("type", "")).lower()
    names = next((v for k, v in value.items() if k.lower() == kind and isinstance(v, list)), [])
    for name in names:
        if isinstance(name, list):  # of a taxonomy: the path to a choice
            name = " > ".join(map(str, name))
        if not isinstance(name, str):
            continue
        if kind == "timelinelabels":
            rate = next((data[key] for key in _FRAME_RATES if key in data), None)
            if rate is None:
                raise DataError(
                    f"{where}: {name!r} is from one frame to another, and the file doesn't say how "
                    'many there are in a second: add "fps" to the task\'s data'
                )
            for part in value.get("ranges", ()):  # from the first frame, 1, to the last
                first, last = (_number(part[key], where) for key in ("start", "end"))
                seconds = _number(rate, where)
                yield path, round((first - 1) / seconds, 3), round(last / seconds, 3), name
        elif isinstance(value.get("start"), int | float):
            yield path, float(value["start"]), float(value["end"]), name
        elif kind in ("choices", "taxonomy", "labels"):
            yield path, None, None, name


def _table(spans: Iterable[Span], where: str, notes: Sequence[str]) -> Table:
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
    if points:
        notes = [*notes, f"codes without length are left out ({points})"]
    places = tuple(f"clip {number}" for number in range(1, len(rows) + 1))
    return Table(where, tuple(rows[0]), tuple(rows), places, tuple(notes))
