"""Parquet files of others to rows: tokens in any layout that raymc reads, on to its own.

Raw bytes, tensors and lists become bytes that tell what they mean. Imports pyarrow;
`parquet_file.py` finds the files and reads them.
"""

from array import array
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymc.config import ParquetConfig
from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Ragged, Row, ragged
from raymc.data.shards.ragged import is_list
from raymc.data.shards.read import infer_modality
from raymc.data.shards.tokens import RESERVED_COLUMNS
from raymc.data.storage import digest
from raymc.errors import ConfigError, DataError
from raymc.formats.parquet_file import (
    Batch,
    ForwardReader,
    ParquetFile,
    RowGroup,
    find_files,
    opened,
)
from raymc.formats.recipe import DatasetRecipe, LazyRows

# Which columns of Parquet files mean what: the settings, and whether they and the files fit. May
# import the shards, for the layouts of tokens.


def check_config(config: ParquetConfig) -> None:
    """Check that the settings fit each other.

    Raises:
        ConfigError: They don't.
    """
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
                raise ConfigError(f"{key}.{name} is of no modality; `columns` has {known}.")
    for name in config.keep:
        if name in (*RESERVED_COLUMNS, *config.columns):
            raise ConfigError(f"keep: the name '{name}' is taken by another column of raymc's.")


def check_columns(config: ParquetConfig, file: ParquetFile, schema: pa.Schema) -> None:
    """Check that a file has the columns of the settings, and that they hold what they should.

    Raises:
        DataError: One is missing, stands there twice, or is of another type.
    """
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
            raise DataError(f"{file.path}: '{name}' is of {kind}; expected {expected}.")


def _is_text(kind: pa.DataType) -> bool:
    held = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return pa.types.is_string(held) or pa.types.is_large_string(held)


def _is_texts(kind: Any) -> bool:
    return is_list(kind) and (_is_text(kind.value_type) or pa.types.is_null(kind.value_type))


def _is_plain(kind: pa.DataType) -> bool:
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return _is_text(kind) or number or pa.types.is_null(kind)


# Rows of Parquet files: looked through for ids, labels and splits, then read one by one. Imports
# pyarrow. The tokens are left alone until a row is asked for.


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
        with opened(file) as source:
            check_columns(config, file, source.schema_arrow)
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
                    f"{batch.file.path}, row {batch.first_of_file + k}: '{column}' is or has an "
                    "empty value or null; fill it in, or leave the row out."
                )
            self.labels.update(labels)
            self.unlabelled += not labels
            self.rows.setdefault(split, array("q")).append(self.count + k)
        self._ids.append(ids)
        self.count += len(ids)

    def check(self) -> None:
        """Check that there are rows, and that no id is used twice.

        Raises:
            DataError: There are none, or one is.
        """
        if not self.count:
            raise DataError(f"{self.config.files or self.config.split_files}: no rows in any file.")
        ids = pa.chunked_array(self._ids)
        counts = pc.call_function("value_counts", [ids])
        repeated = counts.filter(pc.call_function("greater", [counts.field("counts"), 1]))
        for clip in repeated.field("values")[:1]:
            first = pc.index(ids, clip).as_py()
            places = (first, pc.index(ids, clip, start=first + 1).as_py())
            raise DataError(
                f"id '{clip}' stands in {' and in '.join(map(self._where, places))}; expected each "
                "id once: rename one, or leave a row out."
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
                "it is told other names."
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
            f"{batch.file.path}, row {batch.first_of_file + k}: '{column}' is no UTF-8 ({error})."
        ) from error


def _labels(value: str | list[str | None] | None, separator: str) -> tuple[str, ...]:
    """The labels of a row, each once; "" for one that is null or empty in a list."""
    if isinstance(value, str):
        parts = (part.strip() for part in (value.split(separator) if separator else [value]))
        return tuple(dict.fromkeys(part for part in parts if part))
    return tuple(dict.fromkeys(name or "" for name in value or ()))


def parquet(config: ParquetConfig) -> DatasetRecipe:
    """The recipe of a dataset that stands in Parquet files of others.

    Ids, labels and splits are looked through at once; tokens are read when a row is asked for.
    The vocabulary is all labels, sorted by name.

    Raises:
        ConfigError: The settings don't fit each other, or don't tell what bytes mean.
        DataError: A file can't be read, lacks a column, or holds something unexpected in one.
    """
    check_config(config)
    places = config.split_files or {"": config.files}
    files = [file for split, address in places.items() for file in find_files(address, split)]
    contents = Contents(config)
    for file in files:
        contents.take(file)
    contents.check()
    with opened(files[0]) as first:
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
                {"split": f.split, "file": f.name, "sha256": digest(f.filesystem, f.path)}
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
    """Find out what a column means: from the settings, its metadata, or its type."""
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
        raise ConfigError(f"{where} is of {field.type}, which tells no dim and dtype; {remedy}.")
    if not stated and name not in config.rates_hz:
        raise ConfigError(f"rates_hz.{name} is missing; give the tokens a second of '{column}'.")
    return replace(
        found,
        name=name,
        dim=dim or found.dim,
        dtype=dtype or found.dtype,
        rate_hz=config.rates_hz.get(name, found.rate_hz),
        encoder=found.encoder or f"{file.name}: {column}",
    )
