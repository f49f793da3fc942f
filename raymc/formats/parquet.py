"""Parquet files of other tools to rows: tokens in any layout that raymc reads become its own.

The files are read twice: once for ids, labels and splits, then forward, a few rows at a time, when
the rows are written. Their row groups may have a million rows, more than fits into memory, so only
a page of each column is held.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from raymc.config import ParquetConfig
from raymc.data import storage
from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Ragged, Row, ragged
from raymc.data.shards.ragged import is_list
from raymc.data.shards.read import infer_modality
from raymc.data.shards.tokens import RESERVED_COLUMNS
from raymc.errors import ConfigError, DataError, first_line
from raymc.formats.recipe import DatasetRecipe, LazyRows

_BATCH_ROWS = 32
_BUFFER_BYTES = 1 << 20  # of each column


@dataclass(frozen=True)
class ParquetFile:
    """A file; `name` is its path inside the folder, `split` is empty where a column tells it."""

    filesystem: fs.FileSystem
    path: str
    name: str
    split: str


@dataclass(frozen=True)
class RowGroup:
    """A row group; `first_row` is a number through all files, `first_of_file` through its own."""

    file: ParquetFile
    number: int
    rows: int
    first_row: int
    first_of_file: int


@dataclass(frozen=True)
class Batch:
    """Some rows that follow each other; `first_row` and `first_of_file` as in `RowGroup`."""

    columns: pa.RecordBatch
    file: ParquetFile
    first_row: int
    first_of_file: int

    def __contains__(self, row: int) -> bool:
        return self.first_row <= row < self.first_row + len(self.columns)


def parquet(config: ParquetConfig) -> DatasetRecipe:
    """Return the recipe of a dataset in Parquet files of other tools.

    Ids, labels and splits are read at once; tokens are read when a row is made. The vocabulary is
    all labels, sorted by name.

    Raises:
        ConfigError: The settings don't fit each other, or don't say what bytes mean.
        DataError: A file can't be read, lacks a column, or has invalid values.
    """
    _check_config(config)
    places = config.split_files or {"": config.files}
    files = [file for split, address in places.items() for file in _find_files(address, split)]
    contents = Contents(config)
    for file in files:
        contents.take(file)
    contents.check()
    with _opened(files[0]) as first:
        modalities = tuple(_modality(config, name, first, files[0]) for name in config.columns)
    reader = RowReader(config, modalities, contents.groups)
    return DatasetRecipe(
        vocabulary=Vocabulary(tuple(sorted(contents.labels))),
        modalities=modalities,
        splits={
            split: LazyRows(len(rows), partial(reader.row, rows))
            for split, rows in contents.rows.items()
        },
        provenance={
            "files": [
                {"split": f.split, "file": f.name, "sha256": storage.digest(f.filesystem, f.path)}
                for f in files
            ],
            "settings": {
                "columns": dict(config.columns),
                "id": config.id,
                "labels": config.labels,
                "label_separator": config.label_separator,
                "split": config.split,
                "keep": list(config.keep),
            },
            "notes": contents.notes(),
        },
        license=config.license,
    )


def _modality(
    config: ParquetConfig, name: str, source: pq.ParquetFile, file: ParquetFile
) -> Modality:
    column, where = config.columns[name], f"{file.path}: '{config.columns[name]}'"
    field = source.schema_arrow.field(column)
    dim, dtype = config.dims.get(name), config.dtypes.get(name)
    remedy = f"give dims.{name} and dtypes.{name} if it holds bytes, else choose another column"
    try:
        stated = Modality.from_field(field)
        told = Modality(name, dim, dtype) if dim and dtype else infer_modality(field, source)
    except DataError as error:
        raise DataError(f"{where}: {error}; or {remedy}.") from error
    found = stated or told
    if found is None:
        raise ConfigError(f"{where} is {field.type}, which has no dim and dtype; {remedy}.")
    if not stated and name not in config.rates_hz:
        raise ConfigError(f"rates_hz.{name} is missing; give the tokens per second of '{column}'.")
    return replace(
        found,
        name=name,
        dim=dim or found.dim,
        dtype=dtype or found.dtype,
        rate_hz=config.rates_hz.get(name, found.rate_hz),
        encoder=found.encoder or f"{file.name}: {column}",
    )


def _check_config(config: ParquetConfig) -> None:
    if bool(config.files) == bool(config.split_files):
        raise ConfigError("give either `files`, with the column `split`, or `split_files`.")
    if bool(config.files) != bool(config.split):
        raise ConfigError(
            "`split` names the column that tells the splits of `files` apart; give both, or the "
            "files of each split as `split_files`."
        )
    for key in ("rates_hz", "dims", "dtypes"):
        for name in getattr(config, key):
            if name not in config.columns:
                known = ", ".join(sorted(config.columns))
                raise ConfigError(f"{key}.{name}: no such modality; `columns` has {known}.")
    for name in config.keep:
        if name in (*RESERVED_COLUMNS, *config.columns):
            raise ConfigError(f"keep: raymc uses the name '{name}' for another column.")


def _check_columns(config: ParquetConfig, file: ParquetFile, schema: pa.Schema) -> None:
    kinds = {
        config.id: ("text or whole numbers", _is_text, pa.types.is_integer),
        config.labels: ("text or lists of it", _is_text, _is_texts, pa.types.is_null),
        **({config.split: ("text", _is_text)} if config.split else {}),
        **dict.fromkeys(config.keep, ("text, numbers, or true and false", _is_plain)),
    }
    for name in (*kinds, *config.columns.values()):
        found = schema.names.count(name)
        if found != 1:
            raise DataError(
                f"{file.path}: {found or 'no'} columns '{name}'; expected one, there are "
                f"{', '.join(schema.names)}."
            )
    for name, (expected, *tests) in kinds.items():
        kind = schema.field(name).type
        if not any(test(kind) for test in tests):
            raise DataError(f"{file.path}: '{name}' is {kind}; expected {expected}.")


def _is_text(kind: pa.DataType) -> bool:
    held = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return pa.types.is_string(held) or pa.types.is_large_string(held)


def _is_texts(kind: Any) -> bool:
    return is_list(kind) and (_is_text(kind.value_type) or pa.types.is_null(kind.value_type))


def _is_plain(kind: pa.DataType) -> bool:
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return _is_text(kind) or number or pa.types.is_null(kind)


class Contents:
    """What the files say about their rows besides the tokens, collected file by file."""

    def __init__(self, config: ParquetConfig) -> None:
        self.config = config
        self.groups: list[RowGroup] = []
        self.rows: dict[str, array[int]] = {}  # of each split, numbered through all files
        self.labels: set[str] = set()
        self.unlabelled = 0
        self.count = 0
        self._ids: list[pa.Array] = []

    def take(self, file: ParquetFile) -> None:
        """Add a file."""
        config, before = self.config, self.count
        wanted = {config.id, config.labels, config.split} - {""}
        with _opened(file) as source:
            _check_columns(config, file, source.schema_arrow)
            row = 0
            for number in range(source.num_row_groups):
                rows = source.metadata.row_group(number).num_rows
                self.groups.append(RowGroup(file, number, rows, before + row, row))
                row += rows
            for columns in source.iter_batches(columns=sorted(wanted)):
                self._take_batch(Batch(columns, file, self.count, self.count - before))

    def _take_batch(self, batch: Batch) -> None:
        config = self.config
        ids = batch.columns.column(config.id).cast(pa.string())
        splits: list[str | None] = [batch.file.split] * len(ids)
        if config.split:
            splits = batch.columns.column(config.split).to_pylist()
        names = batch.columns.column(config.labels).to_pylist()
        for k, (clip, split, value) in enumerate(zip(ids.to_pylist(), splits, names)):
            labels = _labels(value, config.label_separator)
            if not clip or not split or not all(labels):
                column = config.id if not clip else config.split if not split else config.labels
                raise DataError(
                    f"{batch.file.path}, row {batch.first_of_file + k}: '{column}' is empty or "
                    "null, or has such a value; fill it in, or leave the row out."
                )
            self.labels.update(labels)
            self.unlabelled += not labels
            self.rows.setdefault(split, array("q")).append(self.count + k)
        self._ids.append(ids)
        self.count += len(ids)

    def check(self) -> None:
        """Check that there are rows, and that no id is used twice."""
        if not self.count:
            raise DataError(f"{self.config.files or self.config.split_files}: no rows in any file.")
        ids = pa.chunked_array(self._ids)
        counts = pc.call_function("value_counts", [ids])
        repeated = counts.filter(pc.call_function("greater", [counts.field("counts"), 1]))
        for clip in repeated.field("values")[:1]:
            first = pc.index(ids, clip).as_py()
            places = (first, pc.index(ids, clip, start=first + 1).as_py())
            raise DataError(
                f"id '{clip}' is in {' and in '.join(map(self._where, places))}; expected each id "
                "once: rename one, or leave a row out."
            )

    def _where(self, row: int) -> str:
        group = next(g for g in self.groups if row < g.first_row + g.rows)
        return f"{group.file.path}, row {row - group.first_row + group.first_of_file}"

    def notes(self) -> list[str]:
        """Return what a user may not expect."""
        notes = [f"{self.unlabelled} of {self.count} rows have no label."] * (self.unlabelled > 0)
        if not {"train", "val"} <= self.rows.keys():
            notes.append(
                f"the splits are {', '.join(self.rows)}; training reads 'train' and 'val' unless "
                "you name others."
            )
        return notes


class RowReader:
    """Makes rows of the batches that it is given; those of one batch are decoded together."""

    def __init__(
        self,
        config: ParquetConfig,
        modalities: tuple[Modality, ...],
        groups: list[RowGroup],
    ) -> None:
        self.config = config
        self.modalities = modalities
        wanted = dict.fromkeys([config.id, config.labels, *config.columns.values(), *config.keep])
        self._reader = ForwardReader(groups, list(wanted))
        self._batch: Batch | None = None
        self._tokens: dict[str, Ragged] = {}

    def row(self, rows: Sequence[int], i: int) -> Row:
        """Row i of a split, whose rows are `rows` of the files."""
        config, batch = self.config, self._reader.batch(rows[i])
        if batch is not self._batch:
            self._batch, self._tokens = batch, self._decode(batch)
        k = rows[i] - batch.first_row
        return Row(
            id=str(_value(batch, config.id, k)),
            labels=_labels(_value(batch, config.labels, k), config.label_separator),
            tokens={name: tokens.row(k) for name, tokens in self._tokens.items()},
            extra={name: _value(batch, name, k) for name in config.keep},
        )

    def _decode(self, batch: Batch) -> dict[str, Ragged]:
        columns = self.config.columns
        try:
            return {
                m.name: ragged(batch.columns.column(columns[m.name]), m) for m in self.modalities
            }
        except DataError as error:
            raise DataError(
                f"{batch.file.path}, counted from row {batch.first_of_file}: {error}"
            ) from error


def _value(batch: Batch, column: str, k: int) -> Any:
    try:
        return batch.columns.column(column)[k].as_py()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{batch.file.path}, row {batch.first_of_file + k}: '{column}' is not UTF-8 ({error})."
        ) from error


def _labels(value: str | list[str | None] | None, separator: str) -> tuple[str, ...]:
    """The labels of a row, each once; "" for one that is null or empty in a list."""
    if isinstance(value, str):
        parts = (part.strip() for part in (value.split(separator) if separator else [value]))
        return tuple(dict.fromkeys(part for part in parts if part))
    return tuple(dict.fromkeys(name or "" for name in value or ()))


def _find_files(address: str, split: str = "") -> list[ParquetFile]:
    """Find Parquet files, sorted by path; names that begin with a dot or _ are left out.

    `address` is a file, a folder with all below it, or a pattern in which * stands for anything
    within the name of a file or folder; local, or what pyarrow or fsspec knows.
    """
    before, star, _ = address.partition("*")
    head, slash, _ = before.rpartition("/")
    base, pattern = (head or slash or ".", address[len(head + slash) :]) if star else (address, "")
    filesystem, root = storage.open_address(base)
    with storage.reaching(address):
        if filesystem.get_file_info(root).is_file:
            return [ParquetFile(filesystem, root, PurePosixPath(root).name, split)]
        names = list(storage.parquet_files(filesystem, root))
    # a pattern from the root must match the whole of a path
    found = [n for n in names if not pattern or PurePosixPath(f"/{n}").match(f"/{pattern}")]
    if not found:
        raise DataError(f"{address}: no files *.parquet; give a file, a folder or a pattern.")
    return [ParquetFile(filesystem, f"{root}/{name}", name, split) for name in found]


@contextmanager
def _opened(file: ParquetFile) -> Iterator[pq.ParquetFile]:
    """Open a file such that its batches take little memory, however large its row groups."""
    try:
        with file.filesystem.open_input_file(file.path) as stream:
            yield pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = first_line(error)
        raise DataError(
            f"{file.path}: can't be read as Parquet ({reason}); copy it again or leave it out."
        ) from error


class ForwardReader:
    """Gives the rows of files by number, quickly where they are asked for in order."""

    def __init__(self, groups: Sequence[RowGroup], columns: Sequence[str]) -> None:
        self._groups = groups
        self._columns = list(columns)
        self._first_rows = [group.first_row for group in groups]
        self._batches: Iterator[Batch] = iter(())
        self._held: Batch | None = None

    def batch(self, row: int) -> Batch:
        """Return the batch that holds a row; the same object as before, if it still does."""
        if self._held is None or row not in self._held:
            group = self._groups[bisect_right(self._first_rows, row) - 1]
            is_ahead = self._held and group.first_row <= self._held.first_row <= row
            if not is_ahead:
                self._batches = _batches(group, self._columns)
            self._held = next((batch for batch in self._batches if row in batch), None)
            if self._held is None:
                raise DataError(f"{group.file.path}: changed while it was read; run again.")
        return self._held


def _batches(group: RowGroup, columns: list[str]) -> Iterator[Batch]:
    done = 0
    with _opened(group.file) as source:
        for columns_of_batch in source.iter_batches(_BATCH_ROWS, [group.number], columns):
            yield Batch(
                columns_of_batch, group.file, group.first_row + done, group.first_of_file + done
            )
            done += len(columns_of_batch)
