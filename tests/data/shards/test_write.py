"""Datasets are written whole or not at all, continued byte by byte, and refused with one line."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from example_dataset import MODALITIES, VOCABULARY, LazyRows, contents, make_row, write
from pyarrow import fs

from raymc.data.labels import Vocabulary
from raymc.data.shards import (
    Manifest,
    Modality,
    Row,
    open_dataset,
    ragged,
    read_shard,
    write_dataset,
    write_shard,
)
from raymc.errors import DataError


def addresses(tmp_path: Path) -> dict[str, str]:
    return {
        "local": str(tmp_path / "new" / "dataset"),
        "file": f"file://{tmp_path}/dataset",
        "fsspec": f"memory://{uuid4().hex}/dataset/",
    }


@pytest.mark.parametrize("kind", ["local", "file", "fsspec"])
def test_what_is_written_is_read_back(tmp_path: Path, kind: str) -> None:
    address = addresses(tmp_path)[kind]
    manifest = write(address)
    dataset = open_dataset(address)
    assert dataset.manifest == manifest
    assert [shard.rows for shard in dataset.split("train")] == [4, 4, 2]
    assert manifest.rows("train") == 10
    found = 0
    for shard in dataset.split("train"):
        table = read_shard(dataset, shard)
        tokens = {m.name: ragged(table[m.name], m) for m in manifest.modalities}
        for i, values in enumerate(table.to_pylist()):
            row = make_row(found)
            found += 1
            assert values["id"] == row.id
            assert values["labels"] == row.labels
            assert values["observed"] == row.observed
            assert {name: values[name] for name in row.extra} == row.extra
            visual, audio = row.tokens["visual"], row.tokens["audio"]
            assert visual is not None
            np.testing.assert_array_equal(tokens["visual"].row(i), visual.astype(np.float16))
            np.testing.assert_array_equal(
                tokens["audio"].row(i), np.empty((0, 2)) if audio is None else audio
            )
    assert found == 10


def test_the_schema_says_what_the_bytes_mean(tmp_path: Path) -> None:
    write(tmp_path)
    schema = pq.read_schema(tmp_path / "train/00000.parquet")
    assert schema.names == ["id", "labels", "observed", "visual", "audio", "url", "start_seconds"]
    assert schema.field("start_seconds").type == pa.float64()
    for modality in MODALITIES:
        assert Modality.from_field(schema.field(modality.name)) == modality
    column = pq.ParquetFile(tmp_path / "train/00000.parquet").metadata.row_group(0).column(3)
    assert column.compression == "UNCOMPRESSED"
    assert "RLE_DICTIONARY" not in column.encodings


def test_without_groups_there_is_no_observed_column(tmp_path: Path) -> None:
    splits = {"train": [replace(make_row(i), observed=None) for i in range(3)]}
    write(tmp_path, splits=splits, vocabulary=Vocabulary(VOCABULARY.names))
    assert "observed" not in pq.read_schema(tmp_path / "train/00000.parquet").names


def test_dataset_json_is_for_people_too(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    text = (tmp_path / "dataset.json").read_text()
    values = json.loads(text)
    assert text == json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    assert list(values) == [
        *("schema_version", "license", "vocabulary", "modalities", "splits", "provenance")
    ]
    assert Manifest.from_json(values) == manifest
    assert contents(tmp_path).keys() == {
        "dataset.json",
        *(f"train/0000{k}.parquet" for k in range(3)),
        "val/00000.parquet",
    }


def test_digest_follows_the_content(tmp_path: Path) -> None:
    first, again = write(tmp_path / "a"), write(tmp_path / "b")
    other_rows = write(tmp_path / "c", [make_row(i + 1) for i in range(10)])
    assert first.digest() == again.digest()
    assert len({first.digest(), other_rows.digest(), replace(first, license="MIT").digest()}) == 3
    reordered = replace(first, provenance={"b": 1, "a": 2})
    assert reordered.digest() == replace(first, provenance={"a": 2, "b": 1}).digest()


@pytest.mark.parametrize("fails_at", [0, 3, 4, 9])
def test_an_interrupted_write_goes_on_and_ends_the_same(tmp_path: Path, fails_at: int) -> None:
    expected = write(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        write(tmp_path / "cut", LazyRows(10, fails_at=fails_at))
    with pytest.raises(DataError, match="unfinished dataset; run the same command"):
        open_dataset(str(tmp_path / "cut"))
    rest = LazyRows(10)
    assert write(tmp_path / "cut", rest) == expected
    assert rest.asked == list(range(fails_at // 4 * 4, 10))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_what_a_kill_or_crash_leaves_behind_is_mended(tmp_path: Path) -> None:
    write(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        write(tmp_path / "cut", LazyRows(10, fails_at=9))
    (tmp_path / "cut/train/.00002.parquet.0123.partial").write_bytes(b"half of a shard")
    torn = tmp_path / "cut/train/00000.parquet"
    torn.write_bytes(torn.read_bytes()[:-20])
    rest = LazyRows(10)
    write(tmp_path / "cut", rest)
    assert rest.asked == [0, 1, 2, 3, 8, 9]
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_failing_disk_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk(fs.LocalFileSystem):
        def move(self, src: str, dest: str) -> None:
            raise OSError(28, "No space left on device")

    path = str(tmp_path / "train/00000.parquet")
    with pytest.raises(DataError, match=r"can't read or write .*00000.parquet: .*No space left"):
        write_shard(FullDisk(), path, [make_row(1)], modalities=MODALITIES, extra_fields=EXTRAS)
    assert contents(tmp_path) == {}


EXTRAS = [pa.field("url", pa.string()), pa.field("start_seconds", pa.float64())]


def test_a_finished_dataset_is_returned_untouched(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    rows = LazyRows(10)
    assert write(tmp_path, rows) == manifest
    assert rows.asked == []
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


OTHER_PLANS = [
    ({"train": 11}, r"different splits \(number of rows, or shard_rows\)"),
    ({"shard_rows": 5}, r"different splits \(number of rows"),
    ({"provenance": {"seed": 1}}, "different provenance"),
    ({"license": "MIT"}, "different license"),
    ({"vocabulary": Vocabulary(VOCABULARY.names)}, "different vocabulary"),
    ({"modalities": MODALITIES[::-1]}, "different modalities"),
]


@pytest.mark.parametrize("fails_at", [None, 5], ids=["finished", "unfinished"])
@pytest.mark.parametrize(("changes", "message"), OTHER_PLANS)
def test_another_plan_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str, fails_at: int | None
) -> None:
    if fails_at is None:
        write(tmp_path)
    else:
        with pytest.raises(RuntimeError, match="power cut"):
            write(tmp_path, LazyRows(10, fails_at=fails_at))
    before = contents(tmp_path)
    with pytest.raises(DataError, match=f"{tmp_path} holds another dataset: {message}.*choose"):
        write(tmp_path, **changes)
    assert contents(tmp_path) == before


def row(**changes: Any) -> Row:
    return replace(make_row(1), **changes)


def visual(tokens: Any) -> Row:
    return row(tokens={"visual": tokens})


BAD_ROWS = [
    (
        visual(np.zeros((2, 5))),
        r"modality 'visual': tokens have shape \[2, 5\]; expected \[tokens, 4",
    ),
    (visual(np.zeros(4)), r"modality 'visual': tokens have shape \[4\]; expected"),
    (visual(np.zeros((2, 4), np.int64)), "modality 'visual': tokens are int64; expected float16"),
    (visual(np.full((2, 4), np.nan)), "modality 'visual': NaN or Inf among the tokens"),
    (visual(np.full((2, 4), -np.inf)), "modality 'visual': NaN or Inf among the tokens"),
    (visual(np.full((2, 4), 7e4)), "modality 'visual': a value is too large for float16"),
    (
        row(tokens={"audio": np.zeros((1, 2))}),
        "modality 'audio': tokens are float64; expected uint8",
    ),
    (row(tokens={"video": None}), "no modality 'video'; there are audio, visual"),
    (row(labels=["adding", "ading"]), "unknown label 'ading'.*did you mean 'adding'"),
    (row(observed=["maths"]), "unknown group 'maths'.*did you mean 'math'"),
    (row(labels="adding"), "labels or observed is a string; expected a list of names"),
    (row(id="train-4"), r"\(id 'train-4'\): the id is empty or already used"),
    (row(id=""), r"\(id ''\): the id is empty or already used"),
    (row(extra={"title": "x"}), "no row of the first shard has the extra column 'title'"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_ROWS)
def test_a_bad_row_is_named(tmp_path: Path, bad: Row, message: str) -> None:
    rows = [make_row(i) for i in range(10)]
    rows[6] = bad
    with pytest.raises(DataError, match=f"split 'train', row 6 .*{message}"):
        write(tmp_path, rows)
    assert contents(tmp_path).keys() == {".plan.json", "train/00000.parquet"}


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ([{"x": 1}, {"x": "one"}], "extra column 'x': .*; expected one type"),
        (
            [{"x": 1}] * 4 + [{"x": 1.5}],
            "train/00001.parquet: extra column 'x': .*expected int64, as",
        ),
        ([{"labels": 1}], "the name of the extra column 'labels'"),
        ([{"visual": 1}], "the name of the extra column 'visual'"),
        ([{"x": 2**70}], "extra column 'x': .*expected one type"),
    ],
)
def test_extras_that_do_not_fit(
    tmp_path: Path, extras: list[Mapping[str, Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write(tmp_path, [replace(make_row(i), extra=extra) for i, extra in enumerate(extras)])


def test_extras_may_be_missing(tmp_path: Path) -> None:
    extras = [{"x": 1}, {"y": None}, {}, {"x": 2}, {"y": "text"}]
    rows = [replace(make_row(i), extra=extra) for i, extra in enumerate(extras)]
    manifest = write(tmp_path, splits={"train": rows})
    dataset = open_dataset(str(tmp_path))
    tables = [read_shard(dataset, shard, ["y", "x"]) for shard in manifest.splits["train"]]
    read = pa.concat_tables(tables)
    assert read.column_names == ["y", "x"]
    assert read["x"].to_pylist() == [1, None, None, 2, None]
    assert read["y"].to_pylist() == [None, None, None, None, "text"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard_rows": 0}, "shard_rows is 0; expected 1 or more"),
        ({"provenance": {"loss": float("nan")}}, "provenance: .*use only text"),
        ({"provenance": {"when": object()}}, "provenance: .*use only text"),
        ({"modalities": ()}, "expected at least one"),
        ({"modalities": MODALITIES[:1] * 2}, "each with its own name"),
    ],
)
def test_a_plan_that_cannot_be_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write(tmp_path / "new", **changes)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["", "_train", "a/b", "..", ".hidden"])
def test_split_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"split '{name}': expected a name of letters"):
        write_dataset(
            str(tmp_path), {name: [make_row(0)]}, vocabulary=VOCABULARY, modalities=MODALITIES
        )


def test_a_folder_with_other_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "train/00000.parquet")
    with pytest.raises(
        DataError, match=r"already holds train/00000.parquet; choose another folder"
    ):
        write(tmp_path)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"can't read or write .*file"):
        write(tmp_path / "file")
