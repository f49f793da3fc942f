"""Folders, globs and tables of media: what is found, in which order, and what is refused."""

import json
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymc.config import ExtractConfig
from raymc.errors import DataError, RaymcError
from raymc.features.sources import Source, list_media, list_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Some media, and some that is none."""
    files = ("b.mp4", "a.MKV", "deep/er/c.wav", "deep/d.mp4", "deep/d.webm", "notes.txt", "x.vtt")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def ids(sources: list[Source]) -> list[str]:
    return [source.id for source in sources]


def test_a_folder_is_searched_with_all_below_it(folder: Path) -> None:
    sources = list_sources(str(folder), split="test")
    assert ids(sources) == ["a", "b", "deep/d.mp4", "deep/d.webm", "deep/er/c"]
    assert sources[4] == Source(path=f"{folder}/deep/er/c.wav", id="deep/er/c", split="test")


def test_a_name_that_is_nearly_right(folder: Path) -> None:
    message = f"note.txt: no media: there is no such file or folder; did you mean {folder}/notes"
    with pytest.raises(DataError, match=message):
        list_sources(f"{folder}/note.txt")
    with pytest.raises(DataError, match=r"no such file or folder; give a folder or glob"):
        list_sources(f"{folder}/other/things.csv")


def test_a_folder_is_listed_once_whatever_its_links_say(folder: Path) -> None:
    outside = folder.parent / f"{folder.name}-outside"
    outside.mkdir()
    (outside / "e.mp4").write_bytes(b"")
    (outside / "back").symlink_to(folder)
    links = {"deep/up": "..", "deep/again": "er", "far": outside, "self": "self", "gone.mp4": "no"}
    links |= {"g.mp4": "b.mp4"}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.mp4")
    (folder / "anim.gif").write_bytes(b"")
    (folder / "b.de.srt").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.mp4")).write_bytes(b"")
    listing = list_media(ExtractConfig(source=str(folder)))
    found = ["a", "b", "deep/d.mp4", "deep/d.webm", "deep/er/c", "far/e", "g"]
    assert [source.id for source in listing.sources] == found
    assert listing.lines == [f"{folder}: 7 files, all in train"]
    first, *others = listing.left_out
    assert first.startswith(
        "left out: 3 files without a suffix of media (.gif 1, .txt 1, .vtt 1): anim.gif, "
        "notes.txt, x.vtt; to take some, name them"
    )
    listed = "a link to a folder that is listed already"
    assert sorted(others) == [
        "left out: caf\udce9.mp4: its name is not in UTF-8; rename it",
        f"left out: deep/again: {listed}",
        f"left out: deep/up: {listed}",
        f"left out: far/back: {listed}",
        "left out: gone.mp4: a link to nothing",
        "left out: pipe.mp4: neither a file nor a folder",
        "left out: self: a link to nothing",
    ]
    assert ids(list_sources(f"{folder}/*.gif")) == ["anim"]
    with pytest.raises(DataError, match=r"no media files; .*; left out: 1 file without .* notes"):
        list_sources(f"{folder}/n*")


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(folder)
    with pytest.raises(DataError, match="a name in the path is not in UTF-8; rename it"):
        list_sources(folder)


def test_what_is_said_of_the_texts_beside_media(folder: Path) -> None:
    for name in ("b.de.vtt", "b.en.vtt", "deep/d.SRT"):
        (folder / name).write_bytes(b"")
    _, *lines = list_media(ExtractConfig(source=str(folder), text="words")).lines
    assert lines == [
        "  text: 3 of 5 files have one beside them (.SRT 2, .en.vtt 1); none: a.MKV, c.wav",
        "  text: 1 have several, such as b.en.vtt, b.de.vtt; the first is read (--language to "
        "choose another)",
    ]
    (line, *_) = list_media(ExtractConfig(source=str(folder), text="words", language="de")).lines[
        1:
    ]
    assert "(.SRT 2, .de.vtt 1)" in line


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.mp4", ["b"]),
        ("deep/*", ["d.mp4", "d.webm"]),
        ("**/*.mp4", ["b", "deep/d"]),
        ("**/[cd].w*", ["deep/d", "deep/er/c"]),
        ("b.mp4", ["b"]),
    ],
)
def test_a_glob(folder: Path, pattern: str, found: list[str]) -> None:
    assert ids(list_sources(f"{folder}/{pattern}")) == found


def test_addresses_are_kept(folder: Path) -> None:
    where = f"memory://{uuid4().hex}"
    with fsspec.open(f"{where}/a/one.mp4", "wb") as file:
        file.write(b"x")
    (source,) = list_sources(f"{where}/a")
    assert source.id == "one"
    with fsspec.open(source.path) as file:
        assert file.read() == b"x"


ROWS: list[dict[str, Any]] = [
    {"path": "b.mp4", "labels": ["add", "count"], "split": "val", "n": 1, "url": "u"},
    {"path": "/else/where.mp4", "labels": [], "split": None, "n": 2, "url": None},
    {"path": "s3://bucket/k.mp4", "labels": None, "split": None, "n": 3, "url": "v"},
]


def write_table(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> str:
    file = folder / f"table{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif suffix == ".csv":
        texts = [{k: ";".join(v) if isinstance(v, list) else v for k, v in r.items()} for r in rows]
        lines = [",".join(rows[0])]
        lines += [",".join("" if v is None else str(v) for v in row.values()) for row in texts]
        file.write_text("\ufeff" + "\r\n".join(lines) + "\r\n")
    else:
        file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return str(file)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".ndjson", ".parquet"])
def test_a_table(folder: Path, suffix: str) -> None:
    sources = list_sources(write_table(folder, suffix, ROWS))
    assert [source.path for source in sources] == [
        f"{folder}/b.mp4",
        "/else/where.mp4",
        "s3://bucket/k.mp4",
    ]
    assert ids(sources) == ["b", "/else/where", "s3://bucket/k"]
    assert [source.labels for source in sources] == [("add", "count"), (), ()]
    assert [source.split for source in sources] == ["val", "train", "train"]
    numbers = ["1", "2", "3"] if suffix == ".csv" else [1, 2, 3]
    assert [source.extra["n"] for source in sources] == numbers
    assert [source.extra["url"] for source in sources] == ["u", None, "v"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_digests(folder: Path, suffix: str) -> None:
    digests = [32 * "aB", None, f" {64 * 'c'}\t"]
    rows = [{"path": f"{i}.mp4", "sha256": digest} for i, digest in enumerate(digests)]
    sources = list_sources(write_table(folder, suffix, rows))
    assert [source.sha256 for source in sources] == [32 * "ab", None, 64 * "c"]


def test_parts_of_a_file(folder: Path) -> None:
    rows = [
        {"path": "b.mp4", "start_seconds": 0, "end_seconds": 2.5},
        {"path": "b.mp4", "start_seconds": 2.5, "end_seconds": None},
    ]
    first, second = list_sources(write_table(folder, ".jsonl", rows))
    assert (first.id, first.start_seconds, first.end_seconds) == ("b@0-2.5", 0.0, 2.5)
    assert (second.id, second.start_seconds, second.end_seconds) == ("b@2.5-", 2.5, None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"file": "a.mp4"}, "line 2: no path; expected a column 'path', there are file"),
        ({"path": ""}, "line 2: no path"),
        ({"path": 3}, "line 2: no path"),
        ({"path": "a", "start_seconds": -1}, "line 2: start_seconds is -1; expected seconds"),
        ({"path": "a", "end_seconds": "x"}, "line 2: end_seconds is 'x'; expected seconds"),
        ({"path": "a", "start_seconds": 2, "end_seconds": 2}, "line 2: end_seconds 2 is not after"),
        ({"path": "a", "labels": 3.5}, "line 2: labels are 3.5; expected names"),
        ({"path": "a", "labels": [[1]]}, r"line 2: labels are \[\[1\]\]; expected names"),
        ({"path": "a", "id": [1]}, r"line 2: id is \[1\]; expected text"),
        ({"path": "a", "sha256": "e3b0"}, "line 2: sha256 is 'e3b0'; expected 64 hex digits"),
        ({"path": "a", "sha256": 64 * "g"}, "line 2: sha256 is 'gggg"),
        ({"path": "a", "sha256": 5}, "line 2: sha256 is 5; expected 64 hex digits"),
        ({"path": "ok.mp4"}, "2 rows have the id 'ok'; give each its own id"),
    ],
)
def test_a_row_that_cannot_be_used(folder: Path, row: dict[str, Any], message: str) -> None:
    table = write_table(folder, ".jsonl", [{"path": "ok.mp4"}, row])
    with pytest.raises(DataError, match=message) as caught:
        list_sources(table)
    assert str(caught.value).startswith(table)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", b"path,id\na.mp4\n", "line 2: id is empty; expected text"),
        ("t.csv", b'path\n"a', "can't be read as csv"),
        ("t.csv", b"path\n\xff\n", "neither UTF-8 nor another encoding"),
        ("t.csv", b"path\n", "the table has no rows"),
        ("t.jsonl", b"{", "line 1 is not JSON: Expecting"),
        ("t.jsonl", b"[1]", "line 1 is not an object"),
        ("t.parquet", b"PAR1", "can't be read as parquet"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        list_sources(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["", "nowhere", "nowhere/*.mp4"])
def test_media_that_are_not_there(tmp_path: Path, address: str) -> None:
    with pytest.raises(RaymcError, match="no media"):
        list_sources(f"{tmp_path}/{address}" if address else "")


def test_files_are_found_by_their_names_as_people_write_them(folder: Path) -> None:
    places = {
        "c.wav": "deep/er/c.wav",  # only its name
        "D.MP4": "deep/d.mp4",
        "c": "",  # a second path of c.wav
        "C:\\Users\\anna\\deep\\d.webm": "deep/d.webm",
        "other/a.mkv": "",  # in a folder that has another name
        "d": "",  # two files
        "a": "a.MKV",
        "b.mp4": "b.mp4",
        "e.mp4": "",
    }

    def located(paths: list[str], place: str, **settings: Any) -> tuple[dict[str, str], list[str]]:
        table = folder / place / "names.csv"
        rows = ["path,labels", *(f"{path},x" for path in paths)]
        table.write_text("\n".join(rows))
        config = ExtractConfig(source=str(table), split="train", **settings)
        listing = list_media(config)
        found = [os.path.relpath(one.path, table.parent) for one in listing.sources]
        lines = [line.strip() for line in listing.lines if line.startswith("  files:")]
        return dict(zip(paths, found)), lines

    alone = {path: file for path, file in places.items() if path != "c"}
    found, lines = located(list(alone), ".")
    assert found == {path: file or path for path, file in alone.items()}
    (line,) = lines
    assert line == f"files: 4 of 8 found by name below {folder}; 3 missing: other/a.mkv, d, e.mp4"
    found, lines = located(["c.wav", "c"], ".")
    assert (found, lines) == ({"c.wav": "c.wav", "c": "c"}, [])
    # in another folder, and whatever folder the table names
    found, (line,) = located(["x/C.wav", "x/e.mp4"], "deep", videos=f"{folder}/deep/er")
    assert found["x/C.wav"] == "er/c.wav"
    assert line == f"files: 1 of 2 found by name in {folder}/deep/er; 1 missing: x/e.mp4"
