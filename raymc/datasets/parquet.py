"""Parquet files of others to rows: tokens in any layout that raymc reads, on to its own.

Raw bytes, tensors and lists become bytes that tell what they mean. Imports pyarrow;
`parquet_file.py` finds the files and reads them.
"""

from dataclasses import replace
from functools import partial

import pyarrow.parquet as pq

from raymc.datasets import DatasetRecipe
from raymc.datasets.lazy_rows import LazyRows
from raymc.datasets.parquet_columns import ParquetConfig, check_config
from raymc.datasets.parquet_file import ParquetFile, find_files, opened
from raymc.datasets.parquet_rows import Contents, RowReader
from raymc.errors import ConfigError, DataError
from raymc.labels import Vocabulary
from raymc.shards import Modality
from raymc.shards.scan import infer_modality
from raymc.shards.storage import digest


def parquet(config: ParquetConfig) -> DatasetRecipe:
    """The recipe of a dataset that stands in Parquet files of others.

    Ids, labels and splits are looked through at once; tokens are read when a row is asked for.
    The vocabulary is all labels, sorted by name.

    Raises:
        ConfigError: The settings don't fit each other, or don't tell what bytes mean.
        DataError: A file can't be read, lacks a column, or holds something unexpected in one.
    """
    check_config(config)
    places = config.split_files or {"": config.files}
    files = [file for split, address in places.items() for file in find_files(address, split)]
    contents = Contents(config)
    for file in files:
        contents.take(file)
    contents.check()
    with opened(files[0]) as first:
        modalities = tuple(_modality(config, name, first, files[0]) for name in config.columns)
    reader = RowReader(config, modalities, contents.groups)
    return DatasetRecipe(
        vocabulary=Vocabulary(tuple(sorted(contents.labels))),
        modalities=modalities,
        splits={
            split: LazyRows(len(rows), partial(reader.row, rows))
            for split, rows in contents.rows.items()
        },
        provenance={
            "files": [
                {"split": f.split, "file": f.name, "sha256": digest(f.filesystem, f.path)}
                for f in files
            ],
            "settings": {
                "columns": dict(config.columns),
                "id": config.id,
                "labels": config.labels,
                "label_separator": config.label_separator,
                "split": config.split,
                "keep": list(config.keep),
            },
            "notes": contents.notes(),
        },
        license=config.license,
    )


def _modality(
    config: ParquetConfig, name: str, source: pq.ParquetFile, file: ParquetFile
) -> Modality:
    """Find out what a column means: from the settings, its metadata, or its type."""
    column, where = config.columns[name], f"{file.path}: '{config.columns[name]}'"
    field = source.schema_arrow.field(column)
    dim, dtype = config.dims.get(name), config.dtypes.get(name)
    remedy = f"give dims.{name} and dtypes.{name} if it holds bytes, else choose another column"
    try:
        stated = Modality.from_field(field)
        told = Modality(name, dim, dtype) if dim and dtype else infer_modality(field, source)
    except DataError as error:
        raise DataError(f"{where}: {error}; or {remedy}.") from error
    found = stated or told
    if found is None:
        raise ConfigError(f"{where} is of {field.type}, which tells no dim and dtype; {remedy}.")
    if not stated and name not in config.rates_hz:
        raise ConfigError(f"rates_hz.{name} is missing; give the tokens a second of '{column}'.")
    return replace(
        found,
        name=name,
        dim=dim or found.dim,
        dtype=dtype or found.dtype,
        rate_hz=config.rates_hz.get(name, found.rate_hz),
        encoder=found.encoder or f"{file.name}: {column}",
    )
