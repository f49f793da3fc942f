"""Files of programs in which people code videos, as tables: ELAN, BORIS and Label Studio.

Each span of a video with codes becomes a row, with the codes of all spans that nearly cover it.
"""

import json
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from raymc.data.shards.tokens import PLACE_COLUMNS
from raymc.errors import DataError
from raymc.features.clips import is_media
from raymc.features.tables import Table

ELAN, BORIS, LABEL_STUDIO = "ELAN", "BORIS", "Label Studio"
_BORIS_FILES = ("Media file name", "Media file path", "Media file")  # headings of its versions
_BORIS_KINDS = ("Behavior type", "Status")
_FRAME_RATES = ("fps", "frame_rate", "frameRate", "framerate")
_UPLOAD = re.compile(r"/data/upload/(?:.*/)?([0-9a-f]{8}-)?([^/]+)")  # a copy in Label Studio
_MINIMAL = {"annotation_id", "annotator", "lead_time"}  # of its exports JSON-MIN, CSV and TSV
_HEADINGS: tuple[str, ...] = (*PLACE_COLUMNS, "labels")
_COVERED = 0.9  # of a span, so that a code is its label, too
_TOLERANCE_SECONDS = 0.1  # of the length of media
Span = tuple[str, float | None, float | None, str]  # path, start and end in seconds, code


def read_eaf(data: bytes, where: str, tiers: Sequence[str] = ()) -> Table:
    """Read the annotations of an ELAN file: the value of each is a label, or else its tier.

    Args:
        data: Its bytes.
        where: Its address.
        tiers: Those that are read; empty: all.

    Raises:
        DataError: It is no ELAN file, names no media, or has not these tiers.
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
    named = [one for one in media if one.get("RELATIVE_MEDIA_URL") or one.get("MEDIA_URL")]
    if not named:
        raise DataError(f"{where}: names no media file; link the video in ELAN and save it again")
    urls = (named[0].get("RELATIVE_MEDIA_URL"), named[0].get("MEDIA_URL"))
    paths = [unquote(url).removeprefix("file://").removeprefix("./") for url in urls if url]
    path = _found(paths, where)
    skipped = int(named[0].get("TIME_ORIGIN") or 0)  # milliseconds cut off the beginning
    there = list(eaf.get_tier_names())
    if missing := [name for name in tiers if name not in there]:
        raise DataError(f"{where}: no tier {missing[0]!r}; there are {', '.join(there) or 'none'}")
    found = [
        (tier, *one) for tier in tiers or there for one in eaf.get_annotation_data_for_tier(tier)
    ]
    spans: list[Span] = [
        (path, (start + skipped) / 1000, (end + skipped) / 1000, (value or "").strip() or tier)
        for tier, start, end, value, *_ in found
        if start is not None and end is not None
    ]
    notes = [f"tiers {', '.join(tiers or there)}"]
    if len(media) > 1:
        notes.append(f"the first of {len(media)} media, {path}")
    if len(spans) < len(found):
        notes.append(f"annotations without times are left out ({len(found) - len(spans)})")
    return _table(spans, where, ELAN, notes)


def is_boris(table: Table) -> bool:
    """Tell whether a table is one of events that BORIS exports."""
    names = set(table.names)
    return "Behavior" in names and bool(names & set(_BORIS_KINDS)) and bool(names & {*_BORIS_FILES})


def read_boris(table: Table) -> Table:
    """Read events of BORIS: aggregated ones, or each with its START and STOP.

    An observation may join several files. Its times then count from the beginning of the first,
    and begin at its time offset; BORIS lists the files and their lengths in each row.

    Raises:
        DataError: A time is no number, an event has no beginning, end or file, or none has a
            length.
    """
    kinds = next(name for name in _BORIS_KINDS if name in table.names)
    spans: list[Span] = []
    begun: dict[tuple[object, ...], tuple[float, str]] = {}
    beyond = 0
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
                if key in begun:
                    raise _unpaired(table, begun[key][1], name, "a START", "STOP")
                begun[key] = start, place
                continue
            if kind == "STOP":
                if key not in begun:
                    raise _unpaired(table, place, name, "a STOP", "START")
                start, _ = begun.pop(key)
        spans += _in_files(files, start, end, name, where)
        beyond += end > sum(seconds for _, seconds in files) + _TOLERANCE_SECONDS
    if begun:
        (_, _, code, *_), (_, place) = next(iter(begun.items()))
        raise _unpaired(table, place, str(code), "a START", "STOP")
    found = {path: _found([path], table.where) for path, *_ in spans}
    spans = [(found[path], start, end, name) for path, start, end, name in spans]
    notes = ["events of BORIS"]
    if beyond:
        notes.append(f"events that last longer than their media are cut ({beyond})")
    return _table(spans, table.where, BORIS, notes)


def _unpaired(table: Table, place: str, name: str, has: str, lacks: str) -> DataError:
    return DataError(
        f"{table.where}: {place}: '{name}' has {has}, but no {lacks}; correct it in BORIS"
    )


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
    """Tell whether the contents of a JSON file are tasks of Label Studio, in full or minimal."""
    return (
        isinstance(rows, list)
        and bool(rows)
        and all(isinstance(row, dict) for row in rows)
        and all({"data", "annotations"} <= row.keys() or row.keys() >= _MINIMAL for row in rows)
    )


def check_not_label_studio(table: Table, given: Mapping[str, str]) -> None:
    """Refuse Label Studio's export as CSV or TSV, unless it is said where its labels are.

    Raises:
        DataError: It is one, in which labels can't be told from other texts.
    """
    if {*table.names} >= _MINIMAL and "labels" not in given:
        raise DataError(
            f"{table.where}: a table of Label Studio does not say which texts are labels; export "
            "JSON instead, or add --column labels=HEADING"
        )


def read_label_studio(data: bytes, where: str) -> Table:
    """Read an export of Label Studio (JSON or JSON-MIN): choices, and labels of spans of time.

    Raises:
        DataError: A task names no file or several, or its labels are frames without a rate.
    """
    spans: list[Span] = []
    other: Counter[str] = Counter()
    unlabelled, several = 0, 0
    tasks = json.loads(data)
    for number, task in enumerate(map(_full, tasks), 1):
        place = f"{where}: task {number}"
        path = _file(task["data"], where, place)
        done = [one for one in task["annotations"] if not one.get("was_cancelled")]
        results = [result for one in done for result in one.get("result") or ()]
        found = [list(_labelled(result, path, task["data"], place)) for result in results]
        other.update(str(result.get("type")) for result, of in zip(results, found) if not of)
        spans += [span for of in found for span in of]
        unlabelled += not any(found)
        several += len(done) > 1
    notes = ["Label Studio"]
    if tasks[0].keys() >= _MINIMAL:
        notes.append("JSON-MIN, in which texts count as labels")
    if unlabelled:
        notes.append(f"tasks without labels are left out ({unlabelled})")
    if several:
        notes.append(f"tasks of several annotators have the labels of all ({several})")
    if other:
        told = ", ".join(f"{kind} {count}" for kind, count in other.most_common())
        notes.append(f"not read: {told}")
    return _table(spans, where, LABEL_STUDIO, notes)


def _full(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a task of JSON-MIN in the form of a full one; full ones as they are.

    Its keys are those of the data, `id`, those of the labels, `annotator` and others.
    """
    if "annotations" in row:
        return row
    names = list(row)
    given = names[names.index("id") + 1 if "id" in names else 0 : names.index("annotator")]
    results = []
    for value in (row[name] for name in given):
        for one in value if isinstance(value, list) else [value]:
            value = one if isinstance(one, dict) else {"choices": [one]}
            results.append({"type": _kind_in(value), "value": value})
    return {"data": row, "annotations": [{"result": results}]}


def _kind_in(value: Mapping[str, Any]) -> str:
    kinds = (name for name in value if name == "choices" or name.endswith(("labels", "taxonomy")))
    return next(kinds, next(iter(value), ""))


def _file(data: Mapping[str, Any], where: str, place: str) -> str:
    """Return the path in a task's data: a path, an address, or one of Label Studio's own."""
    texts = [value for value in data.values() if isinstance(value, str)]
    paths = [parse_qs(urlsplit(text).query).get("d", [text])[0] for text in texts]
    media = [path for path in paths if is_media(urlsplit(path).path)]
    # an address may have no suffix
    found = dict.fromkeys(media or [path for path in paths if "://" in path])
    if len(found) != 1:
        told = f"several files ({', '.join(found)}); split them" if found else "no file in its data"
        raise DataError(f"{place} names {told}")
    (path,) = found
    if upload := _UPLOAD.fullmatch(path):
        return _found([upload[2], f"{upload[1] or ''}{upload[2]}"], where)
    return _found([path], where)


def _labelled(
    result: Mapping[str, Any], path: str, data: Mapping[str, Any], where: str
) -> Iterator[Span]:
    """Yield the labels of a result; none if it is of another kind, such as boxes."""
    value, kind = result.get("value") or {}, str(result.get("type", "")).lower()
    names = next((v for k, v in value.items() if k.lower() == kind and isinstance(v, list)), [])
    for name in names:
        if isinstance(name, list):  # of a taxonomy: the path to a choice
            name = " > ".join(map(str, name))
        if not isinstance(name, str) or "text" in value:  # labels of a text count its letters
            continue
        if kind == "timelinelabels":
            rate = next((data[key] for key in _FRAME_RATES if key in data), None)
            if rate is None:
                raise DataError(
                    f"{where}: {name!r} is from one frame to another, and the file doesn't say how "
                    'many there are in a second: add "fps" to the task\'s data'
                )
            for part in value.get("ranges", ()):  # from the first frame, 1, to the last
                first, last = (_number(part.get(key), where) for key in ("start", "end"))
                seconds = _number(rate, where)
                yield path, round((first - 1) / seconds, 3), round(last / seconds, 3), name
        elif isinstance(value.get("start"), int | float):
            yield path, float(value["start"]), _number(value.get("end"), where), name
        elif kind in ("choices", "taxonomy", "labels"):
            yield path, None, None, name


def _found(paths: Sequence[str], where: str) -> str:
    """Return the first path that exists, or else the file's name alone, by which it is looked for.

    Programs keep the path that a file had on their own machine.
    """
    if any("://" in path for path in (*paths, where)):
        return paths[0]
    folder = os.path.dirname(os.path.expanduser(where))
    there = (path for path in paths if os.path.exists(os.path.join(folder, path)))
    return next(there, re.split(r"[/\\]", paths[0])[-1])


def _table(spans: Iterable[Span], where: str, program: str, notes: Sequence[str]) -> Table:
    """Make a row of each span, with the codes of all that nearly cover it.

    Those without length are left out. A code without times is of the whole file, and says nothing
    of its parts.
    """
    labels: dict[tuple[str, float | None, float | None], dict[str, None]] = {}
    points = 0
    for path, start, end, name in spans:
        if start is not None and end is not None and end <= start:
            points += 1
            continue
        labels.setdefault((path, start, end), {})[name] = None
    notes = list(notes)
    if added := _spread(labels):
        notes.append(f"labels of spans that others nearly cover: {added} more")
    if points:
        notes.append(f"codes without length are left out ({points})")
    rows: list[dict[str, Any]] = [
        dict(zip(_HEADINGS, (*place, list(names)))) for place, names in labels.items()
    ]
    places = tuple(f"clip {number}" for number in range(1, len(rows) + 1))
    return Table(where, _HEADINGS, tuple(rows), places, tuple(notes), program)


def _spread(labels: Mapping[tuple[str, float | None, float | None], dict[str, None]]) -> int:
    """Give each span the labels of the others that nearly cover it; returns how many were added.

    Hands draw them, so that the ends of what is meant as equal differ a little.
    """
    timed = sorted(
        (path, start, end, list(names))
        for (path, start, end), names in labels.items()
        if start is not None and end is not None
    )
    before = sum(map(len, labels.values()))
    around: list[tuple[str, float, float, list[str]]] = []  # of the same file, not over yet
    for one in timed:
        path, start, end, _ = one
        around = [other for other in around if other[0] == path and other[2] > start]
        for other in around:
            shared = min(end, other[2]) - start
            for (_, first, last, _), names in ((one, other[3]), (other, one[3])):
                if shared >= _COVERED * (last - first):
                    labels[path, first, last].update(dict.fromkeys(names))
        around.append(one)
    return sum(map(len, labels.values())) - before
