"""Rows to one Parquet file: what a row is, its checks, and `write_shard`.

The same rows give the same bytes: no compression, no dictionaries, one row group, and a fixed
order of columns.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Shaped
from pyarrow import fs

from raymc.data import storage
from raymc.data.labels import Vocabulary
from raymc.data.shards.tokens import RESERVED_COLUMNS, Modality, encode_tokens
from raymc.errors import DataError, first_line

_NAMES = pa.list_(pa.string())


@dataclass(frozen=True)
class Row:
    """One video clip.

    Attributes:
        id: Unique in the whole dataset.
        labels: Names from the vocabulary; may be empty.
        tokens: [tokens, dim] per modality; None, no tokens or no entry if it is missing.
        observed: The label groups that were annotated; None means all.
        extra: Further columns, stored but not interpreted, e.g. `url` or `start_seconds`.
    """

    id: str
    labels: Sequence[str]
    tokens: Mapping[str, Shaped[np.ndarray, "..."] | None]
    observed: Sequence[str] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Rows(Protocol):
    """The rows of a split by number: a list, or an object that makes row i on demand."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def __getitem__(self, i: int, /) -> Row:
        """Return row i, the same each time."""
        ...


def write_shard(
    filesystem: fs.FileSystem,
    path: str,
    rows: Sequence[Row],
    *,
    modalities: Sequence[Modality],
    extra_fields: Sequence[pa.Field] = (),
    with_observed: bool = False,
    first_row: int = 0,
) -> tuple[int, int, str]:
    """Write one shard atomically.

    Args:
        filesystem: Where to write.
        path: Its path inside `filesystem`, ending in SPLIT/FILE.
        rows: All its rows.
        modalities: Columns of tokens.
        extra_fields: Extra columns, null in rows that lack them.
        with_observed: Whether to write the column `observed`.
        first_row: Number of the first row in its split, for messages.

    Returns:
        The number of rows and of bytes, and the SHA-256 in hex.

    Raises:
        DataError: A row is invalid (the message has its split, number, id and column), or the
            file can't be written.
    """
    extras = {extra.name for extra in extra_fields}
    _check_ids(rows, path, first_row)
    _check_keys(rows, {modality.name for modality in modalities}, extras, path, first_row)
    columns = [pa.array([row.id for row in rows], pa.string())]
    fields = [pa.field("id", pa.string()), pa.field("labels", _NAMES)]
    columns.append(pa.array([list(row.labels) for row in rows], _NAMES))
    if with_observed:
        observed = [None if row.observed is None else list(row.observed) for row in rows]
        columns.append(pa.array(observed, _NAMES))
        fields.append(pa.field("observed", _NAMES))
    for modality in modalities:
        columns.append(_token_column(rows, modality, path, first_row))
        fields.append(modality.to_field())
    for extra in extra_fields:
        columns.append(_extra_column(rows, extra.name, extra.type, path))
        fields.append(extra)
    return write_table(filesystem, path, pa.table(columns, schema=pa.schema(fields)))


def write_table(filesystem: fs.FileSystem, path: str, table: pa.Table) -> tuple[int, int, str]:
    """Write the rows of a shard, as columns, atomically.

    Returns the number of rows and of bytes, and the SHA-256 in hex. Raises `DataError` if the file
    can't be written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=max(len(table), 1),
        compression="none",
        use_dictionary=False,
        write_statistics=False,
    )
    data = sink.getvalue()
    with storage.reaching(path):
        storage.write_bytes(filesystem, path, data)
    return len(table), data.size, hashlib.sha256(data).hexdigest()


def check_names(rows: Sequence[Row], vocabulary: Vocabulary, path: str, first_row: int) -> None:
    """Check the labels and observed groups of a shard's rows.

    Raises `DataError` for a name that is not in the vocabulary, with the nearest one that is.
    """
    known = set(vocabulary.names)
    for i, row in enumerate(rows):
        if isinstance(row.labels, str) or isinstance(row.observed, str):
            where = _where(path, first_row + i, row)
            raise DataError(f"{where}: labels or observed is a string; expected a list of names")
        try:
            for name in sorted(set(row.labels) - known):
                vocabulary.index(name)
            if row.observed is not None and not vocabulary.groups.keys() >= set(row.observed):
                vocabulary.encode_observed([row.observed])
        except DataError as error:
            raise DataError(f"{_where(path, first_row + i, row)}: {error}") from error


def infer_extra_fields(rows: Sequence[Row], path: str) -> list[pa.Field]:
    """Return the extra columns with their types; one that is None in all rows is text.

    Raises `DataError` if the values of a column have no common type.
    """
    kinds = {
        name: _extra_column(rows, name, None, path).type
        for name in dict.fromkeys(name for row in rows for name in row.extra)
    }
    return [
        pa.field(name, pa.string() if kind == pa.null() else kind) for name, kind in kinds.items()
    ]


def extra_fields_of(schema: pa.Schema, modalities: Sequence[Modality]) -> list[pa.Field]:
    """Return the extra columns of a shard's schema."""
    own = {*RESERVED_COLUMNS, *(modality.name for modality in modalities)}
    return [pa.field(field.name, field.type) for field in schema if field.name not in own]


def _where(path: str, number: int, row: Row) -> str:
    split = path.rsplit("/", 2)[-2]
    return f"split '{split}', row {number} (id '{row.id}')"


def _check_ids(rows: Sequence[Row], path: str, first_row: int) -> None:
    seen: set[str] = set()
    for i, row in enumerate(rows):
        if not row.id or row.id in seen:
            where = _where(path, first_row + i, row)
            raise DataError(f"{where}: the id is empty or already used; give each row its own id")
        seen.add(row.id)


def _check_keys(
    rows: Sequence[Row], tokens: set[str], extras: set[str], path: str, first_row: int
) -> None:
    for name in sorted(extras & {*RESERVED_COLUMNS, *tokens}):
        raise DataError(f"{path}: raymc uses the name of the extra column '{name}'; rename it")
    for i, row in enumerate(rows):
        if row.tokens.keys() <= tokens and row.extra.keys() <= extras:
            continue
        where = _where(path, first_row + i, row)
        for name in sorted(row.tokens.keys() - tokens):
            raise DataError(f"{where}: no modality '{name}'; there are {', '.join(sorted(tokens))}")
        for name in sorted(row.extra.keys() - extras):
            raise DataError(
                f"{where}: no row of the first shard has the extra column '{name}'; give all rows "
                "the same extra columns, with None for missing values"
            )


def _token_column(rows: Sequence[Row], modality: Modality, path: str, first_row: int) -> pa.Array:
    values: list[bytes | None] = []
    for i, row in enumerate(rows):
        try:
            values.append(encode_tokens(row.tokens.get(modality.name), modality))
        except DataError as error:
            where = _where(path, first_row + i, row)
            raise DataError(f"{where}, modality '{modality.name}': {error}") from error
    return pa.array(values, pa.large_binary())


def _extra_column(rows: Sequence[Row], name: str, kind: pa.DataType | None, path: str) -> pa.Array:
    values = [row.extra.get(name) for row in rows]
    try:
        column = pa.array(values)
        if kind is not None and column.type != kind:
            # each refuses what the other lets pass
            pa.array(values, kind)  # refuses text as a number, but rounds 1.5 to an integer
            column = column.cast(kind)  # refuses to round, but accepts numbers as text
        return column
    except (pa.ArrowException, OverflowError) as error:
        expected = f"{kind}, as in the first shard" if kind else "one type"
        reason = first_line(error)
        raise DataError(f"{path}: extra column '{name}': {reason}; expected {expected}") from error
