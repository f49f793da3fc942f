"""Columns of names to class numbers, in Arrow: labels and annotated groups of many rows at once.

Pure: NumPy and pyarrow. What `Vocabulary.encode` does of lists, without making a Python string
of every name.
Axes: N rows, C classes, P labels of all rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int64

from raymc.errors import DataError
from raymc.labels import Vocabulary, unknown_name
from raymc.shards.ragged import unnest


def label_entries(
    column: pa.ChunkedArray | pa.Array, vocabulary: Vocabulary, *, first_row: int = 0
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """Return each label's row and class, by row and class, none twice.

    It is the multi-hot matrix of `multi_hot` in little memory, however many classes there are.

    Args:
        column: Lists of names; null is an empty one.
        vocabulary: All names.
        first_row: The number that messages give to the first of these rows.

    Raises:
        DataError: A name that is not in the vocabulary, with its row and the nearest name.
    """
    return _entries(column, vocabulary.names, "label", first_row)


def multi_hot(
    column: pa.ChunkedArray | pa.Array, vocabulary: Vocabulary, *, first_row: int = 0
) -> Bool[np.ndarray, "N C"]:
    """Return `Vocabulary.encode` of a column of lists of names; null is an empty list.

    Raises:
        DataError: As of `label_entries`.
    """
    encoded = np.zeros((len(column), len(vocabulary)), dtype=bool)
    encoded[label_entries(column, vocabulary, first_row=first_row)] = True
    return encoded


def observed_classes(
    column: pa.ChunkedArray | pa.Array, vocabulary: Vocabulary, *, first_row: int = 0
) -> Bool[np.ndarray, "N C"]:
    """Return `Vocabulary.encode_observed` of a column of lists of groups.

    Raises:
        DataError: A group that is not in the vocabulary, with its row and the nearest name.
    """
    members = vocabulary.group_members()
    rows, groups = _entries(column, members, "group", first_row)
    free = ~np.any(list(members.values()), axis=0) if members else True
    encoded = np.empty((len(column), len(vocabulary)), dtype=bool)
    encoded[:] = free
    encoded[column.is_null().to_numpy(zero_copy_only=False)] = True
    for group, classes in enumerate(members.values()):
        encoded[np.ix_(rows[groups == group], classes)] = True
    return encoded


def _entries(
    column: pa.ChunkedArray | pa.Array,
    known: Sequence[str] | Mapping[str, Any],
    kind: str,
    first_row: int,
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lengths, names = unnest(cast(pa.Array, array))
    rows = np.repeat(np.arange(len(lengths)), lengths)
    found = pc.call_function(
        "index_in", [names.cast(pa.string())], pc.SetLookupOptions(pa.array(known, pa.string()))
    )
    for at in np.flatnonzero(found.is_null().to_numpy(zero_copy_only=False))[:1]:
        name = str(names[int(at)].as_py())
        raise DataError(f"row {first_row + rows[at]}: {unknown_name(kind, name, known)}")
    entries = np.unique(rows * len(known) + found.to_numpy())
    return entries // max(len(known), 1), entries % max(len(known), 1)
