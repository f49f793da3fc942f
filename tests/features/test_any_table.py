"""Spreadsheets as people write them: read back, they give the same rows and labels, or one line."""

import csv
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odf.opendocument import OpenDocumentSpreadsheet
from odf.table import Table as Sheet
from odf.table import TableCell, TableRow
from odf.text import P

from raymc.config import ExtractConfig
from raymc.errors import RaymcError
from raymc.features.sources import list_media

WORDS = ["counting", "shapes", "Adding", "Größe", "Zählen", "écriture", "números", "Übung", "3D"]
WORDS += ["comparing numbers", "addition to 10", "à côté", "it's", '"quoted"', "math(easy)", "A"]
WORDS += ["unit-1", "who?", "50%", "k–2"]
HEADINGS = {
    "path": ["path", "Path ", "Filename", "FILE", "file name", "video", "Video file", "media_path"],
    "labels": ["labels", "Label", "label(s)", "Tags", "CODES", "category", "Labels (many)"],
    "split": ["split", "Set", "subset", "Partition"],
    "id": ["id", "ID", "clip_id"],
    "start": ["start_seconds", "start", "Start (s)", "Begin", "onset"],
    "end": ["end_seconds", "End", "Stop time", "to"],
}
SPLITS = {"train": ["train", "Train", "training"], "val": ["val", "validation", "dev", "Valid"]}
SPLITS |= {"test": ["test", "Test ", "testing"]}
NOTHING = ["", "", "NA", "None", "-", "nan"]
TIMES = ["{:g}", "0:{:04.1f}", "00:00:{:04.1f}", "{:g} s", "0:{:04.1f},"]  # the last: 0:01,5
Rows = list[dict[str, Any]]


@st.composite
def sheets(draw: st.DrawFn) -> tuple[list[list[Any]], Rows]:
    """A grid with its headings, and what a person sees in it."""
    count = draw(st.integers(1, 6))
    stems = st.text("abcdefgh 019_-", min_size=1, max_size=8).map(str.strip).filter(bool)
    stems = draw(st.lists(stems, min_size=count, max_size=count, unique_by=str.casefold))
    known = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=5, unique_by=str.casefold))
    rows: Rows = [
        {
            "path": f"{stem}.mp4",
            "labels": draw(st.lists(st.sampled_from(known), max_size=3, unique=True)),
        }
        for stem in stems
    ]
    rows[0]["labels"] = rows[0]["labels"] or known[:1]
    columns: dict[str, list[Any]] = {}
    layout = draw(st.sampled_from(["one a label", "numbered", "cells", "cells"]))
    columns[draw(st.sampled_from(HEADINGS["path"]))] = [row["path"] for row in rows]
    if layout == "one a label":
        yes = draw(st.sampled_from(["x", "X", "1", "yes", "TRUE", "✓", "☑", "ja", "oui", 1, True]))
        no = draw(st.sampled_from(["", "", "0", "no", "-", "nein", None]))
        for name in known:
            cells = [yes if name in row["labels"] else no for row in rows]
            if yes in cells:
                columns[name] = cells
    elif layout == "numbered":
        heading = draw(st.sampled_from(["Label {}", "tag{}", "Code_{}"]))
        for k in range(max(len(row["labels"]) for row in rows)):
            cells = [row["labels"][k] if k < len(row["labels"]) else "" for row in rows]
            columns[heading.format(k + 1)] = cells
    else:
        write = draw(st.sampled_from([";", "; ", "|", " | ", "\n", ", ", "\n• ", json.dumps, repr]))
        heading = draw(st.sampled_from(HEADINGS["labels"]))
        columns[heading] = [
            draw(st.sampled_from(NOTHING))
            if not row["labels"]
            else write.join(row["labels"])
            if isinstance(write, str)
            else write(row["labels"])
            for row in rows
        ]
    if draw(st.booleans()):
        for row in rows:
            row["split"] = draw(st.sampled_from(sorted(SPLITS)))
        columns[draw(st.sampled_from(HEADINGS["split"]))] = [
            draw(st.sampled_from(SPLITS[row["split"]])) for row in rows
        ]
    if draw(st.booleans()):
        for number, row in enumerate(rows):
            row["id"] = f"{number:03d}"
        columns[draw(st.sampled_from(HEADINGS["id"]))] = [row["id"] for row in rows]
    if draw(st.booleans()):
        write_time = draw(st.sampled_from(TIMES))
        for row in rows:
            row["start"] = draw(st.integers(0, 40)) / 2
            row["end"] = row["start"] + draw(st.integers(1, 39)) / 2
        for name in ("start", "end"):
            times = [write_time.format(row[name]) for row in rows]
            if write_time.endswith(","):
                times = [time[:-1].replace(".", ",") for time in times]
            columns[draw(st.sampled_from(HEADINGS[name]))] = times
    if draw(st.booleans()):
        columns["Comment"] = [draw(st.sampled_from(["", "good, but long", "A; B"])) for _ in rows]
    order = draw(st.permutations(list(columns)))
    grid = [order, *([columns[name][i] for name in order] for i in range(count))]
    if layout == "cells" and "id" not in rows[0] and draw(st.booleans()):  # a row a label
        place = order.index(heading)
        lines = [
            [*cells[:place], name, *cells[place + 1 :]]
            for row, cells in zip(rows, grid[1:])
            for name in row["labels"] or [""]
        ]
        grid = [order, *lines]
    if draw(st.booleans()):  # remarks beside the table, and lines left free
        grid = [
            [*line, "" if place == 0 else "see " * (place % 2)] for place, line in enumerate(grid)
        ]
        grid.insert(draw(st.integers(1, len(grid))), [""] * len(grid[0]))
    return grid, rows


@st.composite
def files(draw: st.DrawFn, grid: list[list[Any]]) -> tuple[str, bytes]:
    """A grid as a file: its suffix and its bytes."""
    kind = draw(st.sampled_from(["csv", "csv", "csv", "xlsx", "ods", "jsonl", "parquet"]))
    above: list[list[Any]] = draw(st.sampled_from([[], [], [["Our lessons"], []]]))
    if kind == "csv":
        return _csv(draw, [*above, *grid], grid[0])
    if kind == "xlsx":
        book = openpyxl.Workbook()
        for row in [*above, *grid]:
            book.worksheets[0].append(row)
        stream = io.BytesIO()
        book.save(stream)
        return ".xlsx", stream.getvalue()
    if kind == "ods":
        return ".ods", _ods([*above, *grid])
    rows = [{name: cell for name, cell in zip(grid[0], row) if name} for row in grid[1:]]
    rows = [row for row in rows if any(cell not in ("", None) for cell in row.values())]
    if kind == "jsonl":
        lines = (json.dumps(row, ensure_ascii=draw(st.booleans())) for row in rows)
        return ".jsonl", "\n".join(lines).encode()
    text = [{k: None if v is None else str(v) for k, v in row.items()} for row in rows]
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(text), stream)
    return ".parquet", stream.getvalue()


def _csv(draw: st.DrawFn, grid: list[list[Any]], order: list[Any]) -> tuple[str, bytes]:
    delimiter = draw(st.sampled_from([",", ";", "\t", "|", "^"]))
    stream = io.StringIO()
    writer = csv.writer(
        stream,
        delimiter=delimiter,
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        lineterminator=draw(st.sampled_from(["\n", "\r\n"])),
    )
    width = max(map(len, grid))
    cuts = draw(st.booleans())  # the last cells of a line, if they are empty
    for row in grid:
        cells = [*row, *[""] * (width - len(row))]
        while cuts and row is not order and len(cells) > 1 and cells[-1] in ("", None):
            cells.pop()
        writer.writerow(cells)
    text = stream.getvalue()
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]))
    if encoding == "cp1252" and {*"✓☑"} & {*text}:
        encoding = "utf-8"
    return draw(st.sampled_from([".csv", ".tsv", ".txt"])), text.encode(encoding)


def _ods(grid: list[list[Any]]) -> bytes:
    document, sheet = OpenDocumentSpreadsheet(), Sheet(name="S")
    for line in grid:
        row = TableRow()
        for value in line:
            cell = TableCell(valuetype="string")
            for paragraph in ("" if value is None else str(value)).split("\n"):
                cell.addElement(P(text=paragraph))
            row.addElement(cell)
        sheet.addElement(row)
    document.spreadsheet.addElement(sheet)
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_table_is_read_as_it_was_meant(data: st.DataObject) -> None:
    grid, rows = data.draw(sheets())
    suffix, content = data.draw(files(grid))
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"lessons{suffix}"
        file.write_bytes(content)
        refused, sources = "", []
        try:
            sources = list_media(ExtractConfig(source=str(file))).sources
        except RaymcError as error:
            refused = str(error)
    if refused:  # nothing but letters that two encodings could mean
        assert "name its encoding with --encoding" in refused
        assert "\n" not in refused
        return
    for source, row in zip(sources, rows, strict=True):
        assert Path(source.path) == Path(folder) / row["path"]
        assert set(source.labels) == set(row["labels"])
        assert row.get("id", source.id) == source.id
        assert row.get("split", source.split) == source.split
        assert row.get("start", 0.0) == source.start_seconds
        assert row.get("end") == source.end_seconds
