"""Rows of Parquet files: looked through for ids, labels and splits, then read one by one.

Imports pyarrow. The tokens are left alone until a row is asked for.
"""

from array import array
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raymc.datasets.parquet_columns import ParquetConfig, check_columns
from raymc.datasets.parquet_file import Batch, ForwardReader, ParquetFile, RowGroup, opened
from raymc.errors import DataError
from raymc.shards import Modality, Ragged, Row, ragged


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
