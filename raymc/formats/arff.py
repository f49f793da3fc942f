"""Mulan's multi-label data sets to rows: ARFF files, and the XML that names their labels.

A row is one token per modality, its features in the order of the file. Imports numpy;
`arff_file.py` reads the files, `arff_rows.py` scales their rows.

Axes: N rows, K columns of numbers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64

from raymc.config import ArffConfig
from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Row
from raymc.data.storage import digest, open_address
from raymc.errors import ConfigError, DataError
from raymc.formats.arff_file import Table, is_one_hot, read_arff, read_labels
from raymc.formats.arrays import SPLITS
from raymc.formats.recipe import DatasetRecipe, LazyRows

# Tables of ARFF files checked, scaled, and made rows. Imports numpy; `arff_file.py` reads the
# tables, `arff.py` chooses columns and rows. Axes: N rows, K columns of numbers.


Columns = dict[str, list[int]]  # the columns of each modality


@dataclass(frozen=True)
class Scaling:
    """What is done to each column: missing values become the mean, then (x − mean) / std.

    Attributes:
        mean: Of the training rows.
        std: Of the training rows.
        standardise: Whether anything but missing values is changed.
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


@dataclass(frozen=True)
class TableRows:
    """The rows of a split.

    Attributes:
        table: Where they stand.
        chosen: Their numbers in it.
        labels: Column of each label.
        columns: Columns of each modality.
        scaling: What is done to their values.
    """

    table: Table
    chosen: Int64[np.ndarray, " rows"]
    labels: Mapping[str, int]
    columns: Columns
    scaling: Scaling

    def row(self, i: int) -> Row:
        """Row i of the split."""
        number = int(self.chosen[i])
        values = self.table.values[number]
        scaled = self.scaling.scale(values)
        return Row(
            id=f"{Path(self.table.file).stem}-{number:05d}",
            labels=tuple(name for name, column in self.labels.items() if values[column]),
            tokens={name: scaled[None, columns] for name, columns in self.columns.items()},
        )


def check_attributes(table: Table, train: Table) -> None:
    """Check that a table has the attributes of the training rows.

    Raises:
        DataError: It has others.
    """
    if table.attributes != train.attributes:
        pairs = zip(table.attributes, train.attributes)
        differing = next((ours[0] for theirs, ours in pairs if theirs != ours), "")
        what = f"'{differing}' differs or isn't there" if differing else "there are more or fewer"
        raise DataError(
            f"{table.file}: not the attributes of {train.file}: {what}; expected the same names "
            "and values in the same order."
        )


def check_labels(table: Table, labels: Mapping[str, int]) -> None:
    """Check that each label, whose column is given, is 0 or 1 in every row.

    Raises:
        DataError: One isn't.
    """
    values = table.values[:, list(labels.values())]
    for row, k in np.argwhere((values != 0) & (values != 1))[:1]:
        found = "missing" if np.isnan(values[row, k]) else f"{values[row, k]:g}"
        raise DataError(
            f"{table.file}, line {table.lines[row]}: label '{list(labels)[k]}' is {found}; "
            "expected 0 or 1."
        )


def missing_notes(table: Table, columns: Columns, *, allowed: bool) -> list[str]:
    """Say how many values are missing.

    Raises:
        DataError: Some are, and that is not `allowed`.
    """
    one_of_each = {table.columns[column][0]: column for own in columns.values() for column in own}
    missing = np.argwhere(np.isnan(table.values[:, list(one_of_each.values())]))
    if not len(missing):
        return []
    if not allowed:
        row, k = missing[0]
        raise DataError(
            f"{table.file}, line {table.lines[row]}: '{list(one_of_each)[k]}' is missing ('?'), as "
            f"are {len(missing)} values in all; set `missing` to mean to fill in the mean of the "
            "training rows."
        )
    name = Path(table.file).name
    return [f"{len(missing)} missing values of {name} became the mean of the training rows."]


def one_hot_notes(train: Table, columns: Columns) -> list[str]:
    """Say which attributes became many features."""
    chosen = {train.columns[column][0] for own in columns.values() for column in own}
    sizes = {
        name: len(values)
        for name, values in train.attributes
        if name in chosen and is_one_hot(values)
    }
    if not sizes:
        return []
    largest = max(sizes, key=lambda name: sizes[name])
    return [
        f"{len(sizes)} nominal attributes became {sum(sizes.values())} features of 0 and 1, one "
        f"for each value; '{largest}' has the most, {sizes[largest]}."
    ]


def choose_rows(
    tables: Mapping[str, Table], notes: list[str], *, val_share: float, seed: int
) -> dict[str, Int64[np.ndarray, " _"]]:
    """Return the rows of each split; `val_share` of train's are drawn for val, in their order.

    Raises:
        DataError: None would be left to train on.
    """
    chosen = {split: np.arange(len(table.lines)) for split, table in tables.items()}
    file = tables["train"].file
    rows = len(chosen["train"])
    drawn = np.random.default_rng(seed).permutation(rows)[: round(rows * val_share)]
    if len(drawn) == rows:
        raise DataError(
            f"{file}: a val_share of {val_share:g} of its {rows} rows leaves none "
            "to train on; lower it."
        )
    if len(drawn):
        chosen["val"] = np.sort(drawn)
        chosen["train"] = np.setdiff1d(chosen["train"], drawn)
        notes.append(
            f"val is {len(drawn)} of the {rows} rows of {Path(file).name}, drawn with seed {seed}."
        )
    return chosen


def arff(config: ArffConfig) -> DatasetRecipe:
    """The recipe of a dataset that stands in ARFF files; their numbers are held in memory.

    Nominal features whose values are numbers become these numbers, others one feature per value.

    Raises:
        ConfigError: `modalities` and `rest` don't fit the features, or two files share a name.
        DataError: A file is missing, isn't what was expected, or doesn't fit the others.
        ResourceError: liac-arff isn't installed.
    """
    files = _files(config)
    parents = read_labels(config.labels)
    tables = {split: read_arff(file) for split, file in files.items()}
    train = tables["train"]
    labels = _label_columns(config, train, parents)
    columns = _choose_columns(config, train, labels)
    notes = one_hot_notes(train, columns)
    for table in tables.values():
        check_attributes(table, train)
        check_labels(table, labels)
        notes += missing_notes(table, columns, allowed=config.missing == "mean")
    val_share = 0.0 if config.val else config.val_share
    chosen = choose_rows(tables, notes, val_share=val_share, seed=config.seed)
    scaling = Scaling.of(train.values[chosen["train"]], standardise=config.standardise)
    rows = {
        split: TableRows(tables.get(split, train), chosen[split], labels, columns, scaling)
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
        splits={split: LazyRows(len(part.chosen), part.row) for split, part in rows.items()},
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
                f"two of {', '.join(files)} are named '{stem}', which is what ids begin with; "
                "rename one, and give each file once."
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
        raise ConfigError(f"rest is '{config.rest}', as one of `modalities`; give it its own name.")
    patterns = {name: _pattern(name, text) for name, text in config.modalities.items()}
    features: dict[str, list[int]] = {name: [] for name in (*patterns, config.rest)}
    for column, (attribute, _) in enumerate(train.columns):
        if attribute not in labels:
            taken = (name for name, pattern in patterns.items() if pattern.fullmatch(attribute))
            features[next(taken, config.rest)].append(column)
    for name, pattern in patterns.items():
        if not features[name]:
            raise ConfigError(
                f"modalities.{name}: '{pattern.pattern}' matches the whole name of no feature "
                f"that is left in {train.file}; they are named as '{train.columns[0][0]}'."
            )
    if not any(features.values()):
        raise DataError(f"{train.file}: no numeric or nominal attribute but the labels.")
    return {name: columns for name, columns in features.items() if columns}


def _pattern(name: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigError(
            f"modalities.{name}: '{text}' is no regular expression ({error})."
        ) from error
