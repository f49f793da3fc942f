"""Where clips come from: a folder of media files, a glob, one file, or a table that names them.

Only the table is opened here; a missing or damaged media file is reported when its clips are
read. `Digests` compares files with the digests in a table.
"""

import csv
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raymc.data.storage import digest, exists, open_address, reaching, read_bytes
from raymc.errors import DataError, first_line

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_PLAIN = (str, int, float, bytes, list, dict)
_SUFFIXES = """
.3gp .avi .dv .f4v .flv .h264 .hevc .m1v .m2ts .m2v .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .nut
.ogv .rm .ts .vob .webm .wmv .asf .wtv
.aac .ac3 .aif .aiff .amr .ape .au .eac3 .flac .m4a .m4b .mka .mp2 .mp3 .oga .ogg .opus .tta
.wav .wma .wv
"""
MEDIA_SUFFIXES = frozenset(_SUFFIXES.split())
_COLUMNS = ("path", "id", "labels", "split", "start_seconds", "end_seconds")
_EXPECTED = (
    f"a folder or glob of media files, one of them, or a table ({', '.join(TABLE_SUFFIXES)})"
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One media file, or a stated part of it.

    Attributes:
        path: A local path, or an address (s3://, gs://, or what fsspec knows).
        id: Unique in the list.
        labels: Of all its clips.
        split: Of all its clips.
        start_seconds: Where the part begins.
        end_seconds: Where it ends; None: with the file.
        sha256: The expected digest of the file, in lower-case hex; None if unknown.
        extra: Further columns of the table, and `sha256`.
    """

    path: str
    id: str
    labels: tuple[str, ...] = ()
    split: str = "train"
    start_seconds: float = 0.0
    end_seconds: float | None = None
    sha256: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def list_sources(address: str, *, split: str = "train") -> list[Source]:
    """List the sources of a folder, glob, media file or table.

    - A folder: the media files below it, recognised by suffix, sorted by path; hidden ones are
      left out.
    - A glob (`*`, `?`, `[...]` within a name, `**` for any folders): what it matches, sorted; only
      media files, unless the pattern has a suffix. Addresses have no `?`.
    - A table (.csv, .tsv, .jsonl, .ndjson, .parquet) in its own order: `path` (a relative one is
      relative to the table's folder), and if it has them `id`, `labels` (a list, or one text
      with `;` or `|` between them), `split`, `start_seconds`, `end_seconds`, `sha256` (of the
      whole file, in hex); other columns are kept as `extra`.

    The default id is the path (below the folder) without its suffix; files that differ only by
    suffix keep it, and a part of a file adds `@START-END`.

    Args:
        address: A local path, or an address that pyarrow or fsspec knows.
        split: The split of sources for which a table names none.

    Raises:
        DataError: Nothing is found, or the table or one of its rows is not as above.
    """
    base, pattern = _split_glob(address)
    filesystem, root = open_address(base)
    with reaching(address):
        kind = filesystem.get_file_info(root).type
        if kind == fs.FileType.Directory:
            return _of_files(address, base, _below(filesystem, root), pattern, split)
    if kind != fs.FileType.File or pattern:
        raise DataError(f"{address}: no media: there is no such file or folder; give {_EXPECTED}.")
    suffix = _suffix(root)
    if suffix in TABLE_SUFFIXES:
        with reaching(address):
            data = read_bytes(filesystem, root)
        return _of_rows(_read_rows(data, suffix, address), address, split)
    if suffix in MEDIA_SUFFIXES:
        folder, name = _folder_of(address), root.rsplit("/", 1)[-1]
        return _of_files(address, folder, [name], "", split)
    raise DataError(f"{address}: '{suffix}' is not a suffix of media or tables; give {_EXPECTED}.")


def _split_glob(address: str) -> tuple[str, str]:
    """The part of an address before the first name with a wildcard, and the rest of it."""
    is_local = "://" not in address
    if is_local and os.path.exists(os.path.expanduser(address)):
        return address, ""
    wildcard = re.search(r"[*?\[]" if is_local else r"[*\[]", address)
    if wildcard is None:
        return address, ""
    cut = address.rfind("/", 0, wildcard.start())
    if cut < 0:
        return ".", address
    return address[:cut] or "/", address[cut + 1 :]


def _below(filesystem: fs.FileSystem, root: str) -> list[str]:
    """The files below a folder, relative to it and sorted; hidden ones left out."""
    infos = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    files = (info.path[len(root) :].lstrip("/") for info in infos if info.is_file)
    return sorted(file for file in files if not any(n.startswith(".") for n in file.split("/")))


def _of_files(
    address: str, folder: str, files: Sequence[str], pattern: str, split: str
) -> list[Source]:
    parts = pattern.split("/")
    if pattern:
        files = [file for file in files if _matches(file.split("/"), parts)]
    if not re.fullmatch(r"\.\w+", _suffix(parts[-1])):
        files = [file for file in files if _suffix(file) in MEDIA_SUFFIXES]
    if not files:
        raise DataError(f"{address}: no media files; expected names that end in .mp4, .wav, ...")
    return [
        Source(path=_joined(folder, file), id=name, split=split)
        for file, name in zip(files, _default_ids(files))
    ]


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns or not names:
        return not names and all(pattern == "**" for pattern in patterns)
    if patterns[0] == "**":
        return _matches(names, patterns[1:]) or _matches(names[1:], patterns)
    return fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])


def _joined(folder: str, file: str) -> str:
    if "://" in file or os.path.isabs(file):
        return file
    if "://" not in folder:
        return os.path.join(os.path.abspath(os.path.expanduser(folder)), file)
    place, mark, options = folder.partition("?")
    return f"{place.rstrip('/')}/{file}{mark}{options}"


def _folder_of(address: str) -> str:
    place, mark, options = address.partition("?") if "://" in address else (address, "", "")
    return f"{place.rpartition('/')[0] or ('/' if place.startswith('/') else '.')}{mark}{options}"


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _default_ids(files: Sequence[str]) -> list[str]:
    """The names without suffixes, unless they are then no longer unique."""
    stems = [os.path.splitext(file)[0] for file in files]
    count = Counter(os.path.splitext(file)[0] for file in set(files))
    ids = [stem if count[stem] == 1 else file for stem, file in zip(stems, files)]
    return ids if len(set(ids)) == len(set(files)) else list(files)


def _of_rows(rows: Sequence[Mapping[str, Any]], address: str, split: str) -> list[Source]:
    places = [f"{address}: row {number}" for number in range(1, len(rows) + 1)]
    paths = [_path(row, where) for row, where in zip(rows, places)]
    if not rows:
        raise DataError(f"{address}: the table has no rows; expected one for each media file.")
    folder = _folder_of(address)
    sources = [
        _of_row(row, _joined(folder, path), default_id, split, where)
        for row, path, default_id, where in zip(rows, paths, _default_ids(paths), places)
    ]
    name, count = Counter(source.id for source in sources).most_common(1)[0]
    if count > 1:
        raise DataError(f"{address}: {count} rows have the id '{name}'; give each its own id.")
    return sources


def _of_row(row: Mapping[str, Any], path: str, default_id: str, split: str, where: str) -> Source:
    start = _seconds(row, "start_seconds", where)
    end = _seconds(row, "end_seconds", where)
    if end is not None and end <= (start or 0.0):
        raise DataError(f"{where}: end_seconds {end:g} is not after the start, {start or 0.0:g}.")
    if start is not None or end is not None:
        default_id = f"{default_id}@{start or 0.0:g}-{'' if end is None else f'{end:g}'}"
    return Source(
        path=path,
        id=_text(row, "id", where) if "id" in row else default_id,
        labels=_labels(row.get("labels"), where),
        split=split if row.get("split") is None else _text(row, "split", where),
        start_seconds=start or 0.0,
        end_seconds=end,
        sha256=_sha256(row, where),
        extra={name: value for name, value in row.items() if name not in _COLUMNS},
    )


def _path(row: Mapping[str, Any], where: str) -> str:
    path = row.get("path")
    if not isinstance(path, str) or not path.strip():
        names = ", ".join(row)
        raise DataError(f"{where}: no path; expected a column 'path', there are {names}.")
    return path


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row[name]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        found = "empty" if value is None or value == "" else repr(value)
        raise DataError(f"{where}: {name} is {found}; expected text.")
    return value


def _labels(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    names = re.split(r"[;|]", value) if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"{where}: labels are {value!r}; expected names, or one text of names with ;"
        )
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


def _sha256(row: Mapping[str, Any], where: str) -> str | None:
    value = row.get("sha256")
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", value.strip()):
        raise DataError(
            f"{where}: sha256 is {value!r}; expected 64 hex digits, as sha256sum prints."
        )
    return value.strip().lower()


def _seconds(row: Mapping[str, Any], name: str, where: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise DataError(f"{where}: {name} is {value!r}; expected seconds, 0 or more.")
    return seconds


def _read_rows(data: bytes, suffix: str, address: str) -> list[Mapping[str, Any]]:
    """Read the rows of a table as plain values; an empty field of a CSV file is None.

    All other fields of a CSV file are text: the id 007 is not the number 7.
    """
    try:
        if suffix == ".parquet":
            return list(_parquet_rows(data))
        text = data.decode("utf-8-sig")
        if suffix in (".csv", ".tsv"):
            return list(_csv_rows(text, "\t" if suffix == ".tsv" else ",", address))
        return list(_json_rows(text, address))
    except (pa.ArrowException, csv.Error, OSError, ValueError, RecursionError) as error:
        reason = first_line(error)
        raise DataError(
            f"{address}: can't be read as {suffix[1:]}: {reason}; write it again, in UTF-8."
        ) from error


def _csv_rows(text: str, delimiter: str, address: str) -> Iterator[Mapping[str, Any]]:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names = next(lines, [])
    if len(set(names)) < len(names):
        raise DataError(f"{address}: a column occurs twice: {', '.join(names)}; rename one.")
    for number, fields in enumerate((fields for fields in lines if fields), 1):
        if len(fields) != len(names):
            raise DataError(
                f"{address}: row {number} has {len(fields)} fields, but the first line has "
                f"{len(names)}; put fields with a comma in quotes."
            )
        yield {name: field or None for name, field in zip(names, fields)}


def _json_rows(text: str, address: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        row = json.loads(line) if line.strip() else {}
        if not isinstance(row, dict):
            raise DataError(
                f"{address}: line {number} is not an object; expected one with a 'path'."
            )
        if row:
            yield row


def _parquet_rows(data: bytes) -> Iterator[Mapping[str, Any]]:
    for row in pq.read_table(pa.BufferReader(data), use_threads=False).to_pylist():
        yield {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, _PLAIN):
        return value
    return value.isoformat() if isinstance(value, date | time) else str(value)


class Digests:
    """Compares files with their digests; a file with many parts is read only once.

    Most codecs and containers have no checksum, so flipped bits would give plausible rows.
    """

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def check(self, source: Source) -> None:
        """Read a source's whole file, if its digest is known; raises `DataError` if it differs."""
        if source.sha256 is None:
            return
        if source.path not in self._found:
            self._found[source.path] = _digest_of(source.path)
        if (found := self._found[source.path]) != source.sha256:
            raise DataError(f"the file's sha256 is {found}; expected {source.sha256}")


def _digest_of(path: str) -> str:
    filesystem, inner = open_address(path)
    with reaching(path):
        is_file = exists(filesystem, inner)
    if not is_file:  # opening a pipe would wait forever
        raise DataError("no such file")
    return digest(filesystem, inner)
