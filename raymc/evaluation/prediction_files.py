"""Predictions as people open them: CSV, Excel, JSON lines, or one Parquet file.

All are made of the parts that `predict.py` writes. Their columns are `id`; `path`, `start` and
`end` of the clip, where they are known; `labels`; `error`, if something could not be read; and a
probability for each label, or its score if the bundle is not calibrated.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from raymc.errors import ConfigError, DataError
from raymc.terminal import one_line

SHEET_ROWS = 1_048_575  # of an Excel sheet, below its heading
_CLIP = {"id": "id", "path": "path", "start_seconds": "start", "end_seconds": "end"}
_SEPARATOR = ";"
Frames = Iterable[pd.DataFrame]
Writer = Callable[[Frames, Path], None]


def writer_to(out: Path) -> Writer | None:
    """Return what writes the kind of file that a name asks for; None for a folder of Parquet.

    Raises:
        ConfigError: Its suffix is not known.
        DataError: Something is there already.
    """
    if out.exists():
        raise DataError(f"{out} already exists: choose another --out")
    suffix = out.suffix.lower()
    if suffix and suffix not in _WRITERS:
        raise ConfigError(
            f"{out}: predictions are written as {', '.join(_WRITERS)}, or to a folder, whose name "
            "has no suffix"
        )
    return _WRITERS.get(suffix)


def frames_of(parts: Sequence[Path], *, top: int = 0) -> Iterator[pd.DataFrame]:
    """Yield the predictions of each part as a table for people.

    With `top`, the most probable labels of a row take the place of a column for each label.
    """
    for part in parts:
        table = pq.read_table(part)
        kind = "probability." if any(map(_is_probability, table.column_names)) else "score."
        names = [name.removeprefix(kind) for name in table.column_names if name.startswith(kind)]
        values = np.stack([table[kind + name].to_numpy() for name in names], axis=1)
        frame = table.select(
            [name for name in (*_CLIP, "labels", "error") if name in table.column_names]
        ).to_pandas()
        frame = frame.rename(columns=_CLIP)
        columns = (
            _best(values, names, top, kind) if top else dict(zip(_titles(kind, names), values.T))
        )
        yield pd.concat([frame, pd.DataFrame(columns, index=frame.index)], axis=1)


def _is_probability(name: str) -> bool:
    return name.startswith("probability.")


def _titles(kind: str, names: Sequence[str]) -> list[str]:
    return [kind + name for name in names]


def _best(values: np.ndarray, names: Sequence[str], top: int, kind: str) -> dict[str, Any]:
    """Return columns of the `top` highest labels of each row; empty where nothing was scored."""
    order = np.argsort(-values, axis=1, kind="stable")[:, :top]
    best = np.take_along_axis(values, order, axis=1)
    chosen = np.asarray(names, dtype=object)[order]
    chosen[np.isnan(best)] = None
    columns: dict[str, Any] = {}
    for place in range(order.shape[1]):
        columns[f"label {place + 1}"] = chosen[:, place]
        columns[f"{kind.removesuffix('.')} {place + 1}"] = best[:, place]
    return columns


def _write_csv(frames: Frames, out: Path) -> None:
    with out.open("w", encoding="utf-8", newline="") as file:
        for place, frame in enumerate(frames):
            _cells(frame).to_csv(file, index=False, header=place == 0, float_format="%.4f")


def _write_json(frames: Frames, out: Path) -> None:
    with out.open("w", encoding="utf-8") as file:
        for frame in frames:
            for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
                given = {key: _plain(value) for key, value in row.items()}
                file.write(json.dumps(given, ensure_ascii=False, allow_nan=False) + "\n")


def _write_parquet(frames: Frames, out: Path) -> None:
    writer: pq.ParquetWriter | None = None
    try:
        for frame in frames:
            table = pa.Table.from_pandas(
                frame, writer.schema if writer else None, preserve_index=False
            )
            writer = writer or pq.ParquetWriter(out, table.schema)
            writer.write_table(table)
    finally:
        if writer:
            writer.close()


def _write_excel(frames: Frames, out: Path) -> None:
    write_workbook({"predictions": map(_cells, frames)}, out)


def write_workbook(sheets: Mapping[str, Frames], out: Path) -> None:
    """Write the frames of each sheet below each other; texts are texts, whatever they look like.

    Raises:
        DataError: A sheet has more rows than Excel allows.
    """
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    for name, frames in sheets.items():
        _write_sheet(book.create_sheet(name), frames, out)
    book.save(out)


def _write_sheet(sheet: Any, frames: Frames, out: Path) -> None:
    from openpyxl.cell import WriteOnlyCell

    def cell(value: Any) -> Any:
        made = WriteOnlyCell(sheet, one_line(value) if isinstance(value, str) else value)
        if isinstance(value, str):
            made.data_type = "s"  # a text that begins with = is no formula
        elif isinstance(value, float):
            made.number_format = "0.0000"
        return made

    rows = 0
    for place, frame in enumerate(frames):
        if place == 0:
            sheet.append([cell(name) for name in frame.columns])
        rows += len(frame)
        if rows > SHEET_ROWS:
            raise DataError(
                f"{out}: an Excel sheet holds {SHEET_ROWS:,} rows: write .csv or .parquet"
            )
        for values in frame.astype(object).where(frame.notna(), None).itertuples(index=False):
            sheet.append([cell(_plain(value)) for value in values])


_WRITERS: dict[str, Writer] = {
    ".csv": _write_csv,
    ".xlsx": _write_excel,
    ".jsonl": _write_json,
    ".parquet": _write_parquet,
}


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose labels are one text, as `raymc extract` reads them."""
    return frame.assign(labels=[joined_labels(labels) for labels in frame["labels"]])


def joined_labels(labels: Any) -> str:
    """Return labels as one text that `raymc extract` reads back."""
    names = [] if labels is None else list(labels)
    if any(mark in name for name in names for mark in ";,|\n"):
        return json.dumps(names, ensure_ascii=False)
    return _SEPARATOR.join(names)


def _plain(value: Any) -> Any:
    """Return a value of NumPy as one of Python."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
