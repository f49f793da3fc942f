"""Splits that are drawn: whole videos, balanced labels, and every label in every split."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_dataset import contents

from raymc.data import splits as splits_module
from raymc.data.check import check_dataset
from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Row, open_dataset, read_shard, write_dataset
from raymc.data.splits import SPLITS, draw_splits, lone_labels, split_dataset
from raymc.errors import DataError


def clips(rng: np.random.Generator, videos: int, names: int) -> tuple[list[set[str]], list[str]]:
    """Clips of some videos, with labels of a long tail."""
    chances = 0.5 / np.arange(1, names + 1)
    counts = rng.integers(1, 6, videos)
    of = [f"v{video}" for video, count in enumerate(counts) for _ in range(count)]
    labels = [{f"l{k}" for k in np.flatnonzero(rng.random(names) < chances)} for _ in of]
    return labels, of


@pytest.mark.parametrize("seed", range(6))
def test_a_draw(seed: int) -> None:
    labels, videos = clips(np.random.default_rng(seed), videos=60, names=12)
    splits = draw_splits(labels, videos, seed=seed)
    assert splits == draw_splits(labels, videos, seed=seed)
    assert splits != draw_splits(labels, videos, seed=seed + 1)
    by_video = {video: {s for s, v in zip(splits, videos) if v == video} for video in videos}
    assert all(len(found) == 1 for found in by_video.values())
    sizes = Counter(split for (split,) in by_video.values())
    assert [sizes[split] for split in SPLITS] == pytest.approx([42, 9, 9], abs=4)
    carriers = Counter(n for v in by_video for n in set().union(*_of(v, labels, videos)))
    for name in lone_labels(labels, splits):
        assert carriers[name] < 3, name


def _of(video: str, labels: list[set[str]], videos: list[str]) -> list[set[str]]:
    return [row for row, name in zip(labels, videos) if name == video]


@pytest.mark.parametrize("count", range(3, 12))
def test_few_videos_still_fill_every_split(count: int) -> None:
    splits = draw_splits([{"x"}] * count, [str(i) for i in range(count)])
    assert set(splits) == set(SPLITS)


def test_too_few_videos_are_all_train() -> None:
    assert draw_splits([{"x"}, {"y"}, {"x"}], ["a", "a", "b"]) == ["train"] * 3
    assert draw_splits([], []) == []


def test_labels_that_a_split_lacks() -> None:
    labels = [{"a", "b"}, {"a"}, {"b", "c"}, {"a"}]
    assert lone_labels(labels, ["train", "val", "train", "train"]) == ["c", "b"]


def make(folder: Path, videos: int = 12) -> None:
    """A dataset of three clips a video, all in train, in shards of five rows."""
    rows = [
        Row(
            id=f"v{i}@{k}-{k + 1}",
            labels=("x",) if i % 2 else ("y", "z"),
            tokens={"visual": np.full((k + 1, 2), i, np.float32)},
            extra={"teacher": f"t{i % 4}", "path": f"v{i}.mp4"},
        )
        for i in range(videos)
        for k in range(3)
    ]
    write_dataset(
        str(folder),
        {"train": rows},
        vocabulary=Vocabulary(("x", "y", "z")),
        modalities=(Modality("visual", 2),),
        provenance={"made_by": "a test", "notes": ["one"]},
        shard_rows=5,
    )


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    dataset = open_dataset(str(folder))
    return {
        split: [row for shard in shards for row in read_shard(dataset, shard).to_pylist()]
        for split, shards in dataset.manifest.splits.items()
    }


def by_id(folder: Path) -> list[dict[str, Any]]:
    return sorted((row for rows in rows_of(folder).values() for row in rows), key=lambda r: r["id"])


def test_a_dataset_is_split_in_place(tmp_path: Path) -> None:
    make(tmp_path)
    before, digest = by_id(tmp_path), open_dataset(str(tmp_path)).manifest.digest()
    manifest = split_dataset(str(tmp_path), seed=3)
    assert by_id(tmp_path) == before
    assert check_dataset(str(tmp_path)) == ([], [])
    assert manifest.digest() == open_dataset(str(tmp_path)).manifest.digest() != digest
    told = "splits: drawn by video, balanced by label (seed 3)"
    assert manifest.provenance == {"made_by": "a test", "notes": ["one", told]}
    rows = rows_of(tmp_path)
    assert [len(rows[split]) for split in SPLITS] == [24, 6, 6]
    videos = {split: {row["path"] for row in found} for split, found in rows.items()}
    assert sum(map(len, videos.values())) == 12
    labels = {
        split: {name for row in found for name in row["labels"]} for split, found in rows.items()
    }
    assert set(map(frozenset, labels.values())) == {frozenset("xyz")}
    for shards in manifest.splits.values():
        for shard in shards:
            data = (tmp_path / shard.file).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)

    with pytest.raises(DataError, match="has the splits train, val, test; add --again to draw oth"):
        split_dataset(str(tmp_path))
    manifest = split_dataset(str(tmp_path), by="teacher", again=True)
    assert manifest.provenance["notes"] == [
        "one",
        told.replace("video", "teacher").replace("3", "0"),
    ]
    teachers = [{row["teacher"] for row in found} for found in rows_of(tmp_path).values()]
    assert sum(map(len, teachers)) == 4
    assert by_id(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, 16))
def test_an_interrupted_split_is_whole_and_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Ended at any write or deletion, the dataset is the old or the new one; then it is the new."""
    make(tmp_path / "whole")
    make(tmp_path / "cut")
    before = by_id(tmp_path / "cut")
    split_dataset(str(tmp_path / "whole"))
    steps = iter(range(1, 99))

    def counted(name: str) -> None:
        real = getattr(splits_module, name, None) or getattr(splits_module.storage, name)

        def act(*arguments: Any, **given: Any) -> Any:
            if next(steps) == step:
                raise KeyboardInterrupt
            return real(*arguments, **given)

        place = splits_module if hasattr(splits_module, name) else splits_module.storage
        monkeypatch.setattr(place, name, act)

    with monkeypatch.context():
        for name in ("write_table", "write_manifest", "write_bytes", "delete_partials"):
            counted(name)
        ended = False
        try:
            split_dataset(str(tmp_path / "cut"))
        except KeyboardInterrupt:
            ended = True
    monkeypatch.undo()
    assert by_id(tmp_path / "cut") == before
    if ended:
        split_dataset(str(tmp_path / "cut"))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_datasets_that_are_not_split(tmp_path: Path) -> None:
    make(tmp_path / "few", videos=2)
    with pytest.raises(DataError, match="has 2 videos; a draw needs 3, as all clips of one go to"):
        split_dataset(str(tmp_path / "few"))
    make(tmp_path / "other")
    with pytest.raises(DataError, match="no column 'school'; there are id, labels, visual, teach"):
        split_dataset(str(tmp_path / "other"), by="school")
    shard = tmp_path / "other" / "train" / "00001.parquet"
    shard.write_bytes(shard.read_bytes().replace(b"t1", b"t2"))
    with pytest.raises(DataError, match=r"00001.parquet is not the file that was written; restore"):
        split_dataset(str(tmp_path / "other"))
