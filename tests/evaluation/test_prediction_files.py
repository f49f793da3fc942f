"""Predictions read back by the tools that people open them with: the same texts and numbers."""

import csv
import json
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymc.errors import ConfigError
from raymc.evaluation.prediction_files import frames_of, writer_to

IDS = ["001", "=1+1", 'say "hi", twice', "é\tü"]
LABELS = [["counting"], [], ["a;b", "x"], None]
CHANCES = np.array([[0.9, 0.1], [0.25, 0.75], [0.5, 0.5], [np.nan, np.nan]], np.float32)
ERRORS = [None, None, "one picture is damaged", "can't be read"]


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Two parts of two rows; the last row is a file that could not be read."""
    table = pa.table(
        {
            "id": IDS,
            "path": [f"/videos/{i}.mp4" for i in range(4)],
            "start_seconds": [0.0, 1.5, 0.0, None],
            "end_seconds": [1.5, 3.0, 2.0, None],
            "error": pa.array(ERRORS, pa.string()),
            "labels": pa.array(LABELS, pa.list_(pa.string())),
            "score.counting": pa.array(CHANCES[:, 0], from_pandas=True),
            "score.x": pa.array(CHANCES[:, 1], from_pandas=True),
            "probability.counting": pa.array(CHANCES[:, 0], from_pandas=True),
            "probability.x": pa.array(CHANCES[:, 1], from_pandas=True),
        }
    )
    paths = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    for place, path in enumerate(paths):
        pq.write_table(table.slice(2 * place, 2), path)
    return paths


def written(parts: list[Path], out: Path, top: int = 0) -> Path:
    write = writer_to(out)
    assert write is not None
    write(frames_of(parts, top=top), out)
    return out


COLUMNS = ["id", "path", "start", "end", "labels", "error", "probability.counting", "probability.x"]
JOINED = ["counting", "", '["a;b", "x"]', ""]


def test_csv(parts: list[Path], tmp_path: Path) -> None:
    with written(parts, tmp_path / "out.CSV").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == COLUMNS
    assert [row[0] for row in rows] == IDS
    assert [row[4] for row in rows] == JOINED
    assert [row[6] for row in rows] == ["0.9000", "0.2500", "0.5000", ""]
    assert [row[5] for row in rows] == [error or "" for error in ERRORS]


def test_excel(parts: list[Path], tmp_path: Path) -> None:
    sheet = openpyxl.load_workbook(written(parts, tmp_path / "out.xlsx")).active
    assert sheet is not None
    head, *rows = sheet.iter_rows()
    assert [cell.value for cell in head] == COLUMNS
    assert [row[0].value for row in rows] == [*IDS[:3], "é\\tü"]  # no control characters in XML
    assert rows[1][0].data_type == "s"  # no formula
    assert [row[4].value or "" for row in rows] == JOINED
    assert rows[0][6].value == pytest.approx(0.9)
    assert rows[3][6].value is None


def test_json_lines(parts: list[Path], tmp_path: Path) -> None:
    lines = written(parts, tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["id"] for row in rows] == IDS
    assert [row["labels"] for row in rows] == LABELS
    assert rows[3]["probability.x"] is None
    assert rows[1]["probability.x"] == 0.75


def test_parquet_and_the_most_probable_labels(parts: list[Path], tmp_path: Path) -> None:
    frame = pd.read_parquet(written(parts, tmp_path / "out.parquet", top=1))
    assert list(frame.columns[-2:]) == ["label 1", "probability 1"]
    assert frame["label 1"][:3].tolist() == ["counting", "x", "counting"]
    assert frame["label 1"].isna().tolist() == [False, False, False, True]
    np.testing.assert_array_equal(frame["probability 1"], CHANCES.max(axis=1))


def test_a_folder_and_a_suffix_that_is_none() -> None:
    assert writer_to(Path("predictions")) is None
    with pytest.raises(ConfigError, match=r"out\.doc: predictions are written as \.csv, \.xlsx, "):
        writer_to(Path("out.doc"))
