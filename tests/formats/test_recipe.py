from pathlib import Path

import pytest

from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Row, open_dataset, read_shard
from raymc.formats.recipe import DatasetRecipe, LazyRows, make_dataset


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


def test_each_row_that_is_made_is_reported(tmp_path: Path) -> None:
    def make(i: int) -> Row:
        return Row(id=str(i), labels=("a",), tokens={})

    rows = {"train": LazyRows(3, make), "val": [make(7)]}
    recipe = DatasetRecipe(Vocabulary(("a",)), (Modality("visual", 4),), rows)
    told: list[tuple[int, int]] = []
    made = make_dataset(recipe, str(tmp_path), on_row=lambda row, total: told.append((row, total)))
    assert sorted(set(told)) == [(1, 4), (2, 4), (3, 4), (4, 4)]  # beartype asks for some twice
    dataset = open_dataset(str(tmp_path))
    ids = [
        name
        for shards in made.splits.values()
        for shard in shards
        for name in read_shard(dataset, shard)["id"].to_pylist()
    ]
    assert ids == ["0", "1", "2", "7"]
