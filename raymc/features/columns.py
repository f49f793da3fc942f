"""What the columns of a table of videos mean: headings, labels, times and splits as people write.

A column has a role (`ROLES`) by its heading or by `extract.columns`. `understand` makes sources of
the rows, and says what it took for what, so that a person can see whether it is right.
"""

import ast
import itertools
import json
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from raymc.data.labels import twin_names
from raymc.errors import DataError
from raymc.features.clips import Source
from raymc.features.tables import Table

# Usual headings of each role, the likeliest first; a table's first that occurs has the role.
_HEADINGS = {
    "path": "path, file path, filepath, filename, file name, file, files, media file path, "
    "media file name, media filename, media path, media file, media, video path, video file name, "
    "video filename, video file, video name, video, videos, audio path, audio file, audio, "
    "clip path, clip file, clip name, video url, url",
    "id": "id, clip id, segment id, row id, uid",
    "labels": "labels, label, tags, tag, codes, code, classes, class, categories, category, "
    "topics, topic, label names, label name, class names, class name, annotations, annotation, "
    "behaviors, behavior, behaviours, behaviour",
    "split": "split, splits, data split, subset, set, partition, train test, train val test",
    "start_seconds": "start seconds, start, start time, begin, begin time, onset, from, "
    "time start, time in, t start",
    "end_seconds": "end seconds, end, end time, stop, stop time, finish, until, to, time end, "
    "time out, t end",
    "duration": "duration seconds, duration, length, clip length, clip duration",
    "sha256": "sha256, sha 256",
    "group": "group, groups",
}
ROLES = tuple(_HEADINGS)
_PLACES = {
    role: {name: place for place, name in enumerate(names.split(", "))}
    for role, names in _HEADINGS.items()
}
_SCALES = {"s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0}
_SCALES |= dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 0.001)
_SCALES |= dict.fromkeys(("min", "mins", "minute", "minutes"), 60.0)
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d{1,2}(?:[.,]\d+)?)")
_NUMBER = re.compile(r"(\d+(?:[.,]\d+)?)\s*(?:s|sec|seconds)?", re.IGNORECASE)

# The values of a column that stands for one label. Spreadsheets write TRUE in their language.
_YES_ABROAD = (
    "ja oui sí si sim jo j da да так tak ano áno igen evet kyllä jah ναι はい 是 有 예 نعم כן "
    "wahr vrai verdadero verdadeiro vero waar sant sand tosi prawda pravda igaz doğru истина"
)
_NO_ABROAD = (
    "nein non não nee nej nei ne нет ні nie nem hayır ei όχι いいえ 否 無 无 아니요 لا לא ложь "
    "falsch faux falso falskt falsk fałsz hamis yanliş onwaar epätosi nepravda"  # codespell:ignore
)
_YES = {"x", "1", "1.0", "yes", "y", "true", "t", "+", "*", "present", *_YES_ABROAD.split()}
_YES |= {"✓", "✔", "✔️", "☑", "☑️", "✅", "√", "●", "•", "■"}
_NO = {"0", "0.0", "no", "n", "false", "f", "absent", *_NO_ABROAD.split()}
_NO |= {"-", "–", "✗", "✘", "☐", "❌", "×", "□"}
_NONE = {"", "-", "–", "—", "na", "n/a", "#n/a", "nan", "none", "null", "nil", "<na>"}
_SEPARATORS = ";|\n\t；、"  # wherever one stands
_COMMAS = ",，"  # only where none of the others stands
_MANY_LABELS = 20  # that occur only once
_UNSEEN = re.compile("[\u00ad\u200b\u2060\ufeff]")
_BULLET = re.compile(r"[•●▪‣◦]\s*(?=\S)")
# Words in headings that say where a clip is in its video, or in which split.
_OF_TIME = {"start", "begin", "onset", "from", "end", "stop", "offset", "time", "times", "frame"}
_OF_TIME |= {"timestamp", "timecode"}
_OF_SPLIT = {"train", "training", "val", "valid", "validation", "test", "testing", "fold"}
_OF_VALUE = {"value", "present", "presence", "applies", "answer", "positive", "label value"}
_ERROR = re.compile(r"#(REF!|VALUE!|NAME\?|DIV/0!|NUM!|NULL!|SPILL!|CALC!)")  # of a formula
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development"), "val"),
    **dict.fromkeys(("eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "held out"), "test"),
}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which heading has which role; `labels` may be several, one a label.

    Attributes:
        of: The heading by role.
        labels: The headings of labels.
        one_a_label: Whether each of them stands for one label.
        others: Headings without a role.
    """

    of: Mapping[str, str]
    labels: tuple[str, ...] = ()
    one_a_label: bool = False
    others: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Understood:
    """What a table was taken to say.

    Attributes:
        columns: The roles of its headings.
        separator: Between labels, in words; empty if no cell has two.
        counts: Rows by label.
        has_splits: Whether any row names its split.
        groups: What videos belong together by, for each source; empty without such a column.
        notes: How the file was read.
        warnings: What looks wrong, and what to do.
    """

    columns: Columns
    separator: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    has_splits: bool = False
    groups: Sequence[str] = ()
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()


def names_files(heading: str, given: Mapping[str, str]) -> bool:
    """Tell whether a heading is that of the files' paths."""
    if "path" in given:
        return _plain(heading) == _plain(given["path"])
    return _base(heading)[0] in _PLACES["path"]


def columns_of(table: Table, given: Mapping[str, str]) -> Columns:
    """Find the role of each heading.

    Args:
        table: The table.
        given: Headings by role, as `extract.columns` has them; of labels also several with commas.

    Raises:
        DataError: No heading names the files, two could equally well, or a given one isn't there.
    """
    for role in given:
        if role not in ROLES:
            raise DataError(f"--column {role}=…: no such role; there are {', '.join(ROLES)}")
    of = {role: _given(table, role, name) for role, name in given.items() if role != "labels"}
    asked = given.get("labels")
    labels: tuple[str, ...] = () if asked is None else tuple(_given_labels(table, asked))
    for role in ROLES:
        if role not in given:
            taken = {*of.values(), *labels}
            found = _likeliest(table, role, [name for name in table.names if name not in taken])
            if role == "labels":
                labels = (found,) if found is not None else ()
                labels = (*labels, *_numbered(table, taken | {*labels}))
            elif found is not None:
                of[role] = found
    if "path" not in of and table.rows:
        raise DataError(
            f"{table.where}: no heading is that of the files; there are {_listed(table.names)}: if "
            "one of them names the files, add --column path=HEADING"
        )
    if "start_seconds" not in of or "end_seconds" in of:
        of.pop("duration", None)
    others = [name for name in table.names if name not in {*of.values(), *labels}]
    is_of_one = any(_is_of_one(table, name) for name in labels)
    one_a_label = is_of_one and (len(labels) > 1 or asked is not None)
    if not labels:
        labels = tuple(name for name in others if _is_of_one(table, name))
        others = [name for name in others if name not in labels]
        one_a_label = bool(labels)
    # a group is still of interest to whoever reads the dataset, as a digest is
    others += [of[role] for role in ("group", "sha256", "duration") if role in of]
    kept = tuple(name for name in table.names if name in others)
    return Columns(of=of, labels=labels, one_a_label=one_a_label, others=kept)


def understand(
    table: Table, given: Mapping[str, str], separator: str = ""
) -> tuple[list[Source], Understood]:
    """Make a source of each row; the paths are as they stand in the table.

    Args:
        table: The table.
        given: Headings by role; see `columns_of`.
        separator: Between labels; empty: found; `none`: a cell is one label.

    Returns:
        The sources, whose split is empty where the table gives none; and what was understood.

    Raises:
        DataError: A heading or a row can't be used.
    """
    columns = columns_of(table, given)
    labels, told = _labels(table, columns, separator)
    places = [f"{table.where}: {place}" for place in table.places]
    paths = [_path(row, columns, where) for row, where in zip(table.rows, places)]
    sources = [
        replace(_source(row, columns, default_id, where), path=path, labels=found)
        for row, found, path, default_id, where in zip(
            table.rows, labels, paths, default_ids(paths), places
        )
    ]
    group = columns.of.get("group")
    groups = [str(row.get(group) or "") for row in table.rows] if group else [""] * len(sources)
    notes = [*table.notes]
    if "id" not in columns.of and columns.labels:
        kept, sources = _joined(sources, table)
        if len(kept) < len(groups):
            groups = [groups[number] for number in kept]
            notes.append(f"rows of the same clip are joined to {len(kept):,} clips")
    counts = Counter(label for source in sources for label in source.labels)
    understood = Understood(
        columns=columns,
        separator=told,
        counts=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        has_splits=any(source.split for source in sources),
        groups=groups if group else (),
        notes=notes,
        warnings=[
            *_label_warnings(counts, columns, told),
            *_column_warnings(table, columns),
            *_split_warnings(sources),
        ],
    )
    return sources, understood


# Headings


def _plain(heading: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", heading).casefold().split())


def _base(heading: str) -> tuple[str, float]:
    """Return a heading in the form of `_HEADINGS`, and the seconds that 1 stands for under it."""
    text = re.sub(r"(?<=\w)\(e?s\)", "", _plain(heading))  # label(s)
    text = re.sub(r"(hh:)?mm:ss\W*\w*|ss\.m\w+", "", text)  # as ELAN names its columns
    unit = re.search(r"[(\[]\s*(\w+)\.?\s*[)\]]\s*$", text)
    scale = _SCALES.get(unit[1], 1.0) if unit else 1.0
    words = re.sub(r"[(\[].*?[)\]]|[\W_]", " ", text).split()
    last = words[-1] if len(words) > 1 else ""
    if not unit and last in _SCALES and " ".join(words) not in _PLACES["start_seconds"]:
        scale = _SCALES[last]
        words = words[:-1]
    return " ".join(words), scale


def _likeliest(table: Table, role: str, names: Iterable[str]) -> str | None:
    places = {name: -1 if name == role else _PLACES[role].get(_base(name)[0]) for name in names}
    ranked = sorted((place, name) for name, place in places.items() if place is not None)
    if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
        raise DataError(
            f'{table.where}: "{ranked[0][1]}" and "{ranked[1][1]}" may both be the {role}; choose '
            f"with --column '{role}={ranked[0][1]}'"
        )
    return ranked[0][1] if ranked else None


def _numbered(table: Table, taken: Set[str]) -> Iterator[str]:
    """Yield the headings of further labels of a row, such as `Tag 2` or `label_3`."""
    for name in table.names:
        word = re.sub(r"\s*\d+$", "", base := _base(name)[0])
        if name not in taken and word != base and word in _PLACES["labels"]:
            yield name


def _given(table: Table, role: str, name: str) -> str:
    alike = [known for known in table.names if _plain(known) == _plain(name)]
    if name in table.names or len(alike) == 1:
        return name if name in table.names else alike[0]
    raise DataError(
        f"{table.where}: no heading {name!r} for {role}; there are {_listed(table.names)}"
    )


def _given_labels(table: Table, names: str) -> Iterator[str]:
    alike = {_plain(known) for known in table.names}
    for name in [names] if _plain(names) in alike else names.split(","):
        yield _given(table, "labels", name.strip())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _is_of_one(table: Table, name: str) -> bool:
    """Whether all cells of a column say yes or no, and one says yes."""
    words = {_word(row.get(name)) for row in table.rows}
    return bool(words & _YES) and words <= _YES | _NO | _NONE


def _word(value: Any) -> str:
    return "" if value is None else str(value).strip().casefold()


# Labels


def _labels(table: Table, columns: Columns, separator: str) -> tuple[list[tuple[str, ...]], str]:
    """Return the labels of each row, and the separators between them, in words."""
    if columns.one_a_label:
        return [
            tuple(name for name in columns.labels if _says_yes(row, name, table, place))
            for place, row in zip(table.places, table.rows)
        ], ""
    cells = [
        _names(row.get(name), f"{table.where}: {place}", name)
        for place, row in zip(table.places, table.rows)
        for name in columns.labels
    ]
    texts = "".join(cell for cell in cells if isinstance(cell, str))
    marks = _marks(texts, separator)
    split = re.compile("|".join(map(re.escape, marks)) or r"(?!)")  # (?!) is nowhere
    parts = [split.split(cell) if isinstance(cell, str) else cell for cell in cells]
    width = len(columns.labels)
    rows = [itertools.chain(*parts[i * width : (i + 1) * width]) for i in range(len(table.rows))]
    labels = [
        tuple(dict.fromkeys(_clean(name) for name in row if _word(name) not in _NONE))
        for row in rows
    ]
    shown = {"\n": "line breaks", "\t": "tabs", " ": "spaces"}
    used = [shown.get(mark, f'"{mark}"') for mark in marks if mark in texts]
    return labels, " and ".join(used)


def _clean(name: str) -> str:
    """Return a name as it looks: without what can't be seen, and without a bullet."""
    text = _UNSEEN.sub("", unicodedata.normalize("NFC", name)).strip()
    return _BULLET.sub("", text, count=1) if _BULLET.match(text) else text


def _marks(texts: str, separator: str) -> Sequence[str]:
    """Return what is between labels, from all texts of the table."""
    if separator:
        named = {"none": [], "\\n": ["\n"], "\\t": ["\t"], "space": [" "]}
        return named.get(separator, [separator])
    return _SEPARATORS if any(mark in texts for mark in _SEPARATORS) else _COMMAS


def _names(value: Any, where: str, name: str) -> list[str] | str:
    """Return a cell's names: a list as it is, or a text that is still to be split."""
    if value is None:
        return []
    if isinstance(value, str):
        found = _literal(value)
        return value if found is None else found
    listed = value if isinstance(value, list) else [value]
    if all(map(_is_name, listed)):
        return [str(one) for one in listed]
    raise DataError(f"{where}: {name} are {value!r}; expected names, or one text of names with ;")


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _literal(text: str) -> list[str] | None:
    """Return the items of a list as JSON, Python or NumPy print it; None for other text."""
    text = text.strip()
    if len(text) < 2 or text[0] + text[-1] not in ("[]", "()", "{}"):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        quoted = [ast.literal_eval(item) for item in _QUOTED.findall(text)]
        if isinstance(found, set):  # which has no order
            found = quoted or sorted(found)
        items = list(found) if isinstance(found, list | tuple) else None
        # NumPy prints no commas, and Python joins texts without one
        if items is not None and all(map(_is_name, items)):
            names = [str(item) for item in items]
            return names if len(quoted) in (0, len(items)) else quoted
    return None


def _says_yes(row: Mapping[str, Any], name: str, table: Table, place: str) -> bool:
    word = _word(row.get(name))
    if word not in _YES | _NO | _NONE:
        raise DataError(
            f"{table.where}: {place}: {name} is {row.get(name)!r}; expected 1 or 0, x or nothing, "
            "yes or no, as in a column for one label"
        )
    return word in _YES


def _label_warnings(counts: Mapping[str, int], columns: Columns, told: str) -> Iterator[str]:
    if columns.labels and not counts:
        yield (
            f"no row has a label under {_listed(columns.labels)}; if the labels are elsewhere, add "
            "--column labels=HEADING"
        )
    yield from _separator_warnings(counts, told)
    for name in counts:
        if _ERROR.fullmatch(name):
            yield f'label "{name}" is an error of the spreadsheet; mend its cell'
        if re.match(r"[\[({<'\"]", name) or re.search(r"[\[({<]['\"]|^[\])}]", name):
            yield f'label "{name}" begins with a bracket or a quote; write {_EXAMPLE}'
            break
    yield from twin_names(counts)
    once = sum(count == 1 for count in counts.values())
    if once > max(_MANY_LABELS, len(counts) / 2):
        yield (
            f"{once} of {len(counts)} labels occur only once; if these are other texts, choose the "
            "labels with --column labels=NAME"
        )


def _column_warnings(table: Table, columns: Columns) -> Iterator[str]:
    """Say which columns look as if they had a role that they were not given."""
    times = [name for name in columns.others if _OF_TIME & {*_base(name)[0].split()}]
    if times and "start_seconds" not in columns.of and "end_seconds" not in columns.of:
        yield (
            f'whole videos are read, although there is "{times[0]}"; if it says where clips begin, '
            f"add --column 'start_seconds={times[0]}'"
        )
    splits = [name for name in columns.others if _OF_SPLIT & {*_base(name)[0].split()}]
    if splits and "split" not in columns.of:
        yield (
            f'"{splits[0]}" is not taken for the split; if it says it, write train, val or test '
            f"there, and add --column 'split={splits[0]}'"
        )
    values = [name for name in columns.others if _base(name)[0] in _OF_VALUE]
    for name in values if columns.labels and not columns.one_a_label else ():
        if count := sum(_word(row.get(name)) in _NO for row in table.rows):
            yield (
                f'"{name}" says no in {count} rows, whose labels are taken none the less; if it '
                "says whether a clip has the label, empty their cells of labels"
            )
    if not columns.one_a_label:
        return
    for name in columns.others:
        words = [(_word(row.get(name)), place) for row, place in zip(table.rows, table.places)]
        told = [word for word, _ in words if word not in _NONE]
        others = [found for found in words if found[0] not in _YES | _NO | _NONE]
        if 0 < len(others) < len(told) / 2:
            yield (
                f'"{name}" is not taken for a label, because {others[0][1]} says "{others[0][0]}" '
                "there; if it is one, write x or nothing"
            )


_EXAMPLE = "labels as a;b, or as a list of quoted names"


def _separator_warnings(counts: Mapping[str, int], told: str) -> Iterator[str]:
    known = {name.casefold() for name in counts}
    for name in counts:
        for mark in (",", ";", "|", "/", "&", "+", " and ", " #"):
            parts = [part.strip().casefold() for part in name.split(mark)]
            is_several = len(counts) == 1 or any(part in known for part in parts)
            if len(parts) > 1 and all(parts) and is_several:
                yield (
                    f'label "{name}" holds "{mark}"; if it is several labels, add --separator '
                    f"'{mark}'"
                )
                return


# Rows


def default_ids(files: Sequence[str]) -> list[str]:
    """Return the names without suffixes, unless they are then no longer unique."""
    stems = [os.path.splitext(file)[0] for file in files]
    count = Counter(os.path.splitext(file)[0] for file in set(files))
    ids = [stem if count[stem] == 1 else file for stem, file in zip(stems, files)]
    return ids if len(set(ids)) == len(set(files)) else list(files)


def _path(row: Mapping[str, Any], columns: Columns, where: str) -> str:
    path = row.get(columns.of["path"])
    if not isinstance(path, str) or not path.strip():
        raise DataError(f"{where}: no path; expected a column 'path', there are {_listed([*row])}.")
    return path


def _source(row: Mapping[str, Any], columns: Columns, default_id: str, where: str) -> Source:
    """Return the source of a row, without path and labels."""
    start = _seconds(row, columns.of.get("start_seconds"), where)
    end = _seconds(row, columns.of.get("end_seconds"), where)
    if "duration" in columns.of:
        length = _seconds(row, columns.of["duration"], where)
        end = None if length is None else (start or 0.0) + length
    if end is not None and end <= (start or 0.0):
        name = columns.of.get("end_seconds", columns.of.get("duration"))
        raise DataError(f"{where}: {name} {end:g} is not after the start, {start or 0.0:g}.")
    if start is not None or end is not None:
        default_id = f"{default_id}@{start or 0.0:g}-{'' if end is None else f'{end:g}'}"
    return Source(
        path="",
        id=_text(row, columns.of["id"], where) if columns.of.get("id") in row else default_id,
        split=_split(row, columns.of.get("split"), where),
        start_seconds=start or 0.0,
        end_seconds=end,
        sha256=_sha256(row, columns.of.get("sha256"), where),
        extra={name: row[name] for name in columns.others if name in row},
    )


def _joined(sources: Sequence[Source], table: Table) -> tuple[list[int], list[Source]]:
    """Join rows of the same clip: people also write a row for each label.

    Returns the number of the first row of each clip, and the clips with the labels of all rows.
    """
    rows: dict[tuple[str, float, float | None], list[int]] = {}
    for number, one in enumerate(sources):
        rows.setdefault((one.path, one.start_seconds, one.end_seconds), []).append(number)
    clips = []
    for numbers in rows.values():
        first, *others = (sources[number] for number in numbers)
        labels = dict.fromkeys(name for number in numbers for name in sources[number].labels)
        for number, other in zip(numbers[1:], others):
            if (other.split, other.sha256) != (first.split, first.sha256):
                raise DataError(
                    f"{table.where}: {table.places[numbers[0]]} and {table.places[number]} are the "
                    "same clip in two splits, or with two digests; correct one"
                )
        clips.append(replace(first, labels=tuple(labels)))
    return [numbers[0] for numbers in rows.values()], clips


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row[name]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        found = "empty" if value is None or value == "" else repr(value)
        raise DataError(f"{where}: {name} is {found}; expected text.")
    return value


def _split(row: Mapping[str, Any], name: str | None, where: str) -> str:
    if name is None or row.get(name) is None:
        return ""
    found = _text(row, name, where).strip()
    if found.casefold() in _NONE:
        return ""
    usual = _SPLITS.get(_base(found)[0])
    if usual is None and not re.fullmatch(r"[^\W_][\w-]*", found):
        raise DataError(
            f"{where}: {name} is {found!r}; expected train, val, test, or a name of letters, "
            "digits, - and _"
        )
    return usual or found


def _sha256(row: Mapping[str, Any], name: str | None, where: str) -> str | None:
    value = None if name is None else row.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", value.strip()):
        raise DataError(
            f"{where}: {name} is {value!r}; expected 64 hex digits, as sha256sum prints."
        )
    return value.strip().lower()


def _seconds(row: Mapping[str, Any], name: str | None, where: str) -> float | None:
    """Return seconds, from a number or a time such as 1:23 or 0:01:23.5; None for an empty cell."""
    value = None if name is None else row.get(name)
    if name is None or value is None:
        return None
    seconds = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value) * _base(name)[1]
    elif isinstance(value, str):
        seconds = parse_time(value, _base(name)[1])
    if not 0 <= seconds < math.inf:
        raise DataError(
            f"{where}: {name} is {value!r}; expected seconds, 0 or more, or a time such as 1:23."
        )
    return seconds


def parse_time(text: str, scale: float = 1.0) -> float:
    """Return the seconds of `83`, `83.5`, `83,5`, `83 s`, `1:23` or `0:01:23.5`; NaN for others.

    `scale` is what 1 stands for where the text is a number.
    """
    text = text.strip()
    if number := _NUMBER.fullmatch(text):
        value = float(number[1].replace(",", "."))
        return value * scale if number[0] == number[1] else value
    clock = _CLOCK.fullmatch(text)
    if clock is None:
        return math.nan
    seconds, minutes = float(clock[3].replace(",", ".")), int(clock[2])
    if seconds >= 60 or (clock[1] is not None and minutes >= 60):
        return math.nan
    return int(clock[1] or 0) * 3600 + minutes * 60 + seconds


def _split_warnings(sources: Sequence[Source]) -> Iterator[str]:
    splits = Counter(source.split for source in sources)
    odd = [name for name in splits if name and name not in ("train", "val", "test")]
    if odd:
        yield (
            f"splits named {_listed(odd)}; training uses train, val and test unless data.train, "
            "data.val and data.test name others"
        )
    if splits[""] and len(splits) > 1:
        yield f"{splits['']} rows have no split; they are in train"
