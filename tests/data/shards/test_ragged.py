"""Columns of tokens to arrays: every layout against the rows it was made from."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest

from raymc.data.shards import Modality, ragged
from raymc.errors import DataError

Tokens = np.ndarray | None
VISUAL = Modality("visual", 3, "float32")


def as_bytes(rows: Sequence[Tokens], kind: pa.DataType) -> pa.Array:
    return pa.array([None if row is None else row.tobytes() for row in rows], kind)


def as_lists(rows: Sequence[Tokens], kind: pa.DataType) -> pa.Array:
    return pa.array([None if row is None else row.tolist() for row in rows], kind)


def ragged_rows(lengths: Sequence[int | None], dtype: str = "float32") -> list[Tokens]:
    rng = np.random.default_rng(0)
    return [None if n is None else (rng.normal(size=(n, 3)) * 9).astype(dtype) for n in lengths]


LAYOUTS = [
    pytest.param(lambda rows: as_bytes(rows, pa.large_binary()), True, id="large_binary"),
    pytest.param(lambda rows: as_bytes(rows, pa.binary()), True, id="binary"),
    pytest.param(lambda rows: as_lists(rows, pa.list_(pa.list_(pa.float32()))), True, id="lists"),
    pytest.param(
        lambda rows: as_lists(rows, pa.large_list(pa.large_list(pa.float64()))),
        True,
        id="large lists of float64",
    ),
    pytest.param(
        lambda rows: as_lists(rows, pa.list_(pa.list_(pa.float32(), 3))),
        True,
        id="lists of fixed lists",
    ),
    pytest.param(lambda rows: as_bytes(rows, pa.binary(24)), False, id="fixed_size_binary"),
    pytest.param(
        lambda rows: as_lists(rows, pa.list_(pa.list_(pa.float32(), 3), 2)),
        False,
        id="fixed lists of fixed lists",
    ),
]


@pytest.mark.parametrize("cut", ["whole", "sliced", "chunked", "sliced chunks", "empty"])
@pytest.mark.parametrize(("layout", "is_ragged"), LAYOUTS)
def test_layouts_give_the_rows_back(
    layout: Callable[[Sequence[Tokens]], pa.Array], is_ragged: bool, cut: str
) -> None:
    rows = ragged_rows([2, None, 1, 0, 4, None, 3] if is_ragged else [2, None, 2, 2, None, 2, 2])
    array = layout(rows)
    column, expected = {
        "whole": (array, rows),
        "sliced": (array.slice(2, 4), rows[2:6]),
        "chunked": (pa.chunked_array([array, array.slice(0, 0), array]), rows + rows),
        "sliced chunks": (pa.chunked_array([array.slice(3), array[1:3]]), rows[3:] + rows[1:3]),
        "empty": (pa.chunked_array([], array.type), []),
    }[cut]
    result = ragged(column, VISUAL)
    assert len(result) == len(expected)
    assert result.values.dtype == np.float32
    assert result.lengths.tolist() == [0 if row is None else len(row) for row in expected]
    for i, row in enumerate(expected):
        np.testing.assert_array_equal(result.row(i), np.empty((0, 3)) if row is None else row)


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float16()), pa.large_list(pa.float32()), pa.list_(pa.float64(), 3)],
    ids=str,
)
def test_a_list_of_numbers_is_one_token(kind: pa.DataType) -> None:
    array = pa.array([[9, 9, 9], None, [1, 2, 3], [4, 5, 6.5]], pa.list_(pa.float64()))
    result = ragged(array.cast(kind).slice(1), VISUAL)
    assert result.lengths.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(result.values, [[1, 2, 3], [4, 5, 6.5]])


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_tensors(shape: tuple[int, ...]) -> None:
    values = np.arange(5 * np.prod(shape), dtype=np.float32).reshape(5, *shape)
    array = pa.FixedShapeTensorArray.from_numpy_ndarray(values)
    result = ragged(pa.chunked_array([array[:2], array[2:]])[1:], VISUAL)
    np.testing.assert_array_equal(result.values, values[1:].reshape(-1, 3))
    assert result.lengths.tolist() == [len(shape)] * 4


@pytest.mark.parametrize(
    ("values", "dtype"),
    [(pa.int8(), "float16"), (pa.uint8(), "uint8"), (pa.uint8(), "float32")],
)
def test_whole_numbers(values: pa.DataType, dtype: Literal["float16", "float32", "uint8"]) -> None:
    result = ragged(
        pa.array([[[1, 2, 127]], []], pa.list_(pa.list_(values))), Modality("v", 3, dtype)
    )
    assert result.values.dtype == np.dtype(dtype)
    assert result.values.tolist() == [[1, 2, 127]]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(24)], ids=str)
def test_bytes_are_not_copied(kind: pa.DataType) -> None:
    array = as_bytes(ragged_rows([2, 2, None, 2] if kind != pa.binary(24) else [2] * 4), kind)
    result = ragged(array.slice(1), VISUAL)
    data = array.buffers()[-1]
    assert data is not None
    assert result.values.ctypes.data == data.address + 24
    assert np.shares_memory(result.row(2), result.values)
    assert not result.values.flags.writeable


def test_a_null_row_may_own_bytes() -> None:
    data = np.arange(9, dtype=np.float32)
    buffers = [
        pa.py_buffer(b"\x05"),
        pa.py_buffer(np.array([0, 12, 24, 36], np.int32)),
        pa.py_buffer(data),
    ]
    array = pa.Array.from_buffers(pa.binary(), 3, buffers, null_count=1)
    result = ragged(array, VISUAL)
    assert result.lengths.tolist() == [1, 0, 1]
    assert result.values.tolist() == [[0, 1, 2], [6, 7, 8]]


def test_all_rows_missing() -> None:
    result = ragged(pa.array([None, b""], pa.large_binary()), VISUAL)
    assert result.values.shape == (0, 3)
    assert result.lengths.tolist() == [0, 0]


FLOATS = pa.list_(pa.float32())
REFUSED = [
    (
        pa.array([b"", b"x" * 13], pa.binary()),
        r"row 1: 13 bytes are not a multiple of a token's 12",
    ),
    (pa.array([b"x" * 8], pa.binary(8)), r"row 0: 8 bytes are not a multiple"),
    (
        pa.array([[1, 2, 3], None, [1, 2]], FLOATS),
        r"row 2: a token has 2 values; expected 3, its dim",
    ),
    (pa.array([[], [[1, 2, 3], [1]]], pa.list_(FLOATS)), r"row 1: a token has 1 values"),
    (pa.array([[[1, 2, 3]], [None]], pa.list_(FLOATS)), r"row 1: a token has 0 values"),
    (pa.array([[1, None, 3]], FLOATS), r"a token has a null value"),
    (pa.array([[1, 2, 3]], pa.list_(pa.int64())), r"values of int64 can't be read as float32"),
    (pa.array(["text"]), r"type is string; expected bytes, fixed_shape_tensor or lists"),
    (
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((2, 4), np.float32)),
        r"tensors of shape \[4\].*expected \[T, 3\] or \[3\] in C order",
    ),
    (
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((2, 3, 3), np.float32).swapaxes(1, 2)),
        r"permutation \[1, 0\]; expected",
    ),
]


@pytest.mark.parametrize(("column", "message"), REFUSED)
def test_refused_columns(column: pa.Array, message: str) -> None:
    with pytest.raises(DataError, match=f"modality 'visual'.*{message}"):
        ragged(column, VISUAL)


def test_rows_are_counted_over_chunks() -> None:
    chunks = [pa.array([b"", None]), pa.array([b"12 bytes ...", b"odd"])]
    with pytest.raises(DataError, match="row 3: 3 bytes"):
        ragged(pa.chunked_array(chunks), VISUAL)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [("float16", "too large for float16"), ("uint8", "can't be read as uint8")],
)
def test_values_that_do_not_fit(dtype: Literal["float16", "uint8"], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ragged(pa.array([[1, 2, 70000]], FLOATS), Modality("visual", 3, dtype))
