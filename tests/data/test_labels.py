"""Vocabulary, multi-hot rows and label statistics against plain loops."""

import json
from typing import Any

import numpy as np
import pytest
from sklearn.preprocessing import MultiLabelBinarizer

from raymc.data.labels import Vocabulary, label_counts
from raymc.errors import DataError

SUBJECTS = Vocabulary(
    names=("sounds", "rhyming", "adding", "counting", "none"),
    groups={"literacy": ("sounds", "rhyming"), "math": ("adding", "counting", "rhyming")},
    background="none",
)


def test_encode_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = [list(rng.choice(SUBJECTS.names, size=rng.integers(0, 5))) for _ in range(200)]
    expected = MultiLabelBinarizer(classes=SUBJECTS.names).fit_transform(labels)
    encoded = SUBJECTS.encode(labels)
    assert encoded.dtype == bool
    np.testing.assert_array_equal(encoded, np.asarray(expected, bool))


def test_encode_of_no_rows_has_a_column_per_label() -> None:
    assert SUBJECTS.encode([]).shape == (0, 5)
    assert SUBJECTS.encode_observed([]).shape == (0, 5)


def test_index_is_the_place_in_the_vocabulary() -> None:
    assert [SUBJECTS.index(name) for name in SUBJECTS.names] == [0, 1, 2, 3, 4]
    assert len(SUBJECTS) == 5


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        pytest.param(None, [True, True, True, True, True], id="null means all"),
        pytest.param(["literacy"], [True, True, False, False, True], id="one group"),
        pytest.param(["math"], [False, True, True, True, True], id="label of two groups"),
        pytest.param(["math", "literacy"], [True, True, True, True, True], id="both groups"),
        pytest.param([], [False, False, False, False, True], id="none: ungrouped labels only"),
    ],
)
def test_observed_groups(observed: list[str] | None, expected: list[bool]) -> None:
    np.testing.assert_array_equal(SUBJECTS.encode_observed([observed]), [expected])


def test_without_groups_everything_is_observed() -> None:
    assert Vocabulary(("a", "b")).encode_observed([None, []]).all()


def test_counts_agree_with_loops() -> None:
    multi_hot = np.random.default_rng(1).random((50, 7)) < 0.3
    counts = label_counts(multi_hot)
    for i in range(7):
        assert counts[i] == sum(1 for row in multi_hot if row[i])


def test_json_there_and_back() -> None:
    text = json.dumps(SUBJECTS.to_json())
    assert Vocabulary.from_json(json.loads(text)) == SUBJECTS


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"names": ("a", "")}, "a label's name is empty"),
        ({"names": ("a", "b", "a")}, "lists the label 'a' twice"),
        ({"names": ("adding",), "groups": {"math": ("ading",)}}, "group 'math'.*mean 'adding'"),
        ({"names": ("a",), "background": "none"}, "background: unknown label 'none'"),
    ],
)
def test_vocabulary_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Vocabulary(**values)


def test_from_json_names_the_missing_key() -> None:
    with pytest.raises(DataError, match="lacks its key 'names'"):
        Vocabulary.from_json({"groups": {}})


def test_unknown_label_names_row_and_nearest() -> None:
    with pytest.raises(DataError, match=r"row 12: unknown label 'countin'.*mean 'counting'"):
        SUBJECTS.encode([["sounds"], [], ["countin"]], first_row=10)


def test_unknown_label_without_a_near_one_lists_some() -> None:
    vocabulary = Vocabulary(tuple("abcdefg"))
    with pytest.raises(DataError, match=r"unknown label 'xyz'.*known are a, b, c, d, e, …"):
        vocabulary.index("xyz")


def test_unknown_group_names_row_and_nearest() -> None:
    with pytest.raises(DataError, match=r"row 1: unknown group 'maths'.*mean 'math'"):
        SUBJECTS.encode_observed([None, ["maths"]])


def test_group_where_there_are_none() -> None:
    with pytest.raises(DataError, match="row 0: unknown group 'math'; the vocabulary defines no"):
        Vocabulary(("a",)).encode_observed([["math"]])


FAMILY = {"add": "math", "count": "math", "math": "school", "rhyme": "school"}


def test_families_are_groups_and_all_that_is_under_a_parent() -> None:
    names = ("rhyme", "add", "count", "school", "other")
    vocabulary = Vocabulary(names, {"said": ("other",)}, parents=FAMILY)
    assert vocabulary.families() == {
        "said": ("other",),
        "school": ("rhyme", "add", "count"),
        "math": ("add", "count"),
    }
    assert Vocabulary(names).families() == {}
    same = Vocabulary(names, {"math": ("count", "add")}, parents=FAMILY)
    assert same.families()["math"] == ("add", "count")


def test_parents_go_through_json_and_leave_no_trace_where_there_are_none() -> None:
    vocabulary = Vocabulary(("rhyme", "add", "count"), parents=FAMILY)
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary
    assert list(Vocabulary(("a",)).to_json()) == ["names", "groups", "background"]


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ({"ad": "math"}, r"parents: unknown label 'ad' .*did you mean 'add'\?"),
        ({"add": ""}, r"parents: the parent of 'add' has an empty name; name it or remove it"),
        ({"add": "add"}, r"parents form a cycle: add → add; remove"),
        (
            {"add": "math", "math": "count", "count": "math"},
            r"parents form a cycle: add → math → count → math; remove",
        ),
        ({"add": "said"}, r"'said' is both a group and a parent, of different labels; rename"),
    ],
)
def test_parents_that_cannot_be(parents: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Vocabulary(("add", "count"), {"said": ("count",)}, parents=parents)
