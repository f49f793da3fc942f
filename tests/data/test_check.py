"""Every fault that a check must find, each put into a dataset that had none."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from example_dataset import write

from raymc.data.check import Finding, check_dataset, find_oddities
from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Row, write_dataset
from raymc.errors import DataError

SHARD = "train/00001.parquet"


def lines(folder: Path) -> list[str]:
    return [str(finding) for finding in check_dataset(str(folder))[0]]


def replace_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    at = table.schema.get_field_index(name)
    field = table.schema.field(name)
    return table.set_column(at, field, pa.array(values, field.type))


def change(name: str, row: int, value: Any) -> Callable[[pa.Table], pa.Table]:
    """Return a change of one value of a table."""

    def apply(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        values[row] = value
        return replace_column(table, name, values)

    return apply


def rewrite(folder: Path, edit: Callable[[pa.Table], pa.Table], **options: Any) -> None:
    """Edit a shard, and tell dataset.json the new size and checksum, as a foreign writer would."""
    table = edit(pq.ParquetFile(folder / SHARD).read())
    pq.write_table(table, folder / SHARD, **options)
    data = (folder / SHARD).read_bytes()
    values = json.loads((folder / "dataset.json").read_text())
    values["splits"]["train"][1] |= {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    (folder / "dataset.json").write_text(json.dumps(values))


def test_a_sound_dataset(tmp_path: Path) -> None:
    write(tmp_path)
    assert check_dataset(str(tmp_path))[0] == []
    (tmp_path / "dataset.json").unlink()
    assert check_dataset(str(tmp_path))[0] == []


def test_findings_are_one_line() -> None:
    assert str(Finding("train/0.parquet", None, "is missing")) == "train/0.parquet: is missing"
    assert str(Finding("train/0.parquet", 3, "no id")) == "train/0.parquet row 3: no id"


NAN = np.array([[1, 2, 3, 4], [1, 2, np.nan, 4]], np.float16).tobytes()
INF = np.array([[1, 2, 3, -np.inf]], np.float16).tobytes()
FAULTS = [
    (change("id", 2, ""), " row 2: the id is null or empty"),
    (change("id", 0, None), " row 0: the id is null or empty"),
    (change("labels", 1, ["adding", "subtracting"]), " row 1: unknown label 'subtracting'"),
    (change("labels", 1, ["adding", None]), " row 1: unknown label 'None'"),
    (change("labels", 3, None), " row 3: labels is null; expected a list, which may be empty"),
    (change("observed", 3, ["physics"]), " row 3: unknown group 'physics'"),
    (change("visual", 1, NAN), " row 1: modality 'visual' has NaN or infinite values"),
    (change("visual", 3, INF), " row 3: modality 'visual' has NaN or infinite values"),
    (
        change("audio", 2, b"odd"),
        ": modality 'audio', row 2: 3 bytes are not a multiple of a token",
    ),
    (
        change("id", 1, "train-0"),
        " row 1: id 'train-0' is already used by train/00000.parquet row 0",
    ),
    (change("id", 3, "train-4"), f" row 3: id 'train-4' is already used by {SHARD} row 0"),
    (
        lambda table: table.drop(["audio"]),
        ": no column 'audio'; there are id, labels, observed, vis",
    ),
    (
        lambda table: table.drop(["observed"]),
        ": no column 'observed'; there are id, labels, visual",
    ),
    (lambda table: table[:3], ": has 3 rows; expected 4"),
]


@pytest.mark.parametrize(("edit", "message"), FAULTS)
def test_faults_of_rows(tmp_path: Path, edit: Callable[[pa.Table], pa.Table], message: str) -> None:
    write(tmp_path)
    rewrite(tmp_path, edit)
    (line,) = lines(tmp_path)
    assert line.startswith(SHARD + message)


def test_rows_are_counted_over_row_groups(tmp_path: Path) -> None:
    write(tmp_path)
    rewrite(tmp_path, change("visual", 3, NAN), row_group_size=2)
    assert lines(tmp_path) == [f"{SHARD} row 3: modality 'visual' has NaN or infinite values"]


def test_repeated_faults_are_counted(tmp_path: Path) -> None:
    write(tmp_path)
    rewrite(
        tmp_path,
        lambda table: replace_column(
            replace_column(table, "visual", [None, INF, NAN, INF]),
            "id",
            [f"val-{i}" for i in "0129"],
        ),
    )
    assert lines(tmp_path) == [
        f"{SHARD} row 1: modality 'visual' has NaN or infinite values (and 2 more rows)",
        "val/00000.parquet row 0: id 'val-0' is already used by train/00001.parquet row 0 "
        "(and 2 more such ids)",
    ]


def test_a_label_that_was_not_observed(tmp_path: Path) -> None:
    write(tmp_path)
    rewrite(
        tmp_path,
        lambda table: change("observed", 2, [])(change("labels", 2, ["sounds", "adding"])(table)),
    )
    assert lines(tmp_path) == [
        f"{SHARD} row 2: has label 'adding', but none of its groups in observed"
    ]


def test_types_and_meaning_of_columns(tmp_path: Path) -> None:
    write(tmp_path)
    rewrite(tmp_path, lambda table: table.cast(table.schema.set(0, pa.field("id", pa.binary()))))
    assert lines(tmp_path) == [f"{SHARD}: column 'id' is binary; expected string"]
    metadata: dict[bytes | str, bytes | str] = {"raymc.dim": "8", "raymc.dtype": "float16"}
    rewrite(
        tmp_path,
        lambda table: table.cast(
            table.schema.set(0, pa.field("id", pa.string())).set(
                3, pa.field("visual", pa.large_binary(), metadata=metadata)
            )
        ),
    )
    (line,) = lines(tmp_path)
    assert line.startswith(f"{SHARD}: column 'visual' is Modality(name='visual', dim=8, ")
    assert "dataset.json says Modality(name='visual', dim=4, " in line


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[200] ^= 1
    file.write_bytes(data)


DAMAGES = [
    (Path.unlink, [": is missing; restore it"]),
    (
        lambda file: file.write_bytes(b""),
        [": has 0 bytes; expected ", ": is not the file", ": can't"],
    ),
    (
        lambda file: file.write_bytes(file.read_bytes()[:-50]),
        [": has ", ": is not", ": can't be read"],
    ),
    (flip_a_bit, [": is not the file that was written: its SHA-256 differs"]),
]


@pytest.mark.parametrize(("damage", "messages"), DAMAGES)
def test_damaged_files(
    tmp_path: Path, damage: Callable[[Path], object], messages: list[str]
) -> None:
    write(tmp_path)
    damage(tmp_path / SHARD)
    found = [line for line in lines(tmp_path) if " row " not in line]
    assert [
        line[: len(SHARD + message)] for line, message in zip(found, messages, strict=True)
    ] == [SHARD + message for message in messages]


def test_files_that_the_manifest_does_not_know(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "train/00009.parquet").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    assert lines(tmp_path) == [
        "train/00009.parquet: is not in dataset.json, so it is never read; move it elsewhere"
    ]


def test_tokens_of_other_layouts(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    floats = pa.array([[[1.0, 2.0]], [[3.0, np.nan]]], pa.list_(pa.list_(pa.float32())))
    table = pa.table({"id": ["a", "b"], "labels": [["x"], []], "visual": floats})
    pq.write_table(table, tmp_path / "train/a.parquet")
    assert lines(tmp_path) == [
        "train/a.parquet row 1: modality 'visual' has NaN or infinite values"
    ]


def test_what_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no dataset at"):
        check_dataset(str(tmp_path / "missing"))


def oddities(folder: Path, **splits: list[tuple[str, str, str | None]]) -> list[str]:
    """Of a dataset whose rows are given as video, labels in one text, and said or not."""
    made = {
        split: [
            Row(
                id=f"{split}-{i}",
                labels=labels.split(),
                tokens={"text": None if words is None else np.ones((1, 2))},
                extra={"video": video},
            )
            for i, (video, labels, words) in enumerate(rows)
        ]
        for split, rows in splits.items()
    }
    names = sorted({name for rows in made.values() for row in rows for name in row.labels})
    write_dataset(
        str(folder),
        made,
        vocabulary=Vocabulary(tuple(names)),
        modalities=(Modality("text", 2),),
    )
    return find_oddities(str(folder))


def test_what_is_valid_and_likely_a_mistake(tmp_path: Path) -> None:
    sound: list[tuple[str, str, str | None]] = [
        ("a", "count", "x"),
        ("b", "shape count", "x"),
        ("c", "shape", "x"),
    ]
    assert oddities(tmp_path / "sound", train=sound, val=sound) == []
    none = oddities(tmp_path / "none", train=[("a", "", "x")])
    assert none == [
        "no row has a label; with such a dataset a model can predict, but not be trained"
    ]
    odd = oddities(
        tmp_path / "odd",
        train=[("a", "count red", "x"), ("a", "Count", None), ("b", "count", None)],
        val=[("c", "count counts", "x"), ("c", "counts", "x"), ("a", "red", "x")],
    )
    assert odd == [
        "2 of 4 labels are in one split only, so they are not learned or not measured: "
        "Count (train 1), counts (val 2)",
        "2 labels have all their rows in one video, so a model may learn the video instead: "
        "red (2 rows), counts (2 rows)",
        '"count" and "Count" differ in case only; if they are one label, write them alike',
        '"count" and "counts" differ in one letter; if that is a slip, mend it',
        "2 of 6 rows have no text; are there .vtt or .srt files beside their videos?",
    ]
