"""Datasets are opened and read, and refused with one line where they are broken."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from example_dataset import MODALITIES, write

from raymc.data.shards import Dataset, open_dataset, read_shard
from raymc.errors import DataError


def test_splits(tmp_path: Path) -> None:
    write(tmp_path, 0)
    dataset = open_dataset(str(tmp_path))
    assert dataset.shard_paths("val") == [str(tmp_path / "val/00000.parquet")]
    with pytest.raises(DataError, match="split 'test' does not exist; splits with rows: val"):
        dataset.split("test")
    with pytest.raises(DataError, match="split 'train' is empty; splits with rows: val"):
        dataset.split("train")
    assert dataset.manifest.modality("audio") == MODALITIES[1]
    with pytest.raises(DataError, match="no modality 'text'; it has visual, audio"):
        dataset.manifest.modality("text")


def test_a_dataset_travels_to_other_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "dataset")
    monkeypatch.chdir(tmp_path)
    copy: Dataset = pickle.loads(pickle.dumps(open_dataset("dataset")))
    monkeypatch.chdir("/")
    assert len(read_shard(copy, copy.split("val")[0])) == 3


def edit_json(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((folder / "dataset.json").read_text())
    change(values)
    (folder / "dataset.json").write_text(json.dumps(values))


BROKEN_MANIFESTS = [
    (lambda v: v.update(schema_version=2), "schema_version is 2; this raymc reads version 1"),
    (lambda v: v.pop("splits"), "key is missing or of the wrong type: 'splits'"),
    (lambda v: v.update(modalities=[{"name": "v"}]), "modality v: .*missing"),
    (lambda v: v["vocabulary"].pop("names"), "lacks its key 'names'"),
    (lambda v: v.update(splits=[]), "of the wrong type"),
    (lambda v: v["splits"]["val"][0].pop("rows"), "of the wrong type: .*'rows'"),
    *(
        (
            lambda v, file=file: v["splits"]["val"][0].update(file=file),
            r"shard '.*' is not inside the dataset's folder; expected a path such as",
        )
        for file in (
            "../other/private.parquet",
            "val/../../a",
            "/etc/a",
            "C:\\a",
            "..\\a",
            "",
            "a\0b",
        )
    ),
]


@pytest.mark.parametrize(("change", "message"), BROKEN_MANIFESTS)
def test_broken_manifests(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    write(tmp_path)
    edit_json(tmp_path, change)
    with pytest.raises(DataError, match=f"dataset.json: .*{message}"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": 1, "li', "is not JSON"),
        ("[1]", "is not a JSON object"),
        ("", "is not JSON"),
    ],
)
def test_torn_manifests(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=f"dataset.json {message}.*restore it"):
        open_dataset(str(tmp_path))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def scramble(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100] + b"\0" * 100)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "00001.parquet is missing; restore it"),
        (
            truncate,
            r"00001.parquet has \d+ bytes, the manifest says \d+; check it with `raymc data check",
        ),
        (scramble, "00001.parquet can't be read .*`raymc data check"),
    ],
)
def test_damaged_shards(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    write(tmp_path)
    damage(tmp_path / "train/00001.parquet")
    dataset = open_dataset(str(tmp_path))
    assert len(read_shard(dataset, dataset.split("train")[0])) == 4
    with pytest.raises(DataError, match=message):
        read_shard(dataset, dataset.split("train")[1])


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path)
    dataset = open_dataset(str(tmp_path))
    with pytest.raises(DataError, match="has no column 'text'; it has id, labels, observed"):
        read_shard(dataset, dataset.split("val")[0], ["id", "text"])


@pytest.mark.parametrize("address", ["nowhere://x/y", "nowhere://", "http:/x://y"])
def test_addresses_nobody_knows(address: str) -> None:
    with pytest.raises(DataError, match=f"can't open {address}: .*; expected a local path, s3://"):
        open_dataset(address)


def link_a_file(folder: Path) -> None:
    (folder / "val/00000.parquet").rename(folder.parent / "private.parquet")
    (folder / "val/00000.parquet").symlink_to("../../private.parquet")


def link_a_split(folder: Path) -> None:
    (folder / "val").rename(folder.parent / "private")
    (folder / "val").symlink_to(folder.parent / "private")


@pytest.mark.parametrize("link", [link_a_file, link_a_split])
@pytest.mark.parametrize("scanned", [False, True])
def test_links_out_of_a_dataset(
    tmp_path: Path, link: Callable[[Path], object], scanned: bool
) -> None:
    folder = tmp_path / "data"
    write(folder)
    if scanned:
        (folder / "dataset.json").unlink()
    (tmp_path / "alias").symlink_to(folder)
    (folder / "val/copy.parquet").symlink_to("00000.parquet")  # inside, so it may be
    assert open_dataset(str(tmp_path / "alias")).manifest.rows("val")
    link(folder)
    for path in (folder, tmp_path / "alias"):
        with pytest.raises(DataError, match=r"00000.parquet is a link out of .*private") as caught:
            open_dataset(str(path))
        assert "\n" not in str(caught.value)


def test_shards_are_verified(tmp_path: Path) -> None:
    write(tmp_path)
    open_dataset(str(tmp_path)).verify("train", "val")
    shard = tmp_path / "val/00000.parquet"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    changed = open_dataset(str(tmp_path))
    changed.verify("train")
    with pytest.raises(DataError, match=r"val/00000.parquet is not the file that was written"):
        changed.verify("train", "val")
    shard.unlink()
    with pytest.raises(DataError, match=r"val/00000.parquet is missing; restore it"):
        changed.verify("val")
