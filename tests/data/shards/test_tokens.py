"""What a modality means, and tokens of one row to bytes."""

from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest

from raymc.data.shards import Modality
from raymc.data.shards.tokens import encode_tokens, is_finite
from raymc.errors import DataError

VISUAL = Modality("visual", 3)


@pytest.mark.parametrize(
    "modality",
    [
        Modality("visual", 1024, "uint8", rate_hz=0.1, encoder="ViT/B", scale=4 / 255, offset=-2.0),
        Modality("text", 1, "float32"),
    ],
)
def test_meaning_survives_metadata_and_json(modality: Modality) -> None:
    field = modality.to_field()
    assert field.type == pa.large_binary()
    assert Modality.from_field(field) == modality
    assert Modality.from_json(modality.to_json()) == modality


def test_a_column_without_metadata_has_no_meaning() -> None:
    assert Modality.from_field(pa.field("visual", pa.binary())) is None
    assert Modality.from_field(pa.field("v", pa.binary(), metadata={"raymc.dim": "3"})) is None


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"raymc.dim": "many", "raymc.dtype": "float16"}, "column 'v': metadata raymc.*'many'"),
        ({"raymc.dim": "0", "raymc.dtype": "float16"}, "modality 'v': expected dim of 1 or more"),
    ],
)
def test_broken_metadata(metadata: dict[bytes | str, bytes | str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Modality.from_field(pa.field("v", pa.binary(), metadata=metadata))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "", "dim": 1}, "a name that is not empty"),
        ({"name": "labels", "dim": 1}, "not id, labels, observed"),
        ({"name": "v", "dim": 0}, "dim of 1 or more, found 0"),
        ({"name": "v", "dim": 1, "rate_hz": 0.0}, "rate_hz above 0, found 0.0"),
        ({"name": "v", "dim": 1, "rate_hz": float("nan")}, "rate_hz above 0, found nan"),
        ({"name": "v", "dim": 1, "scale": 0.0}, "finite scale"),
        ({"name": "v", "dim": 1, "offset": float("inf")}, "finite scale .* and inf"),
        ({"name": "v", "dim": 1, "fps": 2}, "unexpected keyword argument 'fps'"),
        ({"name": "v"}, "missing.*'dim'"),
    ],
)
def test_refused_modalities(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Modality.from_json(values)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("given", ["float16", "float32", "float64", ">f4"])
def test_floating_tokens_are_cast(dtype: Literal["float16", "float32"], given: str) -> None:
    tokens = np.random.default_rng(0).normal(size=(4, 3)).astype(given)
    expected = tokens.astype(f"<{'f2' if dtype == 'float16' else 'f4'}").tobytes()
    assert encode_tokens(tokens, Modality("visual", 3, dtype)) == expected


def test_bytes_are_in_c_order() -> None:
    tokens = np.arange(6, dtype=np.uint8).reshape(3, 2).T
    assert encode_tokens(tokens, Modality("v", 3, "uint8")) == bytes([0, 2, 4, 1, 3, 5])


@pytest.mark.parametrize("tokens", [None, np.zeros((0, 3))])
def test_missing_tokens_are_null(tokens: np.ndarray | None) -> None:
    assert encode_tokens(tokens, VISUAL) is None


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 70_000, 131_071])
def test_is_finite_finds_one_value(dtype: str, value: float, at: int) -> None:
    values = np.full(131_072, np.finfo(dtype).max, dtype)
    values[::2] = np.finfo(dtype).min
    assert is_finite(values)
    values[at] = value
    assert not is_finite(values.reshape(-1, 64))


def test_is_finite_of_many_bit_patterns() -> None:
    edges = [0x7BFF, 0x7C00, 0x7C01, 0x7FFF, 0xFBFF, 0xFC00, 0xFC01, 0xFFFF]
    values = np.array([*range(0, 65_536, 97), *edges], np.uint16).view(np.float16)
    found = [is_finite(values[i : i + 1]) for i in range(len(values))]
    np.testing.assert_array_equal(found, np.isfinite(values))
    assert is_finite(np.array([255], np.uint8))
    assert is_finite(values[:0])
