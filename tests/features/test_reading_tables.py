"""Tables as people keep them: any spreadsheet gives the labels that a person sees, or one line."""

import io
from datetime import time
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from odf.opendocument import OpenDocumentSpreadsheet
from odf.table import CoveredTableCell, TableCell, TableRow
from odf.table import Table as Sheet
from odf.text import P

from raymc.config import ExtractConfig
from raymc.errors import RaymcError
from raymc.features.sources import Listing, list_media
from raymc.features.text_files import decode_text


def listed(folder: Path, name: str, data: str | bytes, **settings: Any) -> Listing:
    file = folder / name
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    return list_media(ExtractConfig(source=str(file), **settings))


def seen(listing: Listing) -> list[tuple[str, ...]]:
    """The labels of each row."""
    return [source.labels for source in listing.sources]


A, B = ("counting", "shapes"), ("shapes",)


@pytest.mark.parametrize(
    "data",
    [
        "path,labels\na.mp4,counting;shapes\nb.mp4,shapes\n",
        "path, labels, split\na.mp4, counting;shapes, train\nb.mp4, shapes, test\n",
        'path, labels\na.mp4, "counting, shapes"\nb.mp4, shapes\n',
        "path,label\na.mp4,counting|shapes\nb.mp4,shapes\n",
        "Filename,Labels\na.mp4,counting; shapes\nb.mp4,shapes\n",
        "path ,Label(s)\na.mp4,counting;shapes;\nb.mp4,shapes\n",
        "FILE,Tags (separated by ;)\na.mp4,counting;shapes\nb.mp4,shapes\n",
        'path,labels\na.mp4,"counting,shapes"\nb.mp4,shapes\n',
        'path,labels\na.mp4,"counting\nshapes"\nb.mp4,shapes\n',
        "path,labels\na.mp4,\"['counting', 'shapes']\"\nb.mp4,\"['shapes']\"\n",
        'path,labels\na.mp4,"[""counting"", ""shapes""]"\nb.mp4,"[""shapes""]"\n',
        "path,labels\na.mp4,\"['counting' 'shapes']\"\nb.mp4,['shapes']\n",
        "path,labels\na.mp4,\"{'counting', 'shapes'}\"\nb.mp4,{'shapes'}\n",
        'path,labels\na.mp4,"counting\tshapes"\nb.mp4,shapes\n',
        'path,labels\na.mp4,"• counting\n• \u200bshapes"\nb.mp4,•shapes\n',
        "path^labels\na.mp4^counting;shapes\nb.mp4^shapes\n",
        "Video name,labels,note\na.mp4,counting;shapes\nb.mp4,shapes,good\n",
        "path,labels,\na.mp4,counting;shapes,a note\nb.mp4,shapes,\n",
        "path,counting,shapes,\na.mp4,●,●,good\nb.mp4,,●,\n",
        "path,counting,shapes\na.mp4,да,да\nb.mp4,нет,да\n",
        "path,counting,shapes\na.mp4,+,+\nb.mp4,-,+\n",
        "path;labels\na.mp4;counting,shapes\nb.mp4;shapes\n",
        "path;labels\na.mp4;counting|shapes\nb.mp4;shapes\n",
        "\ufeffpath;labels\r\na.mp4;counting,shapes\r\nb.mp4;shapes\r\n",
        "path\tlabels\na.mp4\tcounting,shapes\nb.mp4\tshapes\n",
        "sep=;\npath;labels\na.mp4;counting, shapes\nb.mp4;shapes\n",
        "path|labels\na.mp4|counting;shapes\nb.mp4|shapes\n",
        "'path','labels'\n'a.mp4','counting;shapes'\n'b.mp4','shapes'\n",
        "Our lessons,\n,\npath,labels\na.mp4,counting;shapes\nb.mp4,shapes\n",
        ",path,labels\n0,a.mp4,counting;shapes\n1,b.mp4,shapes\n",
        "path,labels,,\na.mp4,counting;shapes,,\nb.mp4,shapes,,\n,,,\n",
        "path,counting,shapes\na.mp4,x,x\nb.mp4,,X\n",
        "path,counting,shapes\na.mp4,1,1\nb.mp4,0,1\n",
        "path,counting,shapes\na.mp4,yes,TRUE\nb.mp4,No,✓\n",
        "path,counting,shapes,note\na.mp4,✓,✔,first\nb.mp4,-,☑,\n",
        "path,labels\na.mp4,counting;NA;shapes\nb.mp4,shapes;nan\n",
        "path,first label,labels\na.mp4,counting,counting;shapes\nb.mp4,shapes,shapes\n",
        '[{"path": "a.mp4", "tags": ["counting", "shapes"]}, {"path": "b.mp4", "tags": "shapes"}]',
        '{"path": "a.mp4", "tags": "counting, shapes"}\n{"path": "b.mp4", "tags": ["shapes", ""]}',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_what_a_person_sees(tmp_path: Path, data: str, encoding: str) -> None:
    suffix = {"[": "json", "{": "jsonl"}.get(data[0], "csv")
    listing = listed(tmp_path, f"t.{suffix}", data.removeprefix("\ufeff").encode(encoding))
    assert [source.path for source in listing.sources] == [f"{tmp_path}/{x}.mp4" for x in "ab"]
    assert seen(listing) == [A, B]
    assert listing.lines[0].startswith(f"{tmp_path}/t.{suffix}: 2 rows; ")
    assert listing.lines[1].startswith("  2 labels: shapes 2, counting 1; 1 only once")


@pytest.mark.parametrize("word", ["", "NA", "n/a", "nan", "NaN", "None", "null", "-", "—"])
def test_words_for_nothing(tmp_path: Path, word: str) -> None:
    listing = listed(tmp_path, "t.csv", f"path,labels,split\na,{word},{word}\nb,x,test\n")
    assert seen(listing) == [(), ("x",)]
    assert [source.split for source in listing.sources] == ["train", "test"]
    assert "1 rows have no split; they are in train" in listing.lines[-1]


def test_splits_as_people_write_them(tmp_path: Path) -> None:
    names = ["Train", "training", "TRAIN ", "val", "validation", "Valid", "dev", "eval", "Test"]
    rows = "".join(f"{i}.mp4,x,{name}\n" for i, name in enumerate([*names, "fold-1"]))
    listing = listed(tmp_path, "t.csv", "path,label,Set\n" + rows)
    splits = [source.split for source in listing.sources]
    assert splits == [*["train"] * 3, *["val"] * 5, "test", "fold-1"]
    assert "splits: 3 train, 5 val, 1 test, 1 fold-1" in listing.lines[2]
    assert "splits named fold-1; training uses train, val and test" in listing.lines[3]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("83", 83), ("83.5", 83.5), ('"83,5"', 83.5), ("83 s", 83), ("1:23", 83)],
        *[("01:23", 83), ("0:01:23.5", 83.5), ('"00:01:23,500"', 83.5), ("90:00", 5400)],
    ],
)
def test_times(tmp_path: Path, text: str, seconds: float) -> None:
    for headings in ("start,end", "Begin,Stop", "start_seconds,end_seconds", "Onset (s),To"):
        listing = listed(tmp_path, "t.csv", f"path,{headings},label\na.mp4,{text},9000,x\n")
        (source,) = listing.sources
        assert (source.start_seconds, source.end_seconds) == (seconds, 9000)
        assert source.id == f"a@{seconds:g}-9000"


def test_units_and_durations(tmp_path: Path) -> None:
    table = "file,Begin Time - msec,End (min),tag\na.mp4,1500,2,x\n"
    (source,) = listed(tmp_path, "t.csv", table).sources
    assert (source.start_seconds, source.end_seconds) == (1.5, 120)
    (source,) = listed(tmp_path, "t.csv", "file,start,duration,tag\na.mp4,2,3,x\n").sources
    assert (source.start_seconds, source.end_seconds) == (2, 5)
    assert source.extra == {"duration": "3"}


def xlsx(sheets: dict[str, list[list[Any]]], formats: dict[str, str] | None = None) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
        for cell, shown in (formats or {}).items():
            sheet[cell].number_format = shown
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def test_a_workbook(tmp_path: Path) -> None:
    """Ids padded by a format, times that Excel took for hours, numbers as labels, two sheets."""
    rows = [
        ["ID", "Video file", "From", "To", "Codes", "grade"],
        [1, "a.mp4", time(1, 23), time(0, 2, 0), "counting, shapes", 2.5],
        [20, "b.mp4", 0, time(0, 0, 7, 500000), 3, True],
    ]
    formats = {"A2": "000", "A3": "000", "C2": "h:mm", "D2": "h:mm:ss", "D3": "h:mm:ss.0"}
    data = xlsx({"About": [["made by", "us"]], "Codes": rows}, formats)
    listing = listed(tmp_path, "t.xlsx", data)
    first, second = listing.sources
    assert (first.id, first.start_seconds, first.end_seconds) == ("001", 83, 120)
    assert (second.id, second.start_seconds, second.end_seconds) == ("020", 0, 7.5)
    assert seen(listing) == [A, ("3",)]
    assert [source.extra for source in listing.sources] == [{"grade": "2.5"}, {"grade": "TRUE"}]
    assert 'sheet "Codes" of "About", "Codes"' in listing.lines[0]
    with pytest.raises(RaymcError, match='no sheet \'codes\'; the sheets are "About", "Codes"'):
        listed(tmp_path, "t.xlsx", data, sheet="codes")


def test_merged_cells_and_a_title(tmp_path: Path) -> None:
    book = openpyxl.load_workbook(io.BytesIO(xlsx({"S": [["Lessons of May"], []]})))
    sheet = book.worksheets[0]
    for row in (["File", "Start", "End", "Code"], ["a.mp4", 0, 1, "x"], [None, 1, 2, "y"]):
        sheet.append(row)
    sheet.merge_cells(f"A{sheet.max_row - 1}:A{sheet.max_row}")
    stream = io.BytesIO()
    book.save(stream)
    listing = listed(tmp_path, "t.xlsx", stream.getvalue())
    assert [source.id for source in listing.sources] == ["a@0-1", "a@1-2"]
    assert "headings below 1 other line" in listing.lines[0]


def ods(lines: list[list[tuple[TableCell, str]]]) -> bytes:
    document, sheet = OpenDocumentSpreadsheet(), Sheet(name="S")
    for line in lines:
        row = TableRow()
        for cell, text in line:
            for paragraph in text.split("\n") if text else ():
                cell.addElement(P(text=paragraph))
            row.addElement(cell)
        sheet.addElement(row)
    document.spreadsheet.addElement(sheet)
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


@pytest.mark.parametrize("below", [TableCell, CoveredTableCell])
def test_an_open_document(tmp_path: Path, below: type[TableCell]) -> None:
    """A number shown as 007, a time shown as 01:23, a decimal comma, a cell over two rows."""
    first = [
        (TableCell(valuetype="float", value="7"), "007"),
        (TableCell(valuetype="string", numberrowsspanned=2, numbercolumnsspanned=1), "a.mp4"),
        (TableCell(valuetype="time", timevalue="PT01H23M00S"), "01:23"),
        (TableCell(valuetype="float", value="90.5"), "90,50"),
        (TableCell(valuetype="string"), "counting\nshapes"),
    ]
    second = [(TableCell(valuetype="string"), "x"), (below(), ""), (TableCell(), "2")]
    headings = [(TableCell(), name) for name in ("id", "Video", "Start", "End", "Codes")]
    data = ods([headings, first, second, [(TableCell(numbercolumnsrepeated=1000), "")]])
    if below is TableCell:
        with pytest.raises(RaymcError, match="row 3: no path"):
            listed(tmp_path, "t.ods", data)
        return
    listing = listed(tmp_path, "t.ods", data)
    assert [source.path for source in listing.sources] == [f"{tmp_path}/a.mp4"] * 2
    first_source, second_source = listing.sources
    assert (first_source.id, first_source.start_seconds, first_source.end_seconds) == (
        *("007", 83, 90.5),
    )
    assert (second_source.id, second_source.start_seconds) == ("x", 2)
    assert seen(listing) == [A, ()]


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (
            "Fielname,Codes\na,x\n",
            {},
            "there are Fielname, Codes: if one of them names the files, ",
        ),
        ("a.mp4,x\nb.mp4,y\n", {}, "there are a.mp4, x: if one of them"),
        ("path,note\na,some\n", {}, "no heading is that of the labels; there are path, note: add"),
        ("File,file,tag\na,b,x\n", {}, '"File" and "file" may both be the path; choose with'),
        ("path,tag\na,x\n", {"columns": {"label": "tag"}}, "--column label=…: no such role; there"),
        ("path,tag\na,x\n", {"columns": {"labels": "Code"}}, "no heading 'Code' for labels; there"),
        ("path,tag,visual\na,x,1\n", {}, "raymc uses the name of the column 'visual' itself"),
        ("path,tag,observed\na,x,1\n", {}, "raymc uses the name of the column 'observed' itself"),
        (
            "path,tag,set\na,x,my split\n",
            {},
            "line 2: set is 'my split'; expected train, val",
        ),
        ("path,tag,start\na,x,1:75\n", {}, "line 2: start is '1:75'; expected seconds, 0 or more"),
        ("path,tag,end\na,x,x\n", {}, "line 2: end is 'x'; expected seconds"),
        ("path,a,b\nv,x,x\nw,x,some\n", {"columns": {"labels": "a,b"}}, "line 3: b is 'some'; exp"),
        (
            "path,tag\na,x,y\n",
            {},
            "line 2 has 3 fields, but there are 2 headings; put fields with a",
        ),
        ("path;tag\na;x;y\n", {}, "put fields with a semicolon in quotes"),
        ('path,tag\na,"x\nb,y\n', {}, "can't be read as csv: line 2: unexpected end of data"),
        ("path,tag\na,x\n", {"encoding": "utf-9"}, "unknown encoding 'utf-9'"),
        (
            '{"path": "a", "tag": "x", "n": 18446744073709551617}',
            {},
            "line 1: 'n' has 18446744073",
        ),
        ('{"path": "a", "id": "\\ud800x", "tag": "x"}', {}, "line 1: 'id' has '\\ud800', half of"),
        (
            '{"path": "a", "tag": "x", "n": 1}\n{"path": "b", "n": "h"}',
            {},
            "n has 1 for a and 'h' for b;",
        ),
        ('{"path": "a", "tag": {"x": 1}}', {}, "line 1: tag are {'x': 1}; expected names"),
    ],
)
def test_one_line_says_what_is_wrong(
    tmp_path: Path, data: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(RaymcError) as raised:
        listed(tmp_path, "t.jsonl" if data[0] == "{" else "t.csv", data, **settings)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["t.xlsx", "t.ods", "t.parquet"])
@pytest.mark.parametrize(
    "data", [b"", b"PK\3\4 no zip", b"\xd0\xcf\x11\xe0 old", b"path,tag\na,x\n"]
)
def test_files_that_are_something_else(tmp_path: Path, name: str, data: bytes) -> None:
    known = r"can't be read as|no spreadsheet, or only a part|an old or a locked Excel file"
    with pytest.raises(RaymcError, match=known) as raised:
        listed(tmp_path, name, data)
    assert "\n" not in str(raised.value)


def test_headings_can_be_given(tmp_path: Path) -> None:
    table = "Was,Wo,Lehrer,path\ncounting;shapes,a.mp4,Ann,1\nshapes,b.mp4,Bob,2\n"
    columns = {"path": "wo", "labels": "Was", "group": "Lehrer"}
    with pytest.raises(RaymcError, match="raymc uses the name of the column 'path' itself"):
        listed(tmp_path, "t.csv", table, columns=columns)
    listing = listed(tmp_path, "t.csv", table.replace("path", "note"), columns=columns)
    assert seen(listing) == [A, B]
    assert 'path ← "Wo"; labels ← "Was", split at ";"; group ← "Lehrer"' in listing.lines[0]


@pytest.mark.parametrize(
    ("cells", "settings", "warning"),
    [
        (["Blue", "blue"], {}, '"Blue" and "blue" differ in case only; if they are one label'),
        (["number line", "number_line"], {}, "differ in signs only"),
        (["counting", "couting"], {}, '"counting" and "couting" differ in one letter'),
        (["unit_1", "unit_2"], {}, ""),
        (
            ["a/b", "a/b"],
            {},
            'label "a/b" holds "/"; if it is several labels, add --separator \'/\'',
        ),
        (["a/b", "c/d"], {}, ""),
        (["a/b", "a"], {}, 'label "a/b" holds "/"'),
        (["a/b", "a"], {"label_separator": "/"}, ""),
        (["x,y;z", "x"], {}, 'label "x,y" holds ","'),
        (["x and y", "x"], {}, 'label "x and y" holds " and "'),
        (["#x #y", "#x"], {}, 'label "#x #y" holds " #"'),
        (["x,y", "x"], {"label_separator": "none"}, 'label "x,y" holds ","'),
        (["[a b]", "c"], {}, 'label "[a b]" begins with a bracket or a quote; write labels as a;b'),
        (["", ""], {}, "no row has a label under labels; if the labels are elsewhere, add"),
    ],
)
def test_warnings(tmp_path: Path, cells: list[str], settings: dict[str, Any], warning: str) -> None:
    rows = "".join(f'{i}.mp4,"{cell}"\n' for i, cell in enumerate(cells))
    lines = listed(tmp_path, "t.csv", "path,labels\n" + rows, **settings).lines
    warnings = [line for line in lines if line.startswith("  warning: ")]
    assert len(warnings) == bool(warning)
    assert not warning or warning in warnings[0]


def test_columns_that_may_be_meant(tmp_path: Path) -> None:
    """Times under another heading, and texts that are no labels."""
    table = "file,start_frame,labels\na.mp4,25,Größe\nb.mp4,50,Gro\u0308ße\n"
    listing = listed(tmp_path, "t.csv", table)
    assert seen(listing) == [("Größe",)] * 2
    assert (
        'warning: whole videos are read, although there is "start_frame"; if it says where'
        in (listing.lines[-1])
    )
    for table, told in (
        ("file,label,train\na,x,1\nb,x,0\n", '"train" is not taken for the split; if it says it'),
        ("file,label,value\na,x,1\na,y,0\n", '"value" says no in 1 rows, whose labels are taken'),
    ):
        assert told in listed(tmp_path, "t.csv", table).lines[-1]
    rows = "".join(f"{i}.mp4,what they said in lesson {i:x}00{i}\n" for i in range(30))
    listing = listed(tmp_path, "t.csv", "file,label\n" + rows)
    assert "30 of 30 labels occur only once; if these are other texts, choose" in listing.lines[-1]
    numbers = '[{"path": "a", "label": 3}, {"path": "b", "label": [1, 2]}]'
    assert seen(listed(tmp_path, "t.json", numbers)) == [("3",), ("1", "2")]
    assert seen(listed(tmp_path, "t.csv", 'path,label\na,"[1, 2]"\nb,{3}\n')) == [
        ("1", "2"),
        ("3",),
    ]


def test_an_unlabelled_table_is_fine_when_it_is_said(tmp_path: Path) -> None:
    listing = listed(tmp_path, "t.csv", "path\na.mp4\nb.mp4\nc.mp4\n", unlabelled=True)
    assert {source.split for source in listing.sources} == {"train"}
    assert "no labels" in listing.lines[0]


TEXTS = {
    "Zählen;Größe": ("cp1252", "iso8859-15", "mac_roman"),
    "éléments français à côté": ("cp1252", "mac_roman"),
    "Źródła i ćwiczenia": ("cp1250",),
    "Привет": ("cp1251", "koi8-r", "cp866"),
    "Математика, їжа": ("cp1251",),
    "Καλημέρα σας": ("cp1253",),
    "şekiller ve sayılar": ("cp1254",),
    "שלום לכם": ("cp1255",),
    "الرياضيات": ("cp1256",),
    "数を数える": ("cp932", "euc_jp"),
    "いち、に、さん": ("cp932", "euc_jp"),
    "アルファベットの歌をうたいましょう": ("cp932", "euc_jp"),
    "先生と子どもたち": ("cp932", "euc_jp"),
    "Počítáme do deseti": ("cp1250", "iso8859-2"),
    "Fotbal a Źdźbło": ("cp1250",),
    "数学 计算": ("gb18030",),
    "숫자 세기": ("cp949",),
}


@pytest.mark.parametrize("text", TEXTS)
def test_encodings_are_recognised_or_refused(text: str) -> None:
    whole = f"path,labels\na.mp4,{text}\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", *TEXTS[text]):
        assert decode_text(whole.encode(encoding), "t.csv", expected="a table")[0] == whole
        assert decode_text(whole.encode(encoding), "t", encoding, expected="a table")[0] == whole
    with pytest.raises(RaymcError, match="not in the encoding ascii"):
        decode_text(whole.encode(), "t.csv", "ascii", expected="a table")


def test_a_guessed_encoding_is_shown_or_refused(tmp_path: Path) -> None:
    """Where few letters speak for an encoding, a person sees what they became."""
    data = "path,labels\nécole.mp4,été;Größe\n".encode("cp1252")
    (line, *_) = listed(tmp_path, "t.csv", data).lines
    assert 'read as Windows-1252 ("école.mp4", "été", "Größe")' in line
    for text, encoding in (("şekil", "cp1254"), ("Zählen", "mac_roman"), ("Dzień", "cp1250")):
        data = f"path,labels\na.mp4,{text}\n".encode(encoding)
        with pytest.raises(RaymcError, match=r"may be \S+ or \S+: save it as UTF-8, or name its"):
            listed(tmp_path, "t.csv", data)
        assert seen(listed(tmp_path, "t.csv", data, encoding=encoding)) == [(text,)]
    thai = "path,labels\na.mp4,การนับ\nb.mp4,รูปทรง\n"  # its vowels are marks above letters
    assert decode_text(thai.encode("cp874"), "t.csv", expected="a table")[0] == thai
    with pytest.raises(RaymcError, match=r"save it as UTF-8$"):
        decode_text("WEBVTT\n\nşekil".encode("cp1254"), "t.vtt", expected="WebVTT")


@pytest.mark.parametrize(
    ("table", "labels"),
    [
        ("file,label\na.mp4,counting\na.mp4,shapes\nb.mp4,shapes\n", [A, B]),
        ("file,start,label\na.mp4,0,x\na.mp4,0:00,y\na.mp4,1,x\n", [("x", "y"), ("x",)]),
        ("file,Tag 1,Tag 2\na.mp4,counting,shapes\nb.mp4,shapes,\n", [A, B]),
        ("file,label,label_2\na.mp4,counting,shapes\nb.mp4,,shapes\n", [A, B]),
        ("file,class1,class2\na.mp4,1,1\nb.mp4,0,1\n", [("class1", "class2"), ("class2",)]),
        ("Datei,counting,shapes\na,WAHR,WAHR\nb,FALSCH,WAHR\n", [A, B]),
    ],
)
def test_layouts_of_labels(tmp_path: Path, table: str, labels: list[tuple[str, ...]]) -> None:
    columns = {"path": "Datei"} if "Datei" in table else {}
    assert seen(listed(tmp_path, "t.csv", table, columns=columns)) == labels


def test_rows_of_one_clip(tmp_path: Path) -> None:
    table = "file,label,set,by\na.mp4,x,train,Ann\nb.mp4,x,val,Ann\na.mp4,y,{},Bob\n"
    listing = listed(tmp_path, "t.csv", table.format("train"))
    assert [(one.id, one.labels, one.split) for one in listing.sources] == [
        ("a", ("x", "y"), "train"),
        ("b", ("x",), "val"),
    ]
    assert "3 rows; rows of the same clip are joined to 2 clips" in listing.lines[0]
    with pytest.raises(RaymcError, match="line 2 and line 4 are the same clip in two splits"):
        listed(tmp_path, "t.csv", table.format("test"))
    with pytest.raises(RaymcError, match="2 rows have the id 'a'; give each its own id"):
        listed(tmp_path, "t.csv", "file,label,id\na,x,a\na,y,a\n")


def test_several_tables(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "codes.csv").write_text("Video,Code\na.mp4,x\nb.mp4,y;x\n")
    listing = list_media(ExtractConfig(source=f"{tmp_path}/*/codes.csv"))
    places = [f"{tmp_path}/{name}/{file}.mp4" for name in ("one", "two") for file in "ab"]
    assert [source.path for source in listing.sources] == places
    assert seen(listing) == [("x",), ("y", "x")] * 2
    assert '4 rows; 2 tables; path ← "Video"' in listing.lines[0]
    (tmp_path / "two" / "codes.csv").write_text("Video,Code\na.mp4,x\n,y\n")
    with pytest.raises(RaymcError, match=r"\*/codes.csv: two/codes.csv, line 3: no path"):
        list_media(ExtractConfig(source=f"{tmp_path}/*/codes.csv"))
    (tmp_path / "two" / "codes.csv").write_text("Video,Codes\na.mp4,x\n")
    with pytest.raises(RaymcError, match=r"two/codes\.csv has the headings Video, Codes, but one/"):
        list_media(ExtractConfig(source=f"{tmp_path}/*/codes.csv"))


def test_what_a_workbook_hides(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    draft, sheet = book.worksheets[0], book.create_sheet("Final")
    for page, label in ((draft, "old"), (sheet, "new")):
        for row in (["File", "Code"], ["a.mp4", label], ["b.mp4", "#REF!"]):
            page.append(row)
    draft.sheet_state = "hidden"
    sheet.row_dimensions[3].hidden = True
    stream = io.BytesIO()
    book.save(stream)
    listing = listed(tmp_path, "t.xlsx", stream.getvalue())
    assert seen(listing) == [("new",), ("#REF!",)]
    assert "hidden rows are read, too (1)" in listing.lines[0]
    assert any('label "#REF!" is an error of the spreadsheet' in line for line in listing.lines)
    sheet["B3"] = '=B2&"er"'  # a program that doesn't calculate leaves no result
    stream = io.BytesIO()
    book.save(stream)
    with pytest.raises(RaymcError, match="cell B3 is a formula without a result; open the file in"):
        listed(tmp_path, "t.xlsx", stream.getvalue())


def test_a_column_that_is_almost_a_label(tmp_path: Path) -> None:
    table = "file,counting,shapes\na,x,x\nb,,x\nc,x,maybe\n"
    listing = listed(tmp_path, "t.csv", table)
    assert seen(listing) == [("counting",), (), ("counting",)]
    assert '"shapes" is not taken for a label, because line 4 says "maybe"' in listing.lines[-1]


def test_rows_are_called_as_their_program_shows_them(tmp_path: Path) -> None:
    text = 'sep=;\nLessons of May\n\npath;tag;start\na.mp4;"x\ny";0\nb.mp4;x;1:75\n'
    with pytest.raises(RaymcError, match="line 7: start is '1:75'"):
        listed(tmp_path, "t.csv", text)
    rows: list[list[Any]] = [["Lessons"], [], ["File", "Code", "Start"], ["a", "x", 0], []]
    with pytest.raises(RaymcError, match="row 6: Start is 'later'"):
        listed(tmp_path, "t.xlsx", xlsx({"S": [*rows, ["b", "x", "later"]]}))
