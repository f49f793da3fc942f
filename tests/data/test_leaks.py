"""Clips that two splits share are found by id, by content and by video; others are not."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import MODALITIES, SPLIT_ROWS, VOCABULARY, tiny_row

from raymc.config import DataConfig
from raymc.data import survey
from raymc.data.check import check_dataset
from raymc.data.shards import Dataset, Row, open_dataset, write_dataset

SPLITS = ("train", "val", "test")


def written(folder: Path, splits: Mapping[str, Sequence[Row]]) -> Dataset:
    write_dataset(str(folder), splits, vocabulary=VOCABULARY, modalities=MODALITIES, shard_rows=8)
    return open_dataset(str(folder))


def told_before_training(dataset: Dataset) -> list[str]:
    return survey.survey(dataset, DataConfig(path=dataset.path)).leaks


def leaks(dataset: Dataset) -> list[str]:
    """What is told before training, and by a check of the dataset in the same words."""
    told = told_before_training(dataset)
    assert check_dataset(dataset.path)[1] == told
    return told


def rows(split: str) -> list[Row]:
    return [tiny_row(split, i) for i in range(SPLIT_ROWS[split])]


def test_splits_that_share_nothing(tiny: Dataset) -> None:
    assert leaks(tiny) == []


def test_each_kind_of_leak_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, val, test = (rows(split) for split in SPLITS)
    val[3] = replace(val[3], id=train[30].id)
    test[0] = replace(test[0], id=train[30].id)
    test[1] = replace(test[1], id=val[5].id)
    val[7] = replace(train[12], id="copied")
    test[2] = replace(train[13], id=train[13].id)  # the same id: not told twice
    val[8] = replace(val[8], id="film.mp4@30-60")
    train[0] = replace(train[0], id="film.mp4@0-30")
    train[1] = replace(train[1], id="me@home")
    val[1] = replace(val[1], id="me@school")
    for split in (train, val):  # without tokens there is no content
        split[9] = replace(split[9], tokens={})
    dataset = written(tmp_path / "data", dict(zip(SPLITS, (train, val, test))))
    assert leaks(dataset) == [
        f"leak: 3 ids are in more than one split, such as {train[30].id!r} in train and val; "
        "scores on them are too high",
        f"leak: 1 clip has the content of a clip in another split, such as 'copied' in val, which "
        f"equals {train[12].id!r} in train; scores on them are too high",
        "leak: 1 video has clips in more than one split, such as 'film.mp4' in train and val; "
        "scores on them are too high",
    ]
    monkeypatch.setattr(survey, "CONTENT_BYTES", 1000)
    assert len(told_before_training(dataset)) == 2


@pytest.mark.parametrize("column", ["path", "video", "video_id", "url"])
def test_videos_are_named_by_a_column(tmp_path: Path, column: str) -> None:
    train, val = (
        [replace(row, extra={column: f"film {i // 2}"}) for i, row in enumerate(split)]
        for split in (rows("train")[:4], rows("val")[:6])
    )
    val[5] = replace(val[5], extra={column: None})
    dataset = written(tmp_path, {"train": train, "val": val})
    expected = (
        "leak: 2 videos have clips in more than one split, such as 'film 0' in train and val; "
        "scores on them are too high"
    )
    assert leaks(dataset) == [expected]


def test_tokens_may_be_called_video(tmp_path: Path) -> None:
    tokens = replace(MODALITIES[0], name="video")
    made = {
        split: [replace(row, tokens={"video": row.tokens["visual"]}) for row in rows(split)[:9]]
        for split in ("train", "val")
    }
    made["val"][0] = replace(made["train"][1], id="copied")
    write_dataset(str(tmp_path), made, vocabulary=VOCABULARY, modalities=(tokens,))
    [leak] = leaks(open_dataset(str(tmp_path)))
    assert leak.startswith("leak: 1 clip has the content of a clip in another split")
