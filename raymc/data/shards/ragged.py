"""Columns to arrays: tokens end to end with offsets, and names as class numbers.

The byte layout that raymc writes is viewed without a copy; tensors and lists, as other tools
write them, are converted.
Axes: N rows, T tokens of one row, S tokens of all rows, D dim, C classes, P labels of all rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int64, Shaped, UInt8

from raymc.data.labels import Vocabulary, unknown_name
from raymc.data.shards.tokens import Modality
from raymc.errors import DataError


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, end to end in one array.

    Attributes:
        values: The tokens of all rows; read-only if they are a view of Arrow's memory.
        offsets: Row i has the tokens `offsets[i]` to `offsets[i + 1]`; N + 1 numbers.
    """

    values: Shaped[np.ndarray, "S D"]
    offsets: Int64[np.ndarray, " N_plus_1"]

    def __len__(self) -> int:
        """Return the number of rows N."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[np.ndarray, " N"]:
        """The number of tokens of each row; 0 where the modality is missing."""
        return np.diff(self.offsets)

    def row(self, i: int) -> Shaped[np.ndarray, "T D"]:
        """Return the tokens of row i, as a view."""
        return self.values[self.offsets[i] : self.offsets[i + 1]]


def ragged(column: pa.ChunkedArray | pa.Array, modality: Modality) -> Ragged:
    """Turn a column of tokens into one array and the offsets of its rows.

    Only bytes in a single chunk are not copied. Null and empty rows have 0 tokens.

    Args:
        column: Bytes (`binary`, `large_binary`, `fixed_size_binary`), `fixed_shape_tensor`
            of [T, D] or [D], lists of lists [T, D], or lists of D numbers (one token).
        modality: What the column means; the result has its dtype.

    Raises:
        DataError: A row is not made of whole tokens of D values, or the column has another type.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts: list[Ragged] = []
    first_row = 0
    for chunk in chunks:
        if len(chunk):
            parts.append(_ragged_chunk(chunk, modality, first_row))
            first_row += len(chunk)
    if len(parts) == 1:
        return parts[0]
    empty = np.empty((0, modality.dim), modality.numpy_dtype)
    values = np.concatenate([empty, *(part.values for part in parts)])
    return Ragged(values, _to_offsets(*(part.lengths for part in parts)))


def _ragged_chunk(array: pa.Array, modality: Modality, first_row: int) -> Ragged:
    kind = array.type
    if pa.types.is_fixed_size_binary(kind):
        return _of_bytes(*_fixed_bytes(array), modality, first_row)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _of_bytes(*_variable_bytes(array), modality, first_row)
    if isinstance(array, pa.FixedShapeTensorArray):
        return _of_tensors(array, modality)
    if is_list(kind):
        return _of_lists(array, modality, first_row)
    raise DataError(
        f"modality '{modality.name}': the column's type is {kind}; expected bytes, "
        "fixed_shape_tensor or lists of numbers"
    )


def _of_bytes(
    data: UInt8[np.ndarray, " bytes"],
    sizes: Int64[np.ndarray, " N"],
    modality: Modality,
    first_row: int,
) -> Ragged:
    for row in np.flatnonzero(sizes % modality.token_bytes)[:1]:
        raise DataError(
            f"modality '{modality.name}', row {first_row + row}: {sizes[row]} bytes are not a "
            f"multiple of a token's {modality.token_bytes} (dim {modality.dim} of "
            f"{modality.dtype}); correct dim and dtype, or write the row again"
        )
    values = data.view(modality.numpy_dtype).reshape(-1, modality.dim)
    values.flags.writeable = False  # the memory is Arrow's, and others may view it
    return Ragged(values, _to_offsets(sizes // modality.token_bytes))


def _variable_bytes(
    array: pa.Array,
) -> tuple[UInt8[np.ndarray, " bytes"], Int64[np.ndarray, " N"]]:
    offset_type = np.int64 if pa.types.is_large_binary(array.type) else np.int32
    _, offsets_buffer, data_buffer = array.buffers()
    window = slice(array.offset, array.offset + len(array) + 1)
    offsets = np.frombuffer(cast(pa.Buffer, offsets_buffer), offset_type)[window]
    sizes = np.diff(offsets).astype(np.int64)
    if array.null_count and sizes[_is_null(array)].any():
        return _variable_bytes(array.fill_null(b""))  # in Arrow, null rows may own bytes
    data = np.frombuffer(data_buffer or b"", np.uint8)
    return data[offsets[0] : offsets[-1]], sizes


def _fixed_bytes(
    array: pa.Array,
) -> tuple[UInt8[np.ndarray, " bytes"], Int64[np.ndarray, " N"]]:
    width = array.type.byte_width
    sizes = np.where(_is_null(array), 0, width).astype(np.int64)
    array = array.drop_null() if array.null_count else array
    data = np.frombuffer(array.buffers()[1] or b"", np.uint8)
    return data[array.offset * width : (array.offset + len(array)) * width], sizes


def _of_tensors(array: pa.FixedShapeTensorArray, modality: Modality) -> Ragged:
    shape, permutation = list(array.type.shape), array.type.permutation
    in_order = permutation is None or list(permutation) == sorted(permutation)
    if len(shape) > 2 or shape[-1] != modality.dim or not in_order:
        raise DataError(
            f"modality '{modality.name}': tensors of shape {shape}, permutation {permutation}; "
            f"expected [T, {modality.dim}] or [{modality.dim}] in C order"
        )
    sizes, inner = unnest(array.storage)
    offsets = _to_offsets(sizes // modality.dim)
    return Ragged(_numbers(inner, modality), offsets)


def _of_lists(array: pa.Array, modality: Modality, first_row: int) -> Ragged:
    lengths, inner = unnest(array)
    if is_list(inner.type):
        token_sizes, inner = unnest(inner)
    else:
        lengths, token_sizes = np.minimum(lengths, 1), lengths[lengths > 0]
    offsets = _to_offsets(lengths)
    for token in np.flatnonzero(token_sizes != modality.dim)[:1]:
        row = first_row + np.searchsorted(offsets, token, side="right") - 1
        raise DataError(
            f"modality '{modality.name}', row {row}: a token has {token_sizes[token]} values; "
            f"expected {modality.dim}, its dim"
        )
    return Ragged(_numbers(inner, modality), offsets)


def _numbers(array: pa.Array, modality: Modality) -> Shaped[np.ndarray, "S D"]:
    """Cast the items of lists to the modality's dtype."""
    if not is_token_value(array.type) or (modality.dtype == "uint8" and array.type != pa.uint8()):
        raise DataError(
            f"modality '{modality.name}': values of {array.type} can't be read as "
            f"{modality.dtype}; expected float16, float32, float64, int8 or uint8"
        )
    if array.null_count:
        raise DataError(f"modality '{modality.name}': a token has a null value")
    values = array.to_numpy(zero_copy_only=False)
    try:
        with np.errstate(over="raise"):
            values = values.astype(modality.numpy_dtype, copy=False)
    except FloatingPointError as error:
        raise DataError(
            f"modality '{modality.name}': a value of {array.type} is too large for "
            f"{modality.dtype}; use float32"
        ) from error
    return values.reshape(-1, modality.dim)


def unnest(array: pa.Array) -> tuple[Int64[np.ndarray, " N"], pa.Array]:
    """Return the length of each list, 0 for null, and the items of all lists."""
    lengths = pc.call_function("list_value_length", [array]).fill_null(0)
    items = cast(pa.ListArray, array).flatten()
    return lengths.to_numpy(zero_copy_only=False).astype(np.int64), items


def is_list(kind: pa.DataType) -> bool:
    """Tell whether a type is a list, of variable or fixed size."""
    return isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType)


def is_token_value(kind: pa.DataType) -> bool:
    """Tell whether items of this type can be the values of tokens."""
    return pa.types.is_floating(kind) or kind in (pa.int8(), pa.uint8())


def _is_null(array: pa.Array) -> np.ndarray:
    return array.is_null().to_numpy(zero_copy_only=False)


def _to_offsets(*lengths: Int64[np.ndarray, " _"]) -> Int64[np.ndarray, " N_plus_1"]:
    return np.concatenate([np.zeros(1, np.int64), *lengths]).cumsum()


# Names: the same as `Vocabulary.encode`, but in Arrow, without a Python string for every name.


def label_entries(
    column: pa.ChunkedArray | pa.Array, vocabulary: Vocabulary, *, first_row: int = 0
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """Return the row and the class of each label, sorted and each once.

    These are the non-zero entries of `multi_hot`, in memory that does not grow with C. The column
    holds lists of names; null means empty. `first_row` is the number of the first row, for
    messages. Raises `DataError` for an unknown name, with its row and the nearest name.
    """
    return _entries(column, vocabulary.names, "label", first_row)


def multi_hot(
    column: pa.ChunkedArray | pa.Array, vocabulary: Vocabulary, *, first_row: int = 0
) -> Bool[np.ndarray, "N C"]:
    """Return `Vocabulary.encode` of a column of lists of names; null means empty."""
    encoded = np.zeros((len(column), len(vocabulary)), dtype=bool)
    encoded[label_entries(column, vocabulary, first_row=first_row)] = True
    return encoded


def observed_classes(
    column: pa.ChunkedArray | pa.Array, vocabulary: Vocabulary, *, first_row: int = 0
) -> Bool[np.ndarray, "N C"]:
    """Return `Vocabulary.encode_observed` of a column of lists of groups."""
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
