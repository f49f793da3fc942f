"""Tables that name sources: CSV, JSON lines or Parquet to plain rows.

Pure: pyarrow for Parquet only. What a CSV file holds stays text: an id of 007 isn't the number 7.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from datetime import date, time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymc.errors import DataError, first_line

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_PLAIN = (str, int, float, bytes, list, dict)


def read_rows(data: bytes, suffix: str, address: str) -> list[Mapping[str, Any]]:
    """Read the rows of a table as plain values; an empty field of a CSV file is None.

    Args:
        data: The file.
        suffix: One of `TABLE_SUFFIXES`.
        address: Of the file, for messages.

    Raises:
        DataError: The file isn't such a table, or a line of it is damaged.
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
            f"{address}: it can't be read as {suffix[1:]}: {reason}; write it again, in UTF-8."
        ) from error


def _csv_rows(text: str, delimiter: str, address: str) -> Iterator[Mapping[str, Any]]:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names = next(lines, [])
    if len(set(names)) < len(names):
        raise DataError(f"{address}: a column stands there twice: {', '.join(names)}; rename one.")
    for number, fields in enumerate((fields for fields in lines if fields), 1):
        if len(fields) != len(names):
            raise DataError(
                f"{address}: row {number} has not as many fields as the first line: "
                f"{len(fields)} and {len(names)}; put fields with a comma in quotes."
            )
        yield {name: field or None for name, field in zip(names, fields)}


def _json_rows(text: str, address: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        row = json.loads(line) if line.strip() else {}
        if not isinstance(row, dict):
            raise DataError(f"{address}: line {number} is no object; expected one with a 'path'.")
        if row:
            yield row


def _parquet_rows(data: bytes) -> Iterator[Mapping[str, Any]]:
    for row in pq.read_table(pa.BufferReader(data), use_threads=False).to_pylist():
        yield {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, _PLAIN):
        return value
    return value.isoformat() if isinstance(value, date | time) else str(value)
