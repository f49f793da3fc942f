"""Datasets of rows that arrive one by one: the same files, however often the writer was stopped."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from example_dataset import contents

from raymc.data.labels import Vocabulary
from raymc.data.shards import Manifest, Modality, Row, ShardStream, open_dataset, read_shard
from raymc.data.shards.manifest import PLAN_FILE
from raymc.data.shards.write import JOURNAL_FOLDER
from raymc.errors import DataError

ROWS = {"train": 11, "val": 4}
PLAN = Manifest(
    Vocabulary(("add", "count")),
    (Modality("visual", 3, "float32"),),
    {"train": (), "val": ()},
    {"from": "a test"},
)
EXTRA = (pa.field("url", pa.string()),)


def row(split: str, index: int) -> Row:
    tokens = np.random.default_rng([len(split), index]).normal(size=(1 + index % 3, 3))
    return Row(
        id=f"{split}-{index}",
        labels=["add"] if index % 2 else [],
        tokens={"visual": tokens if index % 4 else None},
        extra={"url": f"https://example.org/{index}"},
    )


def open_stream(folder: Path, plan: Manifest = PLAN) -> ShardStream:
    return ShardStream(str(folder), plan, extra_fields=EXTRA, shard_rows=3)


def steps(stream: ShardStream) -> Iterator[None]:
    """Write what is missing, and pause after each row."""
    done = stream.journal[-1].note["done"] if stream.journal else 0
    rows = [(split, i) for split, count in ROWS.items() for i in range(count)]
    for number, (split, i) in enumerate(rows[done:], start=done + 1):
        stream.add(row(split, i))
        is_last = number == len(rows) or rows[number][0] != split
        if stream.is_full or is_last:
            stream.flush(split, {"done": number})
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of a writer that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole") / "data"
    stream = open_stream(folder)
    for _ in steps(stream):
        pass
    stream.finish()
    return folder


def test_rows_come_back(whole: Path) -> None:
    dataset = open_dataset(str(whole))
    assert {split: dataset.manifest.rows(split) for split in ROWS} == ROWS
    assert [shard.rows for shard in dataset.split("train")] == [3, 3, 3, 2]
    for split, count in ROWS.items():
        tables = [read_shard(dataset, shard) for shard in dataset.split(split)]
        found = pa.concat_tables(tables).to_pylist()
        for values, expected in zip(found, (row(split, i) for i in range(count)), strict=True):
            tokens = expected.tokens["visual"]
            stored = None if tokens is None else tokens.astype("<f4").tobytes()
            assert values == {
                "id": expected.id,
                "labels": list(expected.labels),
                "visual": stored,
                "url": expected.extra["url"],
            }
    assert not (whole / PLAN_FILE).exists()
    assert not (whole / JOURNAL_FOLDER).exists()


@pytest.mark.parametrize("stops", [(1,), (3,), (4, 4), (11, 1), (7, 1, 1, 1, 1, 1, 1), (15,)])
def test_a_stopped_writer_leaves_what_one_that_never_stopped_does(
    whole: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    for rows in stops:
        for _, _ in zip(range(rows), steps(open_stream(tmp_path))):
            pass
    with pytest.raises(DataError, match="unfinished"):
        open_dataset(str(tmp_path))
    stream = open_stream(tmp_path)
    for _ in steps(stream):
        pass
    stream.finish()
    assert contents(tmp_path) == contents(whole)


@pytest.mark.parametrize("torn", ["train/00001.parquet", f"{JOURNAL_FOLDER}/000001.json"])
def test_what_a_crash_tore_is_written_again(whole: Path, tmp_path: Path, torn: str) -> None:
    for _ in steps(open_stream(tmp_path)):
        pass
    file = tmp_path / torn
    file.write_bytes(file.read_bytes()[:-7])
    stream = open_stream(tmp_path)
    assert len(stream.journal) == 1
    for _ in steps(stream):
        pass
    stream.finish()
    assert contents(tmp_path) == contents(whole)


def test_a_finished_dataset_is_left_alone(whole: Path) -> None:
    before = contents(whole)
    stream = open_stream(whole)
    assert stream.finished == open_dataset(str(whole)).manifest
    assert contents(whole) == before


def test_a_split_without_rows_is_empty_rather_than_absent(tmp_path: Path) -> None:
    stream = open_stream(tmp_path)
    stream.add(row("train", 0))
    stream.flush("train", {})
    stream.flush("val", {})
    assert stream.finish().splits["val"] == ()
    with pytest.raises(DataError, match="split 'val' is empty"):
        open_dataset(str(tmp_path)).split("val")


def test_another_dataset_is_refused(whole: Path, tmp_path: Path) -> None:
    other = Manifest(PLAN.vocabulary, PLAN.modalities, PLAN.splits, {"from": "elsewhere"})
    with pytest.raises(DataError, match="holds another dataset: different provenance"):
        open_stream(whole, other)
    next(steps(open_stream(tmp_path)))
    with pytest.raises(DataError, match="holds another dataset: different provenance"):
        open_stream(tmp_path, other)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "part.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"already holds part\.parquet"):
        open_stream(tmp_path / "foreign")


def test_a_row_that_breaks_the_contract_is_named(tmp_path: Path) -> None:
    stream = open_stream(tmp_path)
    stream.add(Row("clip", ["addd"], {}))
    with pytest.raises(DataError, match=r"split 'train', row 0 \(id 'clip'\).*did you mean 'add'"):
        stream.flush("train", {})
    assert json.loads((tmp_path / PLAN_FILE).read_text())["provenance"] == {"from": "a test"}
