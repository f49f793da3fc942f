"""Which columns of Parquet files mean what: the settings, and whether they and the files fit.

May import the shards, for the layouts of tokens.
"""

from collections.abc import Mapping
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field
from pydantic.dataclasses import dataclass

from raymc.datasets.parquet_file import ParquetFile
from raymc.errors import ConfigError, DataError
from raymc.shards.ragged import is_list
from raymc.shards.tokens import RESERVED_COLUMNS


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ParquetConfig:
    """Which files there are, and which of their columns mean what."""

    name: Literal["parquet"] = Field(default="parquet", description="The kind of dataset.")
    files: str = Field(
        default="",
        description="Files of all splits, which `split` tells apart: a file, folder, or pattern "
        "such as clips/*.parquet; a path, or an address such as s3://bucket/clips.",
    )
    split: str = Field(default="", description="Column of the split of each row, with `files`.")
    split_files: Mapping[str, str] = Field(
        default_factory=dict, description="Files of each split, instead of `files` and `split`."
    )
    columns: Mapping[str, str] = Field(
        min_length=1, description="Column of each modality, by its name."
    )
    id: str = Field(default="id", description="Column of ids, each used once.")
    labels: str = Field(
        default="labels", description="Column of label names: lists of them, or one string."
    )
    label_separator: str = Field(
        default="",
        description="What stands between the labels in a string; empty: it is one label.",
    )
    rates_hz: Mapping[str, float] = Field(
        default_factory=dict,
        description="Tokens a second of each modality; not needed where raymc wrote the column.",
    )
    dims: Mapping[str, int] = Field(
        default_factory=dict, description="Values a token of a modality; needed of raw bytes."
    )
    dtypes: Mapping[str, Literal["float16", "float32", "uint8"]] = Field(
        default_factory=dict, description="Type of the values; needed of raw bytes."
    )
    keep: tuple[str, ...] = Field(
        default=(), description="Further columns to keep: text, numbers, or true and false."
    )
    license: str = Field(default="", description="The licence of the data, kept with it.")


def check_config(config: ParquetConfig) -> None:
    """Check that the settings fit each other.

    Raises:
        ConfigError: They don't.
    """
    if bool(config.files) == bool(config.split_files):
        raise ConfigError("give either `files`, with the column `split`, or `split_files`.")
    if bool(config.files) != bool(config.split):
        raise ConfigError(
            "`split` names the column that tells the splits of `files` apart; give both, or the "
            "files of each split as `split_files`."
        )
    for key in ("rates_hz", "dims", "dtypes"):
        for name in getattr(config, key):
            if name not in config.columns:
                known = ", ".join(sorted(config.columns))
                raise ConfigError(f"{key}.{name} is of no modality; `columns` has {known}.")
    for name in config.keep:
        if name in (*RESERVED_COLUMNS, *config.columns):
            raise ConfigError(f"keep: the name '{name}' is taken by another column of raymc's.")


def check_columns(config: ParquetConfig, file: ParquetFile, schema: pa.Schema) -> None:
    """Check that a file has the columns of the settings, and that they hold what they should.

    Raises:
        DataError: One is missing, stands there twice, or is of another type.
    """
    kinds = {
        config.id: ("text or whole numbers", _is_text, pa.types.is_integer),
        config.labels: ("text or lists of it", _is_text, _is_texts, pa.types.is_null),
        **({config.split: ("text", _is_text)} if config.split else {}),
        **dict.fromkeys(config.keep, ("text, numbers, or true and false", _is_plain)),
    }
    for name in (*kinds, *config.columns.values()):
        found = schema.names.count(name)
        if found != 1:
            raise DataError(
                f"{file.path}: {found or 'no'} columns '{name}'; expected one, there are "
                f"{', '.join(schema.names)}."
            )
    for name, (expected, *tests) in kinds.items():
        kind = schema.field(name).type
        if not any(test(kind) for test in tests):
            raise DataError(f"{file.path}: '{name}' is of {kind}; expected {expected}.")


def _is_text(kind: pa.DataType) -> bool:
    held = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return pa.types.is_string(held) or pa.types.is_large_string(held)


def _is_texts(kind: Any) -> bool:
    return is_list(kind) and (_is_text(kind.value_type) or pa.types.is_null(kind.value_type))


def _is_plain(kind: pa.DataType) -> bool:
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return _is_text(kind) or number or pa.types.is_null(kind)
