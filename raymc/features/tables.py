"""Any table file to its headings and rows: what people keep beside their videos.

CSV and TSV with any separator, quoting and encoding, spreadsheets (.xlsx, .ods), JSON Lines, a
JSON list and Parquet. Cells of spreadsheets become the text that a person sees there: 001 stays
001, and 1:23 is no time of day. `columns.py` says what the headings mean.
"""

import csv
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from raymc.errors import DataError, counted, first_line
from raymc.features.text_files import decode_text

_TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
_SHEET_SUFFIXES = (".xlsx", ".xlsm", ".ods")
TABLE_SUFFIXES = (*_TEXT_SUFFIXES, *_SHEET_SUFFIXES, ".jsonl", ".ndjson", ".json", ".parquet")
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_RARE_DELIMITERS = "^~:¦\x01\x1f"  # tried where the usual ones give no headings
_MOST_ROWS_ABOVE = 50  # that may stand above the headings: a title, a description of the study
_PLAIN = (str, int, float, bytes, list, dict)
_LARGEST_INTEGER = 2**63 - 1
_OLD_EXCEL = b"\xd0\xcf\x11\xe0"  # .xls, and .xlsx with a password

Cells = list[str | None]
Grid = list[tuple[int, Cells]]  # lines that aren't empty, with their numbers in the file


@dataclass(frozen=True)
class Table:
    """The rows of a table by heading; empty cells are None.

    Attributes:
        where: Its address, for messages.
        names: The headings, in order.
        rows: By heading. Text where the file has no types.
        places: What each row is called where a person looks for it, such as `line 3`.
        notes: What is worth saying about how it was read.
        program: The program for coding videos that wrote it, if one did.
    """

    where: str
    names: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    places: tuple[str, ...]
    notes: tuple[str, ...] = ()
    program: str = ""


@dataclass(frozen=True)
class Reading:
    """How a table is to be read.

    Attributes:
        names_files: Whether a heading is that of the paths; by it the line of headings, the
            separator and the sheet are found.
        encoding: Of a text file; empty: detected.
        sheet: Of a spreadsheet; empty: the first that has such a heading.
    """

    names_files: Callable[[str], bool]
    encoding: str = ""
    sheet: str = ""


def read_table(data: bytes, suffix: str, where: str, reading: Reading) -> Table:
    """Read the contents of a table file.

    Args:
        data: Its bytes.
        suffix: Its kind, one of `TABLE_SUFFIXES`.
        where: Its address, for messages.
        reading: How to read it.

    Raises:
        DataError: The file can't be read as that kind, or a row, heading or value can't be used.
    """
    try:
        if suffix in _TEXT_SUFFIXES:
            return _read_text(data, suffix, where, reading)
        if suffix in _SHEET_SUFFIXES:
            return _read_sheets(data, suffix, where, reading)
        if suffix == ".parquet":
            return _of_typed(_parquet_rows(data), where, "row")
        place = "item" if suffix == ".json" else "line"
        return _of_typed(_json_rows(data, suffix, where, place), where, place)
    except (pa.ArrowException, csv.Error, OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: can't be read as {suffix[1:]}: {first_line(error)}; save it again"
        ) from error


# Text: the separator is the one under which a line of headings makes sense. csv.Sniffer, which
# knows no headings, would not find the line of headings below a title.


def _read_text(data: bytes, suffix: str, where: str, reading: Reading) -> Table:
    text, encoding = decode_text(
        data, where, reading.encoding, expected="a table", option="--encoding"
    )
    notes = [] if encoding == "UTF-8" else [f"read as {encoding}{_told_words(text)}"]
    delimiters = "\t,;|" if suffix in (".tsv", ".tab") else ",;\t|"
    if declared := re.match(r'"?sep=(.)"?(?=\n)', text):  # for Excel, which obeys this line
        delimiters, text = declared[1], text[declared.end() :]
    best: tuple[tuple[bool, int, int], str, Grid] | None = None
    problem: Exception | None = None
    for delimiter in delimiters + _RARE_DELIMITERS:
        if delimiter in _RARE_DELIMITERS and best is not None and best[0][0]:
            break
        try:
            grid = _cells(text, delimiter)
        except csv.Error as error:
            problem = problem or error
            continue
        at = _headings_at(grid, reading)
        widths = Counter(len(cells) for _, cells in grid)
        width, count = widths.most_common(1)[0] if widths else (0, 0)
        found = at is not None, len(grid[at][1]) if at is not None else width, count
        if best is None or found > best[0]:
            best = found, delimiter, grid
    if best is None or (problem and not best[0][0]):
        raise problem or csv.Error("it is empty")
    _, delimiter, grid = best
    if delimiter not in (",", "\t") or (delimiter == "\t" and suffix == ".csv"):
        notes.append(f"split at {_DELIMITERS.get(delimiter, repr(delimiter))}s")
    return _of_grid(grid, where, reading, notes, delimiter)


def _told_words(text: str) -> str:
    """Show words by which a person sees whether the encoding is right."""
    words = dict.fromkeys(word for word in re.findall(r"[^\s,;|\"]+", text) if not word.isascii())
    shown = ", ".join(f'"{word[:20]}"' for word in [*words][:3])
    return f" ({shown})" if shown else ""


def _cells(text: str, delimiter: str) -> Grid:
    """Return the stripped cells of all lines that have any; empty ones are None."""
    try:
        return list(_csv_lines(text, delimiter))
    except csv.Error:
        if '\\"' not in text:
            raise
        return list(_csv_lines(text, delimiter, escapechar="\\", doublequote=False))


def _csv_lines(text: str, delimiter: str, **given: Any) -> Iterator[tuple[int, Cells]]:
    quote = "'" if re.match(rf"\s*'[^'\n]*'\s*({re.escape(delimiter)}|\n)", text) else '"'
    stream = io.StringIO(text, newline="")
    skip = delimiter != "\t"  # a space before a quote; of tabs it would skip empty cells
    reader = csv.reader(
        stream,
        delimiter=delimiter,
        quotechar=quote,
        skipinitialspace=skip,
        strict=True,
        **given,
    )
    begin = 1
    try:
        for line in reader:
            if any(map(str.strip, line)):
                yield begin, [cell.strip() or None for cell in line]
            begin = reader.line_num + 1  # a cell may hold several lines
    except csv.Error as error:
        raise csv.Error(f"line {begin}: {error}") from error


# Spreadsheets


def _read_sheets(data: bytes, suffix: str, where: str, reading: Reading) -> Table:
    if data.startswith(_OLD_EXCEL):
        raise DataError(
            f"{where}: an old or a locked Excel file; save it as .xlsx, without a password"
        )
    try:
        sheets = _ods_sheets(data) if suffix == ".ods" else _xlsx_sheets(data)
    except zipfile.BadZipFile as error:
        raise DataError(
            f"{where}: no spreadsheet, or only a part of one: open it in the program that made it, "
            "and save it again"
        ) from error
    except Exception as error:  # whatever a damaged file makes of a reader of zipped XML
        raise ValueError(first_line(error)) from error
    names = ", ".join(f'"{sheet.name}"' for sheet in sheets)
    if reading.sheet and reading.sheet not in [sheet.name for sheet in sheets]:
        raise DataError(f"{where}: no sheet {reading.sheet!r}; the sheets are {names}")
    full = [sheet for sheet in sheets if sheet.grid]
    wanted = [sheet for sheet in full if sheet.name == (reading.sheet or sheet.name)]
    wanted.sort(key=lambda sheet: (_headings_at(sheet.grid, reading) is None, sheet.is_hidden))
    chosen = wanted[0] if wanted else _Sheet("", [], 0, False)
    notes = [f'sheet "{chosen.name}" of {names}'] if len(full) > 1 else []
    if chosen.hidden_rows:
        notes.append(f"hidden rows are read, too ({chosen.hidden_rows})")
    return _of_grid(chosen.grid, where, reading, notes)


class _Sheet(NamedTuple):
    name: str
    grid: Grid
    hidden_rows: int
    is_hidden: bool


# A cell of .xlsx with a formula, but no result: a program wrote it that doesn't calculate.
_NO_RESULT = re.compile(
    rb'<(?:\w+:)?c\b(?![^>]*\bt="str")[^>]*?\br="(\w+)"[^>]*>\s*<(?:\w+:)?f\b[^>]*?'
    rb"(?:/>|>[^<]*</(?:\w+:)?f>)\s*(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v></(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
)


def _xlsx_sheets(data: bytes) -> list[_Sheet]:
    import openpyxl

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            if name.startswith("xl/worksheets/") and (
                cell := _NO_RESULT.search(archive.read(name))
            ):
                raise ValueError(
                    f"cell {cell[1].decode()} is a formula without a result; open the file in a "
                    "spreadsheet program and save it there"
                )
    book = openpyxl.load_workbook(io.BytesIO(data), data_only=True)
    sheets = []
    for sheet in book.worksheets:
        cells = [[_shown(cell.value, cell.number_format) for cell in row] for row in sheet]
        for merged in sheet.merged_cells.ranges:  # one path beside several rows
            for row in range(merged.min_row, merged.max_row):
                at = merged.min_col - 1
                cells[row][at] = cells[merged.min_row - 1][at]
        grid = [(number, row) for number, row in enumerate(cells, 1) if _is_filled(row)]
        hidden = sum(sheet.row_dimensions[number].hidden for number, _ in grid)
        sheets.append(_Sheet(sheet.title, grid, hidden, sheet.sheet_state != "visible"))
    return sheets


def _is_filled(row: Cells) -> bool:
    return any(cell is not None for cell in row)


def _shown(value: Any, number_format: str) -> str | None:
    """Return the text that a person sees in a cell of Excel, as far as it matters here."""
    if value is None or isinstance(value, str):
        return (value or "").strip() or None
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        padded = re.fullmatch(r"0{2,}", number_format)
        number = f"{value:.15g}" if isinstance(value, float) else str(value)
        return number.zfill(len(number_format)) if padded else number
    if isinstance(value, time | timedelta) or re.fullmatch(r"\[?h+\]?:mm(:ss.*)?", number_format):
        return _clock(value, "s" in number_format.lower())
    if isinstance(value, datetime) and value.time() == time():
        value = value.date()
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _clock(value: time | timedelta | datetime, with_seconds: bool) -> str:
    """Return a time as it is shown: 1:23 for what Excel took for 1 hour 23."""
    if isinstance(value, datetime):
        value = value - datetime(1899, 12, 31)
    elif isinstance(value, time):
        value = datetime.combine(date.min, value) - datetime.min
    seconds = value.total_seconds()
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    if not with_seconds and not rest:
        return f"{hours}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{rest:06.3f}".removesuffix(".000")


def _ods_sheets(data: bytes) -> list[_Sheet]:
    from odf.opendocument import load
    from odf.table import Table as Sheet
    from odf.table import TableRow

    sheets = []
    document: Any = load(io.BytesIO(data))
    for sheet in document.spreadsheet.getElementsByType(Sheet):
        grid: Grid = []
        spans: dict[int, tuple[int, str | None]] = {}
        number, hidden = 1, 0
        for row in sheet.getElementsByType(TableRow):
            cells, repeated = (
                _ods_cells(row, spans),
                int(row.getAttribute("numberrowsrepeated") or 1),
            )
            if _is_filled(cells):
                grid += [(number + i, list(cells)) for i in range(repeated)]
                hidden += repeated * (row.getAttribute("visibility") in ("collapse", "filter"))
            number += repeated
        width = max((len(cells) for _, cells in grid), default=0)
        full = [(number, cells + [None] * (width - len(cells))) for number, cells in grid]
        sheets.append(_Sheet(sheet.getAttribute("name"), full, hidden, False))
    return sheets


def _ods_cells(row: Any, spans: dict[int, tuple[int, str | None]]) -> list[str | None]:
    """Return a row's cells; `spans` are the cells above that reach into it, by column."""
    cells: list[str | None] = []
    for cell in row.childNodes:
        kind = cell.qname[1] if hasattr(cell, "qname") else ""
        if kind not in ("table-cell", "covered-table-cell"):
            continue
        text, at = _ods_text(cell), len(cells)
        if at in spans:
            left, above = spans.pop(at)
            text = above if kind == "covered-table-cell" else text
            if left > 1:
                spans[at] = left - 1, above
        if kind == "table-cell" and (tall := int(cell.getAttribute("numberrowsspanned") or 1)) > 1:
            spans[at] = tall - 1, text
        cells += [text] * int(cell.getAttribute("numbercolumnsrepeated") or 1)
    while cells and cells[-1] is None:
        cells.pop()
    return cells


def _ods_text(cell: Any) -> str | None:
    from odf.teletype import extractText

    lines = [node for node in cell.childNodes if getattr(node, "qname", ("", ""))[1] == "p"]
    shown = "\n".join(map(extractText, lines)).strip()
    kind = cell.getAttribute("valuetype")
    if kind == "boolean":  # shown in a language
        return str(cell.getAttribute("booleanvalue")).upper()
    if kind == "float" and not re.fullmatch(r"0\d+", shown):  # shown with the signs of a language
        return f"{float(cell.getAttribute('value')):.15g}"
    return shown or None


# Rows


def _headings_at(grid: Grid, reading: Reading) -> int | None:
    """Return the place of the headings: the first line that names the files, with less above it."""
    filled = 0
    for at, (_, row) in enumerate(grid[:_MOST_ROWS_ABOVE]):
        cells = [cell for cell in row if cell]
        if len(cells) > filled and any(map(reading.names_files, cells)):
            return at
        filled = max(filled, len(cells))
    return None


def _of_grid(
    grid: Grid, where: str, reading: Reading, notes: Iterable[str], separator: str = ""
) -> Table:
    """Return the lines of a grid by its headings; `separator` is that of a text file."""
    at, notes, place = _headings_at(grid, reading), list(notes), "line" if separator else "row"
    if at:
        notes.append(f"headings below {counted(at, 'other line')}")
    headings, body = (grid[at or 0][1], grid[(at or 0) + 1 :]) if grid else ([], [])
    names = [name for name in headings if name is not None]
    if len(set(names)) < len(names):
        raise DataError(f"{where}: a column occurs twice: {', '.join(names)}; rename one.")
    rows = []
    for number, row in body:
        row = [*row, *[None] * (len(headings) - len(row))]  # empty ones at the end may be left out
        if any(cell is not None for cell in row[len(headings) :]):
            told = _DELIMITERS.get(separator, "separator")
            raise DataError(
                f"{where}: {place} {number} has {len(row)} fields, but there are {len(headings)} "
                "headings; "
                + (f"put fields with a {told} in quotes." if separator else "name all columns.")
            )
        rows.append({name: cell for name, cell in zip(headings, row) if name is not None})
    nameless = [i for i, name in enumerate(headings) if name is None]
    if any(row[i] is not None for _, row in body for i in nameless if i < len(row)):
        notes.append("a column without a heading is left out")
    places = tuple(f"{place} {number}" for number, _ in body)
    return Table(where, tuple(names), tuple(rows), places, tuple(notes))


def _json_rows(
    data: bytes, suffix: str, where: str, place: str
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    text, _ = decode_text(data, where, expected="JSON")
    whole = json.loads(text) if suffix == ".json" else None
    if whole is not None and not isinstance(whole, list):
        raise DataError(f"{where}: not a list; expected a list of objects, one for each row.")
    for number, line in enumerate(text.split("\n") if whole is None else whole, 1):
        row = line
        if whole is None:
            try:
                row = json.loads(line) if line.strip() else {}
            except json.JSONDecodeError as error:
                raise DataError(f"{where}: line {number} is not JSON: {error}; mend it") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{where}: {place} {number} is not an object; expected one with a 'path'."
            )
        if row:
            yield number, row


def _parquet_rows(data: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    rows = pq.read_table(pa.BufferReader(data), use_threads=False).to_pylist()
    for number, row in enumerate(rows, 1):
        yield number, {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, _PLAIN):
        return value
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _of_typed(numbered: Iterable[tuple[int, Mapping[str, Any]]], where: str, place: str) -> Table:
    rows, places = [], []
    for number, row in numbered:
        for name, value in row.items():
            if reason := _unstorable(name) or _unstorable(value):
                raise DataError(f"{where}: {place} {number}: {name!a} has {reason}")
        rows.append(row)
        places.append(f"{place} {number}")
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(where, tuple(names), tuple(rows), tuple(places))


def _unstorable(value: Any) -> str | None:
    """Say what in a JSON value no column of a dataset can hold; None if there is nothing."""
    if isinstance(value, str):
        lone = next((letter for letter in value if "\ud800" <= letter <= "\udfff"), None)
        return lone and f"{lone!a}, half of a character; write the whole character"
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        return f"{str(value)[:30]}, which is beyond 64 bits; write it in quotes"
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        return next(filter(None, map(_unstorable, value)), None)
    return None
