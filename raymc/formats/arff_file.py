"""ARFF files and Mulan's XML files of labels, as numbers and names.

Imports numpy; liac-arff, which knows dense, sparse and quoted rows, when a file is read.

Axes: N rows, A attributes, K columns of numbers.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float32

from raymc.errors import DataError, ResourceError

_ATTRIBUTE = re.compile(
    r"""@attribute\s+('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s{'"][^\s{]*)\s*(\S.*)""", re.I
)
_FAULTS = (ValueError, IndexError, KeyError, TypeError, OverflowError)  # of damaged files
_SHOWN = 80  # characters of a file in a message


@dataclass(frozen=True)
class Table:
    """The rows of an ARFF file, as numbers.

    Attributes:
        file: Its path.
        attributes: Name and values of each; a numeric one has no values.
        columns: Attribute and name of each column of `values`. A nominal attribute whose values
            aren't all numbers has a column of 0 and 1 per value.
        values: NaN where a value is missing.
        lines: The line in the file of each row.
    """

    file: str
    attributes: list[tuple[str, tuple[str, ...]]]
    columns: list[tuple[str, str]]
    values: Float32[np.ndarray, "N K"]
    lines: list[int]


def read_arff(file: str) -> Table:
    """Read an ARFF file, dense or sparse, whole into memory.

    Raises:
        DataError: It can't be read, or a line (which is named) isn't what was expected.
        ResourceError: liac-arff isn't installed.
    """
    try:
        from arff import DENSE_GEN, ArffException, load
    except ImportError as error:
        raise ResourceError(
            f"{file} can't be read: liac-arff is missing; pip install 'raymc[formats]'."
        ) from error
    lines = _Lines(file)
    rows, row_lines = [], []
    try:
        document = load(iter(lines), return_type=DENSE_GEN)
        kinds = [kind for _, kind in document["attributes"]]
        nominal = [() if isinstance(kind, str) else tuple(kind) for kind in kinds]
        codes = [_codes(values) for values in nominal]
        for row in document["data"]:
            rows.append(_numbers(row, codes))
            row_lines.append(lines.number)
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror}); give an ARFF file.") from error
    except (ArffException, *_FAULTS) as error:
        where = f"{file}, line {max(lines.number, 1)}"
        raise DataError(f"{where}: {_reason(error)}; correct the line or leave it out.") from error
    if not rows:
        raise DataError(f"{file}: no rows; expected some below @data.")
    columns, values = _expand(list(lines.names), nominal, np.stack(rows))
    return Table(file, list(zip(lines.names, nominal)), columns, values, row_lines)


def read_labels(file: str) -> dict[str, str]:
    """Read the names of the labels, in the order of the XML, each with the one that holds it.

    Raises:
        DataError: It isn't XML, or a label has no name or that of another.
    """
    try:
        root = ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{file}: can't be read as XML ({error}); expected labels.") from error
    parents: dict[str, str] = {}
    waiting = [(element, "") for element in reversed(root)]
    while waiting:
        element, parent = waiting.pop()
        kind, name = element.tag.rpartition("}")[2], element.get("name", "")
        if kind != "label" or not name or name in parents:
            raise DataError(
                f'{file}: found <{kind} name="{name}">; expected <labels> of <label name="…">, '
                "each name once."
            )
        parents[name] = parent
        waiting += [(child, name) for child in reversed(element)]
    if not parents:
        raise DataError(f'{file}: no labels; expected <labels> of <label name="…">.')
    return parents


def is_one_hot(values: Sequence[str]) -> bool:
    """Tell whether an attribute of these nominal values has a column for each of them."""
    try:
        return not np.isfinite([float(value) for value in values]).all()
    except ValueError:
        return True


class _Lines:
    r"""A file as liac-arff reads it rightly; tells at any moment the line it is at.

    liac-arff keeps the backslash of 'Stellar\'s Jay', knows no tab after @attribute and cuts
    integers that aren't whole: names are read here, and it sees a0, a1, … of numbers.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.number = 0
        self.names: dict[str, None] = {}

    def __iter__(self) -> Iterator[str]:
        in_data = False
        with open(self.file, "rb") as stream:
            for raw in stream:
                self.number += 1
                text = raw.decode("utf-8-sig").strip()
                keyword = text[:10].lower()
                if not in_data and keyword == "@attribute":
                    text = f"@ATTRIBUTE a{len(self.names)} {self._kind(text)}"
                elif not in_data and keyword.startswith("@relation"):
                    text = "@RELATION r"
                in_data = in_data or keyword.startswith("@data")
                yield text

    def _kind(self, text: str) -> str:
        """Keep the name of an attribute, return its type."""
        found = _ATTRIBUTE.fullmatch(text)
        if not found:
            raise ValueError(f"found '{text[:_SHOWN]}'; expected @attribute NAME TYPE")
        name, kind = found.groups()
        if name[0] in "'\"":
            name = re.sub(r"\\(.)", r"\1", name[1:-1])
        if name in self.names:
            raise ValueError(f"attribute '{name}' for the second time; expected each name once")
        if kind.split()[0].lower() in ("string", "date", "relational"):
            raise ValueError(
                f"attribute '{name}' is of {kind[:_SHOWN]}; expected numbers or {{values}}: "
                "remove it, here and in the rows"
            )
        self.names[name] = None
        return "NUMERIC" if kind.lower() == "integer" else kind


def _codes(values: Sequence[str]) -> dict[str, float]:
    """What nominal values are until `_expand`: their number, or their place."""
    if is_one_hot(values):
        return {value: float(place) for place, value in enumerate(values)}
    return {value: float(value) for value in values}


def _numbers(row: list[Any], codes: list[dict[str, float]]) -> Float32[np.ndarray, " A"]:
    values = [
        np.nan if value is None else code[value] if code else value
        for value, code in zip(row, codes)
    ]
    with np.errstate(over="ignore"):
        numbers = np.array(values, np.float32)
    if np.isinf(numbers).any():
        raise ValueError("a number is infinite or too large for float32")
    return numbers


def _expand(
    names: list[str], nominal: list[tuple[str, ...]], values: Float32[np.ndarray, "N A"]
) -> tuple[list[tuple[str, str]], Float32[np.ndarray, "N K"]]:
    """Give nominal attributes whose values aren't all numbers a column per value."""
    columns: list[tuple[str, str]] = []
    blocks: list[np.ndarray] = []
    for k, (name, of_name) in enumerate(zip(names, nominal)):
        column = values[:, k, None]
        if is_one_hot(of_name):
            equal = (column == np.arange(len(of_name))).astype(np.float32)
            column = np.where(np.isnan(column), column, equal)
            columns += [(name, f"{name}={value}") for value in of_name]
        else:
            columns.append((name, name))
        blocks.append(column)
    return columns, np.hstack(blocks)


def _reason(error: Exception) -> str:
    """What is wrong, in short; liac-arff's own line is left out, as it counts none in rows."""
    text = re.sub(r",? (at|in) line %d\.?", "", str(getattr(error, "message", "") or error))
    first = text.splitlines()[0].rstrip(".") if text else type(error).__name__
    return first if len(first) <= _SHOWN else f"{first[:_SHOWN]}…"
