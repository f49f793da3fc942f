import pytest

from raymc.data.shards import Row
from raymc.formats.recipe import LazyRows, watched


def test_rows_are_computed_when_asked_for() -> None:
    asked = []

    def row(i: int) -> Row:
        asked.append(i)
        return Row(id=str(i), labels=(), tokens={})

    rows = LazyRows(5, row)
    assert (len(rows), asked) == (5, [])
    assert rows[3].id == "3"
    assert rows[-1].id == "4"
    assert [row.id for row in rows[1:3]] == ["1", "2"]
    assert asked == [3, 4, 1, 2]
    assert [row.id for row in rows] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("index", [2, -3])
def test_there_are_no_rows_beyond_the_last(index: int) -> None:
    with pytest.raises(IndexError):
        LazyRows(2, lambda i: Row(id=str(i), labels=(), tokens={}))[index]


def test_watched_rows_tell_their_number_and_the_total() -> None:
    def make(i: int) -> Row:
        return Row(id=str(i), labels=(), tokens={})

    rows = {"train": LazyRows(3, make), "val": [make(7)]}
    told: list[tuple[int, int]] = []
    seen = watched(rows, lambda row, total: told.append((row, total)))
    assert {split: len(found) for split, found in seen.items()} == {"train": 3, "val": 1}
    assert [seen["train"][1].id, seen["val"][0].id] == [make(1).id, make(7).id]
    assert told == [(2, 4), (4, 4)]
