"""Mulan's multi-label data sets to rows: ARFF files, and the XML that names their labels.

A row is one token per modality, its features in the order of the file. Imports numpy;
`arff_file.py` reads the files, `arff_rows.py` scales their rows.

Axes: N rows, K columns of numbers.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from raymc.datasets import DatasetRecipe
from raymc.datasets.arff_file import Table, read_arff, read_labels
from raymc.datasets.arff_rows import (
    Columns,
    Scaling,
    TableRows,
    check_attributes,
    check_labels,
    choose_rows,
    missing_notes,
    one_hot_notes,
)
from raymc.datasets.arrays import SPLITS
from raymc.datasets.lazy_rows import LazyRows
from raymc.errors import ConfigError, DataError
from raymc.labels import Vocabulary
from raymc.shards import Modality
from raymc.shards.storage import digest, open_address


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ArffConfig:
    """Which files there are, and which features make which modality."""

    name: Literal["arff"] = Field(default="arff", description="The kind of dataset.")
    train: str = Field(min_length=1, description="Path of the ARFF file of training rows.")
    test: str = Field(default="", description="Path of that of test rows; empty: none.")
    val: str = Field(
        default="", description="Path of that of validation rows; empty: `val_share` of train."
    )
    labels: str = Field(min_length=1, description="Path of the XML file that names the labels.")
    modalities: Mapping[str, str] = Field(
        default_factory=dict,
        description="Features of each modality: a regular expression that matches their whole "
        "names. The first that matches takes a feature.",
    )
    rest: str = Field(
        default="features", min_length=1, description="Modality of the features that are left."
    )
    val_share: float = Field(
        default=0.2, ge=0, lt=1, description="Share of train held out where there is no `val`."
    )
    seed: int = Field(default=0, ge=0, description="Another seed holds other rows out.")
    standardise: bool = Field(
        default=True,
        description="Bring each feature to mean 0 and variance 1 of the training rows.",
    )
    missing: Literal["error", "mean"] = Field(
        default="error",
        description="What a feature that is '?' becomes: an error, or the training rows' mean.",
    )
    license: str = Field(default="", description="The licence of the data, kept with it.")


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
