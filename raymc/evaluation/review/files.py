"""A review as a table: CSV with all findings one below the other, or Excel with a sheet each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raymc.data.storage import whole_file
from raymc.errors import ConfigError, DataError
from raymc.evaluation.prediction_files import joined_labels, write_workbook
from raymc.evaluation.review.review import Review

SUFFIXES = (".csv", ".xlsx")
_DIGITS = 4


def frames_of(review: Review) -> dict[str, pd.DataFrame]:
    """Return the findings by their kind."""
    return {
        "label": review.label_frame(),
        "duplicate": review.duplicate_frame(),
        "next": review.next_frame(),
        "class": review.class_frame(),
    }


def save_review(review: Review, out: Path) -> None:
    """Write a review; the suffix says how. The file appears whole or not at all.

    Raises:
        ConfigError: The suffix is not known.
        DataError: The file can't be written.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{out}: a review is written as .html, {' or '.join(SUFFIXES)}")
    frames = {kind: frame.map(_plain) for kind, frame in frames_of(review).items()}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as partial:
            if out.suffix.lower() == ".csv":
                _write_csv(frames, partial)
            else:
                write_workbook({kind: [frame] for kind, frame in frames.items()}, partial)
    except OSError as error:
        raise DataError(f"{out} can't be written: {error.strerror or error}") from error


def _write_csv(frames: Mapping[str, pd.DataFrame], out: Path) -> None:
    some = [frame.assign(finding=kind) for kind, frame in frames.items() if len(frame)]
    empty = pd.DataFrame(columns=["id", "split", "label"])
    table = pd.concat([frame.astype(object) for frame in some]) if some else empty
    first = ["finding", *(name for name in table.columns if name != "finding")]
    table.reindex(columns=first).to_csv(out, index=False, encoding="utf-8-sig")


def _plain(value: Any) -> Any:
    """Return a cell: labels as one text, numbers rounded, nothing for what is unknown."""
    if isinstance(value, list):
        return joined_labels(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return None if value != value else round(value, _DIGITS)
    return value
