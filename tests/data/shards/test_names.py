"""Columns of names against the vocabulary's own encoding of lists."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raymc.data.labels import Vocabulary
from raymc.data.shards.ragged import label_entries, multi_hot, observed_classes
from raymc.errors import DataError

NAMES = Vocabulary(
    ("sounds", "rhyming", "adding", "counting", "other"),
    {"literacy": ("sounds", "rhyming"), "math": ("adding", "counting", "sounds")},
)
TYPES = [
    pa.list_(pa.string()),
    pa.large_list(pa.large_string()),
    pa.list_(pa.dictionary(pa.int8(), pa.string())),
]


def random_lists(known: Sequence[str], seed: int, *, nulls: bool) -> list[list[str] | None]:
    """Lists of any length, names repeated; every eighth is null if there may be nulls."""
    generator = np.random.default_rng(seed)
    drawn = [generator.choice(known, size=generator.integers(5)).tolist() for _ in range(40)]
    return [None if nulls and i % 8 == 3 else names for i, names in enumerate(drawn)]


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("cut", [0, 7, 40])
def test_labels_are_those_of_the_lists(kind: pa.DataType, cut: int) -> None:
    lists = random_lists(NAMES.names, cut, nulls=True)
    expected = NAMES.encode([names or [] for names in lists])
    column = pa.chunked_array([pa.array(lists[:cut], kind), pa.array(lists[cut:], kind)])
    np.testing.assert_array_equal(multi_hot(column, NAMES), expected)
    rows, classes = label_entries(column, NAMES)
    np.testing.assert_array_equal([rows, classes], np.nonzero(expected))
    window = column.slice(5, 20)
    np.testing.assert_array_equal(multi_hot(window, NAMES), expected[5:25])
    np.testing.assert_array_equal(multi_hot(window.combine_chunks(), NAMES), expected[5:25])


def test_observed_classes_are_those_of_the_lists() -> None:
    lists = random_lists(tuple(NAMES.groups), 1, nulls=True)
    column = pa.chunked_array([pa.array(lists, TYPES[0])])
    found = observed_classes(column, NAMES)
    np.testing.assert_array_equal(found, NAMES.encode_observed(lists))
    assert len(np.unique(found, axis=0)) == 4  # all, and each combination that differs


@pytest.mark.parametrize("lists", [[], [[]], [None, []]])
def test_rows_without_names(lists: list[Any]) -> None:
    bare = Vocabulary(("a", "b"))
    for kind in (*TYPES, pa.list_(pa.null())):
        column = pa.array(lists, kind)
        assert multi_hot(column, bare).shape == (len(lists), 2)
        assert not multi_hot(column, bare).any()
        assert multi_hot(column, Vocabulary(())).shape == (len(lists), 0)
        assert observed_classes(column, bare).shape == (len(lists), 2)
        assert observed_classes(column, bare).all()


@pytest.mark.parametrize(
    ("lists", "first_row"), [([["sounds"], None, ["adding", "countin"], ["no"]], 10), ([["x"]], 0)]
)
def test_an_unknown_name_is_told_as_the_vocabulary_does(lists: list[Any], first_row: int) -> None:
    column = pa.chunked_array([pa.array(lists, TYPES[0])])
    for encode, slow in (
        (multi_hot, NAMES.encode),
        (observed_classes, NAMES.encode_observed),
    ):
        with pytest.raises(DataError) as expected:
            slow([names or [] for names in lists], first_row=first_row)
        with pytest.raises(DataError) as found:
            encode(column, NAMES, first_row=first_row)
        assert str(found.value) == str(expected.value)


def test_a_null_among_the_names_is_unknown() -> None:
    with pytest.raises(DataError, match="row 1: unknown label 'None'"):
        multi_hot(pa.array([["sounds"], [None]], TYPES[0]), NAMES)
