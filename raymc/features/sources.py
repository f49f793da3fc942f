"""Where clips come from: a folder of media files, a glob, one file, or a table that names them.

`list_media` lists them, and says what it found and understood. Only tables are opened here; a
missing or damaged media file is reported when its clips are read. `Digests` compares files with
the digests in a table.
"""

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import fs

from raymc.config import NONE, ExtractConfig
from raymc.data.shards.tokens import PLACE_COLUMNS, RESERVED_COLUMNS
from raymc.data.splits import FEWEST_VIDEOS, SPLITS, draw_splits, lone_labels
from raymc.data.storage import (
    digest,
    exists,
    is_unicode,
    near_name,
    open_address,
    reaching,
    read_bytes,
)
from raymc.errors import ConfigError, DataError, counted
from raymc.features.clips import Source, is_media
from raymc.features.coding_files import (
    ELAN,
    check_not_label_studio,
    is_boris,
    is_label_studio,
    read_boris,
    read_eaf,
    read_label_studio,
)
from raymc.features.columns import (
    ROLES,
    Understood,
    columns_of,
    default_ids,
    names_files,
    understand,
)
from raymc.features.tables import TABLE_SUFFIXES, Reading, Table, read_table
from raymc.features.transcripts import SIDECARS, find_sidecars

if TYPE_CHECKING:
    import pandas as pd

_TABLES = (*TABLE_SUFFIXES, ".eaf")
_MOST_NAMED = 10  # files or labels in a line
# Columns that `raymc extract` writes by itself.
_OWN_COLUMNS = (*RESERVED_COLUMNS, *PLACE_COLUMNS)
_EXPECTED = f"a folder or glob of media files, one of them, or a table ({', '.join(_TABLES)})"


@dataclass(frozen=True)
class Listing:
    """The media of a job.

    Attributes:
        sources: In the order of the table, or sorted by path.
        lines: What was found and understood, for people.
        notes: What of it belongs into the dataset's provenance.
        left_out: What in a folder was not taken, and why, for people.
        program: The program for coding videos that wrote the table, if one did.
    """

    sources: Sequence[Source]
    lines: Sequence[str]
    notes: Sequence[str] = ()
    left_out: Sequence[str] = ()
    program: str = ""

    def clips(self) -> "pd.DataFrame":
        """Return a row for each source: `path`, `start` and `end` in seconds, and `labels`."""
        import pandas as pd  # it takes long, and extraction doesn't need it

        rows = [(x.path, x.start_seconds, x.end_seconds, list(x.labels)) for x in self.sources]
        return pd.DataFrame(rows, columns=["path", "start", "end", "labels"])


def list_media(config: ExtractConfig) -> Listing:
    """List the media that `extract.source` names.

    - A folder: the media files below it, recognised by suffix, sorted by path; hidden ones are
      left out.
    - A glob (`*`, `?`, `[...]` within a name, `**` for any folders): what it matches, sorted; only
      media files, unless the pattern has a suffix. One of tables is read as one table. Addresses
      have no `?`.
    - A table (`TABLE_SUFFIXES`) in its own order; `columns.py` says what it may hold. A relative
      path is relative to `extract.videos`, or else to the table's folder; a file that is not there
      is looked for below that folder, see `_below_by_name`. Labelled rows without a split are
      divided by video, unless `extract.split` says otherwise.

    The default id is the path (below the folder) without its suffix; files that differ only by
    suffix keep it, and a part of a file adds `@START-END`.

    Raises:
        ConfigError: No media are named.
        DataError: Nothing is found, or the table or one of its rows can't be used.
    """
    listing = _list(config)
    if config.text == NONE or config.transcript != "sidecar":
        return listing
    return replace(listing, lines=[*listing.lines, *_text_lines(listing.sources, config.language)])


def _list(config: ExtractConfig) -> Listing:
    address = config.source
    if not address:
        raise ConfigError("no media are named; give a folder, a glob or a table of videos")
    base, pattern = _split_glob(address)
    filesystem, root = open_address(base)
    with reaching(address):
        kind = filesystem.get_file_info(root).type
        if kind == fs.FileType.Directory:
            files, left_out = _below(filesystem, root)
            tables = [file for file in files if _suffix(pattern) in _TABLES]
            tables = [file for file in tables if _matches(file.split("/"), pattern.split("/"))]
            if tables:
                return _of_table(_together(filesystem, root, base, tables, config), config)
            return _of_files(config, base, files, pattern=pattern, left_out=left_out)
    if kind != fs.FileType.File or pattern:
        hint = near_name(address) or f"; give {_EXPECTED}"
        raise DataError(f"{address}: no media: there is no such file or folder{hint}")
    if locked := re.fullmatch(r"(?:~\$|\.~lock\.)(.+?)#?", root.rsplit("/", 1)[-1]):
        raise DataError(
            f"{address} is what an office program keeps beside an open file: give {locked[1]}"
        )
    suffix = _suffix(root)
    if suffix in _TABLES:
        with reaching(address):
            data = read_bytes(filesystem, root)
        return _of_table(_read(data, suffix, address, config), config)
    if is_media(root):
        folder, name = _folder_of(address), root.rsplit("/", 1)[-1]
        return _of_files(config, folder, [name])
    if suffix == ".boris":
        raise DataError(f"{address}: a project of BORIS: export its events as .csv or .xlsx")
    if suffix == ".xls":
        raise DataError(f"{address}: this is Excel's format before 2007: save it as .xlsx")
    raise DataError(f"{address}: '{suffix}' is not a suffix of media or tables; give {_EXPECTED}")


def check_present(sources: Sequence[Source]) -> None:
    """Check that not all files are missing, which is a mistake in their paths.

    Raises:
        DataError: They are.
    """
    paths = dict.fromkeys(source.path for source in sources)
    if any("://" in path or os.path.exists(path) for path in paths):
        return
    raise DataError(
        f"none of the files exists ({len(paths):,}, such as {next(iter(paths))}): check the paths; "
        "relative ones are relative to the table's folder, or to that of --videos"
    )


def list_annotations(source: str, tiers: Sequence[str] = ()) -> Listing:
    """List what files of ELAN, BORIS or Label Studio say; no splits are drawn.

    Args:
        source: A file, or a glob of several.
        tiers: Of ELAN's, those that are read; empty: all.
    """
    columns = {"labels": ",".join(tiers)} if tiers else {}
    return list_media(ExtractConfig(source=source, split=NONE, columns=columns))


def list_sources(address: str, *, split: str = "train") -> list[Source]:
    """List the sources of an address as they are, labelled or not; see `list_media`.

    Args:
        address: A local path, or an address that pyarrow or fsspec knows.
        split: The split of sources for which a table names none.
    """
    return [*list_media(ExtractConfig(source=address, split=split, unlabelled=True)).sources]


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


def _below(filesystem: fs.FileSystem, root: str) -> tuple[list[str], dict[str, str]]:
    """Return the files below a folder, relative to it and sorted; hidden ones left out.

    The second value says of what else is there why it can't be a source.
    """
    left_out: dict[str, str] = {}
    if isinstance(filesystem, fs.LocalFileSystem):
        files = list(_walk(root, "", {os.path.realpath(root)}, left_out))
    else:
        infos = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
        files = [info.path[len(root) :].lstrip("/") for info in infos if info.is_file]
    shown = [file for file in files if not any(n.startswith(".") for n in file.split("/"))]
    return sorted(shown), left_out


def _walk(root: str, folder: str, seen: set[str], left_out: dict[str, str]) -> Iterator[str]:
    """Yield the files below a local folder; no folder is entered twice, whatever links say."""
    place = os.path.join(root, folder)
    try:
        # links last: a folder is better known under its own name
        entries = sorted(os.scandir(place), key=lambda entry: (entry.is_symlink(), entry.name))
    except OSError as error:
        if not folder:
            raise
        left_out[folder] = f"can't be read: {error.strerror}"
        return
    for entry in entries:
        name = os.path.join(folder, entry.name)
        if entry.name.startswith("."):
            continue
        if not is_unicode(entry.name):
            left_out[name] = "its name is not in UTF-8; rename it"
        elif os.path.isdir(entry.path):
            real, top = os.path.realpath(entry.path), os.path.realpath(root)
            is_around = f"{top}/".startswith(f"{real.rstrip('/')}/")
            is_inside = f"{real}/".startswith(f"{top.rstrip('/')}/")
            if real in seen or is_around or (is_inside and entry.is_symlink()):
                left_out[name] = "a link to a folder that is listed already"
            else:
                seen.add(real)
                yield from _walk(root, name, seen, left_out)
        elif os.path.isfile(entry.path):
            yield name
        else:
            is_link = entry.is_symlink()
            left_out[name] = "a link to nothing" if is_link else "neither a file nor a folder"


def _of_files(
    config: ExtractConfig,
    folder: str,
    files: Sequence[str],
    *,
    pattern: str = "",
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> Listing:
    parts = pattern.split("/")
    if pattern:
        files = [file for file in files if _matches(file.split("/"), parts)]
        left_out = {f: why for f, why in left_out.items() if _matches(f.split("/"), parts)}
    others: list[str] = []
    if not re.fullmatch(r"\.\w+", _suffix(parts[-1])):
        others = [file for file in files if not is_media(file)]
        files = [file for file in files if is_media(file)]
    told = [*_other_files(folder, others, files), *(f"{f}: {why}" for f, why in left_out.items())]
    if not files:
        there = f"; left out: {'; '.join(told[:_MOST_NAMED])}" if told else ""
        raise DataError(
            f"{config.source}: no media files; expected names that end in .mp4, .wav, ...{there}"
        )
    split = _split_of_all(config)
    sources = [
        Source(path=_joined(folder, file), id=name, split=split)
        for file, name in zip(files, default_ids(files))
    ]
    if len(told) > _MOST_NAMED:
        told = [*told[:_MOST_NAMED], f"and {len(told) - _MOST_NAMED:,} more"]
    lines = [f"{config.source}: {counted(len(files), 'file')}, all in {split}"]
    return Listing(sources, lines, left_out=[f"left out: {line}" for line in told])


def _other_files(folder: str, others: Sequence[str], media: Sequence[str]) -> Iterator[str]:
    """Say which files have no suffix of media, apart from the texts of media."""
    stems = {os.path.splitext(file)[0] for file in media}
    names = [file for file in others if not _is_text_of(file, stems)]
    if names:
        kinds = Counter(_suffix(file) or "no suffix" for file in names)
        counts = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common(5))
        first = next((kind for kind in kinds if kind.startswith(".")), ".SUFFIX")
        yield (
            f"{counted(len(names), 'file')} without a suffix of media ({counts}): "
            f"{_named(names)}; to take some, name them, such as '{folder}/**/*{first}'"
        )


def _is_text_of(file: str, stems: Set[str]) -> bool:
    base, suffix = os.path.splitext(file)
    spoken = os.path.splitext(base)[0]  # without a language
    return suffix.lower() in SIDECARS and bool({base, spoken, os.path.splitext(spoken)[0]} & stems)


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


def _together(
    filesystem: fs.FileSystem, root: str, base: str, files: Sequence[str], config: ExtractConfig
) -> Table:
    """Read several tables as one. Paths become absolute: each table's are relative to itself."""
    where = config.source
    rows: list[Mapping[str, Any]] = []
    places: list[str] = []
    notes = dict.fromkeys([counted(len(files), "table")])
    names: tuple[str, ...] = ()
    program = ""
    for file in files:
        address = _joined(base, file)
        with reaching(address):
            data = read_bytes(filesystem, f"{root}/{file}")
        table = _read(data, _suffix(file), address, config)
        names, program = names or table.names, table.program
        if {*table.names} != {*names}:
            raise DataError(
                f"{where}: {file} has the headings {', '.join(table.names)}, but {files[0]} has "
                f"{', '.join(names)}; give them the same, or extract them one by one"
            )
        path = columns_of(table, _given(table, config)).of["path"] if table.rows else ""
        folder = config.videos or _folder_of(address)
        for row, place in zip(table.rows, table.places):
            inner = row.get(path)
            rows.append({**row, path: _joined(folder, inner)} if inner else row)
            places.append(f"{file}, {place}")
        notes |= dict.fromkeys(table.notes)
        if program and not table.rows:
            notes[f"no codes in {file}"] = None
    return Table(where, names, tuple(rows), tuple(places), tuple(notes), program)


def _read(data: bytes, suffix: str, where: str, config: ExtractConfig) -> Table:
    given = config.columns
    reading = Reading(lambda name: names_files(name, given), config.encoding, config.sheet)
    if suffix == ".eaf":
        tiers = given.get("labels", "").split(",")
        return read_eaf(data, where, [tier.strip() for tier in tiers if tier.strip()])
    if suffix == ".json":
        with suppress(ValueError, RecursionError):
            if is_label_studio(json.loads(data)):
                return read_label_studio(data, where)
    table = read_table(data, suffix, where, reading)
    if not config.unlabelled:
        check_not_label_studio(table, given)
    return read_boris(table) if is_boris(table) else table


def _given(table: Table, config: ExtractConfig) -> Mapping[str, str]:
    """Return the headings that were given; those of labels in ELAN's files are tiers."""
    given = config.columns
    return {role: given[role] for role in given if role != "labels" or table.program != ELAN}


def _of_table(table: Table, config: ExtractConfig) -> Listing:
    where, given = config.source, _given(table, config)
    if table.program and not table.rows:
        notes = "; ".join(table.notes)
        raise DataError(f"{where}: no span of a video has a label ({notes})")
    if not table.rows:
        raise DataError(f"{where}: the table has no rows; expected one for each media file.")
    rows, understood = understand(table, given, config.label_separator)
    rows, found = _located(rows, config)
    name, count = Counter(source.id for source in rows).most_common(1)[0]
    if count > 1:
        raise DataError(f"{where}: {count} rows have the id '{name}'; give each its own id.")
    if not understood.columns.labels and not config.unlabelled:
        raise DataError(
            f"{where}: no heading is that of the labels; there are {', '.join(table.names)}: add "
            "--column labels=HEADING, or --unlabelled if there are none"
        )
    _check_others(understood.columns.others, config)
    extra_fields(rows, where)
    sources, notes = _divided(rows, understood, config)
    lines = [_first_line(where, len(table.rows), understood), *found, *_label_lines(understood)]
    if understood.has_splits or config.split != NONE:
        lines += notes or [f"  splits: {_split_counts(sources)}"]
    lines += [f"  warning: {warning}" for warning in understood.warnings]
    return Listing(sources, lines, notes, program=table.program)


# Files of a table


def _located(rows: Sequence[Source], config: ExtractConfig) -> tuple[list[Source], list[str]]:
    """Give each row the place of its file; returns the rows, and what is to be said of it."""
    folder = config.videos or _folder_of(config.source)
    places = {source.path: _joined(folder, source.path) for source in rows}
    lacking = [path for path, place in places.items() if not _may_exist(place)]
    found: dict[str, str] = {}
    if lacking and "://" not in folder:
        found = _below_by_name(lacking, folder, names_only=bool(config.videos))
    told = ""
    if found:
        folders = {os.path.dirname(file) for file in found.values()}
        place = "below", folder
        if len(folders) == 1:
            place = "in", os.path.join(folder, *folders).rstrip("/")
        told = f"{len(found):,} of {len(places):,} found by name {' '.join(place)}"
    lost = [path for path in lacking if path not in found]
    if lost and len(lost) < len(places):  # else `check_present` says it
        told += f"{'; ' * bool(told)}{len(lost):,} missing: {_named(lost)}"
    places |= {path: _joined(folder, file) for path, file in found.items()}
    lines = [f"  files: {told}"] if told else []
    return [replace(source, path=places[source.path]) for source in rows], lines


def _may_exist(path: str) -> bool:
    return "://" in path or os.path.exists(path)


def _below_by_name(
    paths: Sequence[str], folder: str, *, names_only: bool = False
) -> dict[str, str]:
    r"""Look for files of a table below a folder, as people write `lesson01` or `C:\videos\a.mp4`.

    A file is that of a path if its name is the same, in upper or lower case and with or without its
    suffix, and so is its folder's name, if the path has one and `names_only` is not set. No file is
    taken where several are, or for two paths.
    """
    root = os.path.abspath(os.path.expanduser(folder))
    try:
        files, _ = _below(fs.LocalFileSystem(), root)
    except OSError:
        return {}
    above = os.path.basename(root)
    known: dict[tuple[str, ...], set[str]] = {}
    for file in filter(is_media, files):
        *_, parent, name = _parts(f"{above}/{file}")
        for called in (name, os.path.splitext(name)[0]):
            known.setdefault((called,), set()).add(file)
            known.setdefault((parent, called), set()).add(file)
    found: dict[str, str] = {}
    for path in paths:
        key = _parts(path)[-1 if names_only else -2 :]
        if len(files := known.get(key, set())) == 1:
            (found[path],) = files
    taken = Counter(found.values())
    return {path: file for path, file in found.items() if taken[file] == 1}


def _parts(path: str) -> tuple[str, ...]:
    """The names in a path, however an operating system writes them."""
    return tuple(re.split(r"[/\\]+", unicodedata.normalize("NFC", path.strip()).casefold()))


def _check_others(names: Sequence[str], config: ExtractConfig) -> None:
    asked = {"visual": config.visual, "audio": config.audio, "screen": config.screen}
    asked |= dict.fromkeys(("text", "speech"), config.text)
    used = [name for name, encoder in asked.items() if encoder != NONE]
    for name in names:
        if name in (*_OWN_COLUMNS, *used):
            raise DataError(
                f"{config.source}: raymc uses the name of the column '{name}' itself; rename it, "
                f"or say what it is with --column ROLE={name} ({', '.join(ROLES)})"
            )


def extra_fields(sources: Sequence[Source], where: str = "the table") -> list[pa.Field]:
    """Return the types of the columns that a dataset of these sources has beside its own.

    Raises:
        DataError: The values of a column have no type in common.
    """
    kinds = {"path": pa.string(), "start_seconds": pa.float64(), "end_seconds": pa.float64()}
    for name in dict.fromkeys(name for source in sources for name in source.extra):
        values = [source.extra.get(name) for source in sources]
        try:
            kind = pa.array(values).type
        except (pa.ArrowException, OverflowError) as error:
            raise DataError(f"{where}: {_mixed(name, sources)}") from error
        kinds[name] = pa.string() if kind == pa.null() else kind
    return [pa.field(name, kind) for name, kind in kinds.items()]


def _mixed(name: str, sources: Sequence[Source]) -> str:
    """Say which rows of a column have values of different kinds."""
    kinds: dict[type, Source] = {}
    for source in sources:
        if source.extra.get(name) is not None:
            kinds.setdefault(type(source.extra[name]), source)
    examples = [f"{one.extra[name]!r:.40} for {one.id}" for one in kinds.values()]
    shown = " and ".join(examples[:2]) if len(examples) > 1 else "values of different kinds inside"
    return f"{name} has {shown}; write values of one kind, such as texts in quotes"


# Splits


def _split_of_all(config: ExtractConfig) -> str:
    return SPLITS[0] if config.split in ("auto", NONE) else config.split


def _divided(
    rows: Sequence[Source], understood: Understood, config: ExtractConfig
) -> tuple[list[Source], list[str]]:
    """Give each row its split; returns the sources, and what was done if a draw was."""
    default = _split_of_all(config)
    if not understood.has_splits and config.split == "auto" and understood.counts:
        return _drawn(rows, understood, config)
    sources = [replace(source, split=source.split or default) for source in rows]
    return sources, []


def _drawn(
    rows: Sequence[Source], understood: Understood, config: ExtractConfig
) -> tuple[list[Source], list[str]]:
    groups = understood.groups or [""] * len(rows)
    videos = [group or source.path for group, source in zip(groups, rows)]
    labels = [source.labels for source in rows]
    splits = draw_splits(labels, videos, seed=config.seed)
    sources = [replace(source, split=split) for source, split in zip(rows, splits)]
    by = understood.columns.of.get("group")
    unit = "video" if by is None else f'"{by}"'
    if len(set(videos)) < FEWEST_VIDEOS:
        return sources, [f"  splits: none → all in train; a draw needs {FEWEST_VIDEOS} videos"]
    lone = lone_labels(labels, splits)
    told = (
        f"  splits: none → {_split_counts(sources)}, drawn by {unit}, balanced by label (seed "
        f"{config.seed}; --split none to leave all in train)"
    )
    if lone:
        told += f"; not in every split: {_named(lone)}"
    return sources, [told]


def _split_counts(sources: Sequence[Source]) -> str:
    counts = Counter(source.split for source in sources)
    usual = [name for name in SPLITS if counts[name]]
    return ", ".join(
        f"{counts[name]:,} {name}" for name in [*usual, *(counts.keys() - {*usual})] if name
    )


# What is said


def _text_lines(sources: Sequence[Source], language: str) -> Iterator[str]:
    """Say which text files beside the media will be read."""
    found = find_sidecars(dict.fromkeys(source.path for source in sources), language)
    taken = {path: files[0] for path, files in found.items() if files}
    endings = Counter(
        file[len(os.path.splitext(os.path.basename(path))[0]) :] for path, file in taken.items()
    )
    counts = ", ".join(f"{ending} {count:,}" for ending, count in endings.most_common(_MOST_NAMED))
    line = f"  text: {len(taken):,} of {counted(len(found), 'file')} have one beside them"
    lacking = [os.path.basename(path) for path in found if path not in taken]
    yield f"{line} ({counts})" + (f"; none: {_named(lacking)}" if lacking else "")
    several = [files for files in found.values() if len(files) > 1]
    if several:
        yield (
            f"  text: {len(several):,} have several, such as {_named(several[0])}; the first is "
            "read (--language to choose another)"
        )


def _first_line(where: str, rows: int, understood: Understood) -> str:
    columns = understood.columns
    parts = [counted(rows, "row"), *understood.notes, f'path ← "{columns.of["path"]}"']
    if columns.one_a_label:
        parts.append(f"labels ← {counted(len(columns.labels), 'column')}, one a label")
    elif columns.labels:
        told = f", split at {understood.separator}" if understood.separator else ""
        parts.append("labels ← " + ", ".join(f'"{name}"' for name in columns.labels) + told)
    else:
        parts.append("no labels")
    parts += [
        f'{role.removesuffix("_seconds")} ← "{name}"'
        for role, name in columns.of.items()
        if role != "path"
    ]
    if columns.others:
        parts.append(f"kept: {_named(columns.others)}")
    return f"{where}: {'; '.join(parts)}"


def _label_lines(understood: Understood) -> Iterator[str]:
    if not understood.counts:
        return
    counts = [f"{name} {count:,}" for name, count in understood.counts.items()]
    once = sum(count == 1 for count in understood.counts.values())
    yield f"  {counted(len(counts), 'label')}: {_named(counts)}" + (
        f"; {once} only once" if once else ""
    )


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")


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
