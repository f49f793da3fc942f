"""Mulan's multi-label data sets to rows: ARFF files, and the XML that names their labels.

A row is one token per modality, its features in the order of the file. liac-arff parses dense,
sparse and quoted rows; `_Lines` works around what it reads wrongly.

Axes: N rows, A attributes, K columns of numbers.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float32, Float64, Int64

from raymc.config import ArffConfig
from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Row
from raymc.data.storage import digest, open_address
from raymc.errors import ConfigError, DataError, ResourceError
from raymc.formats.arrays import SPLITS
from raymc.formats.recipe import DatasetRecipe, LazyRows

_ATTRIBUTE = re.compile(
    r"""@attribute\s+('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s{'"][^\s{]*)\s*(\S.*)""", re.I
)
_FAULTS = (ValueError, IndexError, KeyError, TypeError, OverflowError)  # of damaged files
_SHOWN = 80  # characters of a file in a message
Columns = dict[str, list[int]]  # the columns of each modality


@dataclass(frozen=True)
class Table:
    """The rows of an ARFF file, as numbers.

    Attributes:
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


def arff(config: ArffConfig) -> DatasetRecipe:
    """Return the recipe of a dataset in ARFF files; their numbers are held in memory.

    A nominal feature whose values are numbers becomes these numbers, another one a feature of 0
    and 1 per value.

    Raises:
        ConfigError: `modalities` and `rest` don't fit the features, or two files share a name.
        DataError: A file is missing or invalid, or doesn't fit the others.
        ResourceError: liac-arff isn't installed.
    """
    files = _files(config)
    parents = _read_labels(config.labels)
    tables = {split: _read_arff(file) for split, file in files.items()}
    train = tables["train"]
    labels = _label_columns(config, train, parents)
    columns = _choose_columns(config, train, labels)
    notes = _one_hot_notes(train, columns)
    for table in tables.values():
        _check_attributes(table, train)
        _check_labels(table, labels)
        notes += _missing_notes(table, columns, allowed=config.missing == "mean")
    val_share = 0.0 if config.val else config.val_share
    chosen = _choose_rows(tables, notes, val_share=val_share, seed=config.seed)
    scaling = Scaling.of(train.values[chosen["train"]], standardise=config.standardise)
    rows = {
        split: partial(_row, tables.get(split, train), chosen[split], labels, columns, scaling)
        for split in SPLITS
        if split in chosen
    }
    return DatasetRecipe(
        vocabulary=Vocabulary(
            tuple(labels), parents={name: parent for name, parent in parents.items() if parent}
        ),
        modalities=tuple(
            Modality(name, len(own), "float32", encoder=f"{Path(config.train).name}: {name}")
            for name, own in columns.items()
        ),
        splits={split: LazyRows(len(chosen[split]), row) for split, row in rows.items()},
        provenance={
            "files": {
                Path(file).name: digest(*open_address(file))
                for file in (*files.values(), config.labels)
            },
            "settings": {
                "val_share": val_share,
                "seed": config.seed,
                "standardise": config.standardise,
                "missing": config.missing,
            },
            "features": {name: scaling.describe(train, own) for name, own in columns.items()},
            "notes": notes,
        },
        license=config.license,
    )


def _files(config: ArffConfig) -> dict[str, str]:
    given = {"train": config.train, "val": config.val, "test": config.test}
    files = {split: file for split, file in given.items() if file}
    stems = [Path(file).stem for file in files.values()]
    for stem in stems:
        if stems.count(stem) > 1:
            raise ConfigError(
                f"two of {', '.join(files)} are named '{stem}', but ids begin with that name; "
                "rename one, and give each file only once."
            )
    return files


def _label_columns(config: ArffConfig, train: Table, parents: Mapping[str, str]) -> dict[str, int]:
    at = {name: k for k, (attribute, name) in enumerate(train.columns) if name == attribute}
    for label in parents:
        if label not in at:
            raise DataError(
                f"{train.file}: no attribute '{label}' with values 0 and 1, which "
                f"{config.labels} names as a label; correct one of the two."
            )
    return {label: at[label] for label in parents}


def _choose_columns(config: ArffConfig, train: Table, labels: Mapping[str, int]) -> Columns:
    if config.rest in config.modalities:
        raise ConfigError(f"rest is '{config.rest}', a name in `modalities`; give it another name.")
    patterns = {name: _pattern(name, text) for name, text in config.modalities.items()}
    features: dict[str, list[int]] = {name: [] for name in (*patterns, config.rest)}
    for column, (attribute, _) in enumerate(train.columns):
        if attribute not in labels:
            taken = (name for name, pattern in patterns.items() if pattern.fullmatch(attribute))
            features[next(taken, config.rest)].append(column)
    for name, pattern in patterns.items():
        if not features[name]:
            raise ConfigError(
                f"modalities.{name}: '{pattern.pattern}' matches none of the remaining features "
                f"of {train.file} as a whole; they have names such as '{train.columns[0][0]}'."
            )
    if not any(features.values()):
        raise DataError(f"{train.file}: no numeric or nominal attributes except the labels.")
    return {name: columns for name, columns in features.items() if columns}


def _pattern(name: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigError(
            f"modalities.{name}: '{text}' is not a regular expression ({error})."
        ) from error


@dataclass(frozen=True)
class Scaling:
    """What is done to each column: missing values become the mean, then (x − mean) / std.

    Both are of the training rows. `standardise`: whether anything but missing values is changed.
    """

    mean: Float64[np.ndarray, " K"]
    std: Float64[np.ndarray, " K"]
    standardise: bool

    @classmethod
    def of(cls, values: Float32[np.ndarray, "N K"], *, standardise: bool) -> "Scaling":
        """Measure columns; a constant one has an std of 1, one without any value a mean of 0."""
        known = [column[~np.isnan(column)].astype(np.float64) for column in values.T]
        mean = np.array([column.mean() if len(column) else 0.0 for column in known])
        std = np.array([column.std() if len(column) else 0.0 for column in known])
        return cls(mean, np.where(std > 0, std, 1.0), standardise)

    def scale(self, values: Float32[np.ndarray, " K"]) -> Float32[np.ndarray, " K"]:
        """Fill in and scale a row."""
        filled = np.where(np.isnan(values), self.mean, values.astype(np.float64))
        scaled = (filled - self.mean) / self.std if self.standardise else filled
        return scaled.astype(np.float32)

    def describe(self, train: Table, columns: list[int]) -> dict[str, list[str] | list[float]]:
        """Return for dataset.json what the features are and how they were scaled."""
        return {
            "names": [train.columns[column][1] for column in columns],
            "mean": self.mean[columns].tolist(),
            "std": self.std[columns].tolist(),
        }


def _row(
    table: Table,
    chosen: Int64[np.ndarray, " rows"],
    labels: Mapping[str, int],
    columns: Columns,
    scaling: Scaling,
    i: int,
) -> Row:
    """Row i of a split, of which `chosen` are the rows of the table."""
    number = int(chosen[i])
    values = table.values[number]
    scaled = scaling.scale(values)
    return Row(
        id=f"{Path(table.file).stem}-{number:05d}",
        labels=tuple(name for name, column in labels.items() if values[column]),
        tokens={name: scaled[None, own] for name, own in columns.items()},
    )


def _check_attributes(table: Table, train: Table) -> None:
    if table.attributes != train.attributes:
        pairs = zip(table.attributes, train.attributes)
        differing = next((ours[0] for theirs, ours in pairs if theirs != ours), "")
        what = f"'{differing}' differs or isn't there" if differing else "there are more or fewer"
        raise DataError(
            f"{table.file}: not the attributes of {train.file}: {what}; expected the same names "
            "and values in the same order."
        )


def _check_labels(table: Table, labels: Mapping[str, int]) -> None:
    """Check that each label, whose column is given, is 0 or 1 in every row."""
    values = table.values[:, list(labels.values())]
    for row, k in np.argwhere((values != 0) & (values != 1))[:1]:
        found = "missing" if np.isnan(values[row, k]) else f"{values[row, k]:g}"
        raise DataError(
            f"{table.file}, line {table.lines[row]}: label '{list(labels)[k]}' is {found}; "
            "expected 0 or 1."
        )


def _missing_notes(table: Table, columns: Columns, *, allowed: bool) -> list[str]:
    one_of_each = {table.columns[column][0]: column for own in columns.values() for column in own}
    missing = np.argwhere(np.isnan(table.values[:, list(one_of_each.values())]))
    if not len(missing):
        return []
    if not allowed:
        row, k = missing[0]
        raise DataError(
            f"{table.file}, line {table.lines[row]}: '{list(one_of_each)[k]}' is missing ('?'), "
            f"one of {len(missing)} missing values; set `missing` to mean to replace them with the "
            "mean of the training rows."
        )
    name = Path(table.file).name
    return [f"{len(missing)} missing values of {name} became the mean of the training rows."]


def _one_hot_notes(train: Table, columns: Columns) -> list[str]:
    chosen = {train.columns[column][0] for own in columns.values() for column in own}
    sizes = {
        name: len(values)
        for name, values in train.attributes
        if name in chosen and _is_one_hot(values)
    }
    if not sizes:
        return []
    largest = max(sizes, key=lambda name: sizes[name])
    return [
        f"{len(sizes)} nominal attributes became {sum(sizes.values())} features of 0 and 1, one "
        f"for each value; '{largest}' has the most, {sizes[largest]}."
    ]


def _choose_rows(
    tables: Mapping[str, Table], notes: list[str], *, val_share: float, seed: int
) -> dict[str, Int64[np.ndarray, " _"]]:
    """Return the rows of each split; `val_share` of train's are drawn for val, in their order."""
    chosen = {split: np.arange(len(table.lines)) for split, table in tables.items()}
    file = tables["train"].file
    rows = len(chosen["train"])
    drawn = np.random.default_rng(seed).permutation(rows)[: round(rows * val_share)]
    if len(drawn) == rows:
        raise DataError(
            f"{file}: a val_share of {val_share:g} of its {rows} rows leaves no rows to train on; "
            "lower it."
        )
    if len(drawn):
        chosen["val"] = np.sort(drawn)
        chosen["train"] = np.setdiff1d(chosen["train"], drawn)
        notes.append(
            f"val is {len(drawn)} of the {rows} rows of {Path(file).name}, drawn with seed {seed}."
        )
    return chosen


def _read_arff(file: str) -> Table:
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


def _read_labels(file: str) -> dict[str, str]:
    """Read the names of the labels, in the order of the XML, each with the one that holds it."""
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


def _is_one_hot(values: Sequence[str]) -> bool:
    """Tell whether an attribute of these nominal values has a column for each of them."""
    try:
        return not np.isfinite([float(value) for value in values]).all()
    except ValueError:
        return True


class _Lines:
    r"""The lines of a file, changed so that liac-arff reads them correctly; counts them.

    liac-arff keeps the backslash of 'Stellar\'s Jay', refuses a tab after @attribute and
    truncates an INTEGER such as 1.5. So names are read here; it sees a0, a1, … of type NUMERIC.
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
        found = _ATTRIBUTE.fullmatch(text)
        if not found:
            raise ValueError(f"found '{text[:_SHOWN]}'; expected @attribute NAME TYPE")
        name, kind = found.groups()
        if name[0] in "'\"":
            name = re.sub(r"\\(.)", r"\1", name[1:-1])
        if name in self.names:
            raise ValueError(f"attribute '{name}' is repeated; expected each name once")
        if kind.split()[0].lower() in ("string", "date", "relational"):
            raise ValueError(
                f"attribute '{name}' has type {kind[:_SHOWN]}; expected numbers or {{values}}: "
                "write the file again without it"
            )
        self.names[name] = None
        return "NUMERIC" if kind.lower() == "integer" else kind


def _codes(values: Sequence[str]) -> dict[str, float]:
    """What nominal values are until `_expand`: their number, or their place."""
    if _is_one_hot(values):
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
        if _is_one_hot(of_name):
            equal = (column == np.arange(len(of_name))).astype(np.float32)
            column = np.where(np.isnan(column), column, equal)
            columns += [(name, f"{name}={value}") for value in of_name]
        else:
            columns.append((name, name))
        blocks.append(column)
    return columns, np.hstack(blocks)


def _reason(error: Exception) -> str:
    """The error in short, without liac-arff's line number, which is wrong among rows."""
    text = re.sub(r",? (at|in) line %d\.?", "", str(getattr(error, "message", "") or error))
    first = text.splitlines()[0].rstrip(".") if text else type(error).__name__
    return first if len(first) <= _SHOWN else f"{first[:_SHOWN]}…"
