"""Folders of Parquet that other tools wrote are understood without a dataset.json."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from example_dataset import MODALITIES, VOCABULARY, write

from raymc.data.shards import Modality, is_dataset, open_dataset, ragged, read_shard
from raymc.errors import DataError

FLOATS = pa.list_(pa.float32())
TENSORS = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(12, dtype=np.int8).reshape(2, 2, 3))


def put(folder: Path, file: str, columns: Mapping[str, Any]) -> None:
    """Write a Parquet file with ids, labels and these columns; None leaves a column out."""
    base = {"id": ["a", "b"], "labels": [["x"], ["y", "x"]]}
    kept = {name: value for name, value in (base | dict(columns)).items() if value is not None}
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(kept), folder / file)


LAYOUTS = [
    pytest.param(TENSORS, Modality("v", 3), id="tensors of int8"),
    pytest.param(
        pa.array([None, [[], [1, 2, 3]]], pa.list_(FLOATS)), Modality("v", 3, "float32"), id="lists"
    ),
    pytest.param(pa.array([None, [1, 2]], FLOATS), Modality("v", 2, "float32"), id="one token"),
    pytest.param(
        pa.array([[[1, 2]], []], pa.list_(pa.list_(pa.float16(), 2))), Modality("v", 2), id="fixed"
    ),
    pytest.param(
        pa.array([[1, 2], [3, 4]], pa.list_(pa.float64(), 2)), Modality("v", 2, "float32"), id="f64"
    ),
    pytest.param(
        pa.array([[1, 2]] * 2, pa.large_list(pa.uint8())), Modality("v", 2, "uint8"), id="uint8"
    ),
]


@pytest.mark.parametrize(("column", "modality"), LAYOUTS)
def test_modalities_follow_from_the_columns(
    tmp_path: Path, column: pa.Array, modality: Modality
) -> None:
    extras = {"title": ["one", "two"], "spans": [[1], [2]], "thumbnail": [b"jpg", b"jpg"]}
    put(tmp_path, "train/part-0.parquet", {"v": column, **extras})
    assert open_dataset(str(tmp_path)).manifest.modalities == (modality,)


def test_shards_splits_and_vocabulary(tmp_path: Path) -> None:
    column = pa.array([[1.0], [2.0]], FLOATS)
    put(tmp_path, "train/b.parquet", {"v": column})
    put(tmp_path, "train/a.parquet", {"v": column, "labels": [["z"], None]})
    put(tmp_path, "fold-2/a.parquet", {"v": column, "labels": [[], []]})
    (tmp_path / "train/.hidden.parquet").write_text("")
    (tmp_path / "train/_SUCCESS").write_text("")
    (tmp_path / "README.md").write_text("")
    dataset = open_dataset(str(tmp_path))
    assert dataset.manifest.vocabulary.names == ("x", "y", "z")
    assert {
        split: [shard.file for shard in shards] for split, shards in dataset.manifest.splits.items()
    } == {
        "fold-2": ["fold-2/a.parquet"],
        "train": ["train/a.parquet", "train/b.parquet"],
    }
    shard = dataset.split("train")[0]
    data = (tmp_path / "train/a.parquet").read_bytes()
    assert (shard.rows, shard.bytes) == (2, len(data))
    assert shard.sha256 == hashlib.sha256(data).hexdigest()
    table = read_shard(dataset, shard, ["v", "labels"])
    assert table.column_names == ["v", "labels"]
    assert table["labels"].to_pylist() == [["z"], []]
    assert ragged(table["v"], dataset.manifest.modalities[0]).values.tolist() == [[1], [2]]


def test_raymc_shards_without_their_manifest(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    (tmp_path / "dataset.json").unlink()
    scanned = open_dataset(str(tmp_path)).manifest
    assert scanned.modalities == MODALITIES
    assert set(scanned.vocabulary.names) == set(VOCABULARY.names)
    assert {split: scanned.rows(split) for split in scanned.splits} == {"train": 10, "val": 3}
    assert manifest.rows("train") == 10


V = pa.array([[1.0], [2.0]], FLOATS)
FOREIGN: Sequence[tuple[str, Mapping[str, Any], str]] = [
    ("a.parquet", {"v": V}, "a.parquet: expected Parquet files in split folders, .*/train/"),
    ("x/y/a.parquet", {"v": V}, "x/y/a.parquet: expected Parquet files in split folders"),
    ("train/a.parquet", {"v": V, "id": None}, "train/a.parquet: no column 'id'; there are labels"),
    ("train/a.parquet", {"v": V, "labels": None}, "no column 'labels'; there are id, v"),
    ("train/a.parquet", {"v": V, "id": [1, 2]}, "column 'id' is int64; expected string"),
    ("train/a.parquet", {"v": V, "labels": ["x", "y"]}, "'labels' is string; expected list<str"),
    ("train/a.parquet", {"v": V, "labels": [[1], []]}, "'labels' is list.*int64.*; expected"),
    ("train/a.parquet", {"v": V, "observed": [True, False]}, "'observed' is bool; expected"),
    ("train/a.parquet", {"n": [1, 2]}, r"no column of tokens \(bytes, tensors or lists of float"),
    ("train/a.parquet", {"v": [b"", b""]}, "metadata of 'v' lacks raymc.dtype and raymc.dim"),
    ("train/a.parquet", {"v": pa.array([[], None], FLOATS)}, "column 'v' is empty in every row"),
    (
        "train/a.parquet",
        {"v": V, "labels": pa.array([[], []], pa.list_(pa.string()))},
        "no row has",
    ),
    ("README.md", {"v": V}, "has neither dataset.json nor Parquet files"),
]


@pytest.mark.parametrize(("file", "columns", "message"), FOREIGN)
def test_foreign_folders(
    tmp_path: Path, file: str, columns: Mapping[str, Any], message: str
) -> None:
    put(tmp_path, file, columns)
    with pytest.raises(DataError, match=f"{tmp_path}.*{message}"):
        open_dataset(str(tmp_path))
    assert is_dataset(str(tmp_path)) == (file == "train/a.parquet")


def test_a_file_without_a_column_of_the_first(tmp_path: Path) -> None:
    put(tmp_path, "train/a.parquet", {"v": V})
    put(tmp_path, "train/b.parquet", {"w": V})
    with pytest.raises(DataError, match=r"train/b.parquet: no column 'v'; there are id, labels, w"):
        open_dataset(str(tmp_path))


def test_a_torn_file(tmp_path: Path) -> None:
    put(tmp_path, "train/a.parquet", {"v": V})
    file = tmp_path / "train/a.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(
        DataError, match=r"train/a.parquet can't be read as Parquet .*copy it again"
    ):
        open_dataset(str(tmp_path))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no dataset at {tmp_path}/x: there is no such folder"):
        open_dataset(f"{tmp_path}/x")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file is a file; expected the folder that holds the split"):
        open_dataset(f"{tmp_path}/file")


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    column = pa.array([[1.0], [2.0]], FLOATS)
    put(tmp_path, "train/a.parquet", {"v": column})
    file = tmp_path / "train/a.parquet"
    before, times = file.read_bytes(), file.stat()
    digest = open_dataset(str(tmp_path)).manifest.digest()
    put(tmp_path, "train/a.parquet", {"v": column, "labels": [["y", "x"], ["x"]]})
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert len(file.read_bytes()) == len(before)
    assert open_dataset(str(tmp_path)).manifest.digest() != digest
    file.write_bytes(before)
    assert open_dataset(str(tmp_path)).manifest.digest() == digest
