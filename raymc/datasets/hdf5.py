"""Datasets of an HDF5 file to rows, read clip by clip: for features too large for memory.

Like `npz.py`, from one .h5 whose tokens are padded, end to end with offsets, or one HDF5
dataset per clip. Imports numpy; `hdf5_file.py` reads the file,
`hdf5_layouts.py` finds the tokens of a clip in it.

Axes: N clips, T tokens, S tokens of all clips, D dim.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from raymc.datasets import DatasetRecipe
from raymc.datasets.arrays import STORED_AS, check_clips, check_rates
from raymc.datasets.file_array import listed
from raymc.datasets.hdf5_file import Hdf5File, Node
from raymc.datasets.hdf5_layouts import ID, find_tokens
from raymc.errors import ConfigError, DataError
from raymc.shards import Modality
from raymc.shards.storage import digest, open_address


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Hdf5Config:
    """Which datasets of the file mean what; each is named by its path, e.g. `features/audio`."""

    name: Literal["hdf5"] = Field(default="hdf5", description="The kind of dataset.")
    file: str = Field(min_length=1, description="Path of the .h5 file.")
    modalities: Mapping[str, str] = Field(
        min_length=1,
        description="Dataset of each modality, by its name: [clips, tokens, dim]; [tokens of all "
        "clips, dim] with `offsets`; or, with {id} in its path, [tokens, dim] of each clip.",
    )
    rates_hz: Mapping[str, float] = Field(description="Tokens a second of each modality.")
    offsets: Mapping[str, str] = Field(
        default_factory=dict,
        description="Dataset [clips + 1] of a modality: clip i has the tokens offsets[i] to "
        "offsets[i + 1].",
    )
    labels: str = Field(default="y", description="Dataset [clips, classes] of 0 and 1.")
    classes: str = Field(default="classes", description="Dataset [classes] of label names.")
    split: str = Field(
        default="split",
        description="Dataset [clips] of 0, 1, 2 for train, val, test, or of these names.",
    )
    ids: str = Field(default="names", description="Dataset [clips] of ids, each used once.")
    group_separator: str = Field(
        default="",
        description="Labels are grouped by what stands before it in their names; empty: no groups.",
    )
    license: str = Field(default="", description="The licence of the data, kept with it.")


def hdf5(config: Hdf5Config) -> DatasetRecipe:
    """The recipe of a dataset that stands in one HDF5 file.

    Labels, ids and offsets are read at once; the tokens of a clip when its row is asked for, so
    the file stays open, and NaN among them is found when the row is written. float64 is stored
    as float32. With {id} in its path a modality may be missing in some clips.

    Raises:
        ConfigError: `rates_hz` or `offsets` don't fit `modalities`.
        DataError: The file or a dataset is missing, isn't what was expected, or doesn't fit
            the others.
        ResourceError: h5py isn't installed.
    """
    check_rates(config.rates_hz, config.modalities)
    _check_offsets(config)
    file = Hdf5File(config.file)
    labels = file.array(config.labels)
    clips = check_clips(
        labels=labels,
        classes=file.array(config.classes),
        ids=file.array(config.ids),
        split=file.array(config.split),
        group_separator=config.group_separator,
    )
    notes: list[str] = []
    found = {
        name: find_tokens(
            file,
            path,
            offsets=config.offsets.get(name),
            labels=labels,
            ids=clips.ids,
            notes=notes,
        )
        for name, path in config.modalities.items()
    }
    return DatasetRecipe(
        vocabulary=clips.vocabulary,
        modalities=tuple(_modality(config, name, node) for name, (node, _) in found.items()),
        splits=clips.rows(lambda clip: {name: read(clip) for name, (_, read) in found.items()}),
        provenance={
            "file": Path(config.file).name,
            "sha256": digest(*open_address(config.file)),
            "labels": config.labels,
            "offsets": dict(config.offsets),
            "notes": notes,
        },
        license=config.license,
    )


def _check_offsets(config: Hdf5Config) -> None:
    for name in config.offsets:
        path = config.modalities.get(name)
        if path is None:
            raise ConfigError(
                f"offsets.{name} is of no modality; `modalities` has {listed(config.modalities)}."
            )
        if ID in path:
            raise ConfigError(
                f"offsets.{name}: '{path}' is one dataset per clip, which needs no offsets; "
                "leave out one of the two."
            )


def _modality(config: Hdf5Config, name: str, node: Node) -> Modality:
    if node.shape[-1] == 0:
        raise DataError(f"{node.where} has shape {node.shape}; expected a dim of 1 or more.")
    if node.dtype.name not in STORED_AS:
        raise DataError(
            f"{node.where} holds {node.dtype}; expected float16, float32, float64 or uint8."
        )
    return Modality(
        name,
        dim=node.shape[-1],
        dtype=STORED_AS[node.dtype.name],
        rate_hz=config.rates_hz[name],
        encoder=f"{Path(config.file).name}: {config.modalities[name]}",
    )
