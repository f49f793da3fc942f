"""Tables of sources: what a field may hold beyond what `test_sources.py` covers."""

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymc.errors import DataError
from raymc.features.sources import list_sources


def listed(folder: Path, name: str, data: str):
    (folder / name).write_text(data)
    return list_sources(str(folder / name))


def test_ids_and_names_stay_text(tmp_path: Path) -> None:
    (source,) = listed(tmp_path, "t.csv", "path,id,labels\n007.mp4,007,3;x | y;;x\n")
    assert (source.id, source.labels) == ("007", ("3", "x", "y"))


def test_tabs_and_quotes(tmp_path: Path) -> None:
    (source,) = listed(tmp_path, "t.tsv", 'path\tnote\n"a\tb.mp4"\t"1\n2"\n')
    assert (source.path, source.extra) == (f"{tmp_path}/a\tb.mp4", {"note": "1\n2"})


def test_files_that_differ_by_their_suffix_only(tmp_path: Path) -> None:
    sources = listed(tmp_path, "t.csv", "path\nv/a.mp4\nv/a.webm\nb.mp4\n")
    assert [source.id for source in sources] == ["v/a.mp4", "v/a.webm", "b"]


def test_values_of_parquet_are_plain(tmp_path: Path) -> None:
    row = {"path": "a.mp4", "day": date(2020, 1, 2), "n": 3, "shots": ["x"]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "t.parquet")
    (source,) = list_sources(str(tmp_path / "t.parquet"))
    assert source.extra == {"day": "2020-01-02", "n": 3, "shots": ["x"]}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", "path,id,id\na,b,c\n", "a column occurs twice: path, id, id"),
        ("t.csv", "path,id\na,\n", "line 2: id is empty; expected text"),
        ("t.csv", "path,end_seconds\na,nan\n", "line 2: end_seconds is 'nan'; expected seconds"),
        ("t.csv", "path,start_seconds\na,inf\n", "line 2: start_seconds is 'inf'"),
        ("t.jsonl", '{"path": "a", "id": true}', "line 1: id is True; expected text"),
        ("t.jsonl", '{"path": "a", "split": ""}', "line 1: split is empty"),
        ("t.jsonl", "[" * 100_000, "can't be read as jsonl"),
        ("t.csv", "", "the table has no rows"),
        ("t.json", "{}", "not a list; expected a list of objects"),
        ("t.zip", "", "'.zip' is not a suffix of media or tables; give a folder or glob"),
        ("t.xls", "", "Excel's format before 2007: save it as .xlsx"),
        ("t.xlsx", "PK", "no spreadsheet, or only a part of one"),
        ("~$t.xlsx", "Ann", "beside an open file: give t.xlsx"),
        (".~lock.t.ods#", ",Ann", "beside an open file: give t.ods"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path: Path, name: str, data: str, message: str) -> None:
    with pytest.raises(DataError) as raised:
        listed(tmp_path, name, data)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
