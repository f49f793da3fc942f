"""Any table file to its headings and rows: what people keep beside their videos.

CSV and TSV with any separator, quoting and encoding, spreadsheets (.xlsx, .ods), JSON Lines, a
JSON list and Parquet. Cells of spreadsheets become the text that a person sees there: 001 stays
001, and 1:23 is no time of day. `columns.py` says what the headings mean.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymc.errors import DataError, first_line
from raymc.features.text_files import decode_text

_TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
_SHEET_SUFFIXES = (".xlsx", ".xlsm", ".ods")
TABLE_SUFFIXES = (*_TEXT_SUFFIXES, *_SHEET_SUFFIXES, ".jsonl", ".ndjson", ".json", ".parquet")
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_MOST_ROWS_ABOVE = 20  # that may stand above the headings: a title, a date, empty ones
_PLAIN = (str, int, float, bytes, list, dict)
_LARGEST_INTEGER = 2**63 - 1
_OLD_EXCEL = b"\xd0\xcf\x11\xe0"  # .xls, and .xlsx with a password

Grid = list[list[str | None]]


@dataclass(frozen=True)
class Table:
    """The rows of a table by heading; empty cells are None.

    Attributes:
        where: Its address, for messages.
        names: The headings, in order.
        rows: By heading. Text where the file has no types.
        notes: What is worth saying about how it was read.
    """

    where: str
    names: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()


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
        rows = _parquet_rows(data) if suffix == ".parquet" else _json_rows(data, suffix, where)
        return _of_typed(list(rows), where)
    except (pa.ArrowException, csv.Error, OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: can't be read as {suffix[1:]}: {first_line(error)}; write it again"
        ) from error


# Text: the separator is the one under which a line of headings makes sense. csv.Sniffer, which
# knows no headings, would not find the line of headings below a title.


def _read_text(data: bytes, suffix: str, where: str, reading: Reading) -> Table:
    text, encoding = decode_text(data, where, reading.encoding, expected="a table")
    notes = [] if encoding == "UTF-8" else [f"read as {encoding}"]
    delimiters = ["\t", ",", ";", "|"] if suffix in (".tsv", ".tab") else [",", ";", "\t", "|"]
    if declared := re.match(r'"?sep=(.)"?\n', text):  # for Excel, which obeys this line
        delimiters, text = [declared[1]], text[declared.end() :]
    best: tuple[tuple[bool, int, int], str, Grid] | None = None
    problem: Exception | None = None
    for delimiter in delimiters:
        try:
            grid = _cells(text, delimiter)
        except csv.Error as error:
            problem = problem or error
            continue
        at = _headings_at(grid, reading)
        widths = Counter(map(len, grid))
        width, count = widths.most_common(1)[0] if widths else (0, 0)
        found = at is not None, len(grid[at]) if at is not None else width, count
        if best is None or found > best[0]:
            best = found, delimiter, grid
    if best is None or (problem and not best[0][0]):
        raise problem or csv.Error("it is empty")
    _, delimiter, grid = best
    if delimiter not in (",", "\t") or (delimiter == "\t" and suffix == ".csv"):
        notes.append(f"split at {_DELIMITERS.get(delimiter, repr(delimiter))}s")
    return _of_grid(grid, where, reading, notes, _DELIMITERS.get(delimiter, "separator"))


def _cells(text: str, delimiter: str) -> Grid:
    """Return the stripped cells of all lines that have any; empty ones are None."""
    try:
        lines = list(_csv_lines(text, delimiter))
    except csv.Error:
        if '\\"' not in text:
            raise
        lines = list(_csv_lines(text, delimiter, escapechar="\\", doublequote=False))
    return [[cell.strip() or None for cell in line] for line in lines if any(map(str.strip, line))]


def _csv_lines(text: str, delimiter: str, **given: Any) -> Iterator[list[str]]:
    quote = "'" if re.match(rf"'[^'\n]*'\s*({re.escape(delimiter)}|\n)", text) else '"'
    stream = io.StringIO(text, newline="")
    skip = delimiter != "\t"  # a space before a quote; of tabs it would skip empty cells
    yield from csv.reader(
        stream,
        delimiter=delimiter,
        quotechar=quote,
        skipinitialspace=skip,
        strict=True,
        **given,
    )


# Spreadsheets


def _read_sheets(data: bytes, suffix: str, where: str, reading: Reading) -> Table:
    if data.startswith(_OLD_EXCEL):
        raise DataError(
            f"{where}: an old or a locked Excel file; save it as .xlsx, without a password"
        )
    try:
        sheets = _ods_sheets(data) if suffix == ".ods" else _xlsx_sheets(data)
    except Exception as error:  # whatever a damaged file makes of a reader of zipped XML
        raise ValueError(first_line(error)) from error
    names = ", ".join(f'"{name}"' for name in sheets)
    if reading.sheet and reading.sheet not in sheets:
        raise DataError(f"{where}: no sheet {reading.sheet!r}; the sheets are {names}")
    full = {name: grid for name, grid in sheets.items() if grid}
    fitting = [name for name, grid in full.items() if _headings_at(grid, reading) is not None]
    chosen = reading.sheet or next(iter([*fitting, *full]), "")
    notes = [f'sheet "{chosen}" of {names}'] if len(full) > 1 else []
    return _of_grid(full.get(chosen, []), where, reading, notes, "separator")


def _xlsx_sheets(data: bytes) -> dict[str, Grid]:
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(data), data_only=True)
    sheets: dict[str, Grid] = {}
    for sheet in book.worksheets:
        cells = [[_shown(cell.value, cell.number_format) for cell in row] for row in sheet]
        for merged in sheet.merged_cells.ranges:  # one path beside several rows
            for row in range(merged.min_row, merged.max_row):
                at = merged.min_col - 1
                cells[row][at] = cells[merged.min_row - 1][at]
        sheets[sheet.title] = [row for row in cells if any(cell is not None for cell in row)]
    return sheets


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


def _ods_sheets(data: bytes) -> dict[str, Grid]:
    from odf.opendocument import load
    from odf.table import Table as Sheet
    from odf.table import TableRow

    sheets: dict[str, Grid] = {}
    document: Any = load(io.BytesIO(data))
    for sheet in document.spreadsheet.getElementsByType(Sheet):
        grid: Grid = []
        spans: dict[int, tuple[int, str | None]] = {}
        for row in sheet.getElementsByType(TableRow):
            cells = _ods_cells(row, spans)
            if any(cell is not None for cell in cells):
                grid += [
                    list(cells) for _ in range(int(row.getAttribute("numberrowsrepeated") or 1))
                ]
        width = max(map(len, grid), default=0)
        sheets[sheet.getAttribute("name")] = [row + [None] * (width - len(row)) for row in grid]
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
    is_number = cell.getAttribute("valuetype") == "float"
    if is_number and not re.fullmatch(r"0\d+", shown):  # shown with the signs of a language
        return f"{float(cell.getAttribute('value')):.15g}"
    return shown or None


# Rows


def _headings_at(grid: Grid, reading: Reading) -> int | None:
    """Return the row of the headings: the first that names the files, with less text above it."""
    filled = 0
    for at, row in enumerate(grid[:_MOST_ROWS_ABOVE]):
        cells = [cell for cell in row if cell]
        if len(cells) > filled and any(map(reading.names_files, cells)):
            return at
        filled = max(filled, len(cells))
    return None


def _of_grid(
    grid: Grid, where: str, reading: Reading, notes: Iterable[str], separator: str
) -> Table:
    at, notes = _headings_at(grid, reading), list(notes)
    if at:
        notes.append(f"headings below {at} other line{'s' if at > 1 else ''}")
    headings, body = (grid[at or 0], grid[(at or 0) + 1 :]) if grid else ([], [])
    names = [name for name in headings if name is not None]
    if len(set(names)) < len(names):
        raise DataError(f"{where}: a column occurs twice: {', '.join(names)}; rename one.")
    while headings and headings[-1] is None:
        headings = headings[:-1]
    rows = []
    for number, row in enumerate(body, 1):
        beyond = any(cell is not None for cell in row[len(headings) :])
        if len(row) < len(headings) or beyond:
            raise DataError(
                f"{where}: row {number} has {len(row)} fields, but the first line has "
                f"{len(headings)}; put fields with a {separator} in quotes."
            )
        rows.append({name: cell for name, cell in zip(headings, row) if name is not None})
    nameless = [i for i, name in enumerate(headings) if name is None]
    if any(row[i] is not None for row in body for i in nameless):
        notes.append("a column without a heading is left out")
    return Table(where, tuple(names), tuple(rows), tuple(notes))


def _json_rows(data: bytes, suffix: str, where: str) -> Iterator[Mapping[str, Any]]:
    text, _ = decode_text(data, where, expected="JSON")
    whole = json.loads(text) if suffix == ".json" else None
    if whole is not None and not isinstance(whole, list):
        raise DataError(f"{where}: not a list; expected a list of objects, one for each row.")
    lines = text.split("\n") if whole is None else whole
    for number, line in enumerate(lines, 1):
        row = line
        if whole is None:
            row = json.loads(line) if line.strip() else {}
        if not isinstance(row, dict):
            place = "line" if whole is None else "item"
            raise DataError(
                f"{where}: {place} {number} is not an object; expected one with a 'path'."
            )
        if row:
            yield row


def _parquet_rows(data: bytes) -> Iterator[Mapping[str, Any]]:
    for row in pq.read_table(pa.BufferReader(data), use_threads=False).to_pylist():
        yield {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, _PLAIN):
        return value
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _of_typed(rows: Sequence[Mapping[str, Any]], where: str) -> Table:
    for number, row in enumerate(rows, 1):
        for name, value in row.items():
            if reason := _unstorable(name) or _unstorable(value):
                raise DataError(f"{where}: row {number}: {name!a} has {reason}")
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(where, tuple(names), tuple(rows))


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
