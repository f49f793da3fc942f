"""Datasets of an HDF5 file to rows, read clip by clip: for features too large for memory.

Like `npz.py`, from one .h5 whose tokens are padded, end to end with offsets, or one HDF5
dataset per clip. Imports numpy; `hdf5_file.py` reads the file.

Axes: N clips, T tokens, S tokens of all clips, D dim.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Shaped
from pydantic import Field
from pydantic.dataclasses import dataclass

from raymc.datasets import DatasetRecipe
from raymc.datasets.arrays import (
    STORED_AS,
    FileArray,
    check_clips,
    check_length,
    check_rates,
    digest,
    listed,
)
from raymc.datasets.hdf5_file import Hdf5File, Node
from raymc.errors import ConfigError, DataError
from raymc.shards import Modality

Reader = Callable[[int], Shaped[np.ndarray, "..."] | None]  # the tokens of a clip

_ID = "{id}"


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
        name: _tokens(config, file, name, labels, clips.ids, notes) for name in config.modalities
    }
    return DatasetRecipe(
        vocabulary=clips.vocabulary,
        modalities=tuple(_modality(config, name, node) for name, (node, _) in found.items()),
        splits=clips.rows(lambda clip: {name: read(clip) for name, (_, read) in found.items()}),
        provenance={
            "file": Path(config.file).name,
            "sha256": digest(config.file),
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
        if _ID in path:
            raise ConfigError(
                f"offsets.{name}: '{path}' is one dataset per clip, which needs no offsets; "
                "leave out one of the two."
            )


def _tokens(
    config: Hdf5Config,
    file: Hdf5File,
    name: str,
    labels: FileArray,
    ids: Sequence[str],
    notes: list[str],
) -> tuple[Node, Reader]:
    """Return an HDF5 dataset with a modality's type and dim, and what reads a clip's tokens."""
    path = config.modalities[name]
    if _ID in path:
        return _per_clip(file, path, ids, notes)
    if name in config.offsets:
        return _end_to_end(file, path, file.array(config.offsets[name]), labels)
    return _padded(file, path, labels)


def _padded(file: Hdf5File, path: str, labels: FileArray) -> tuple[Node, Reader]:
    node = file.node(path)
    if len(node.shape) != 3:
        raise DataError(
            f"{node.where} has shape {node.shape}; expected [clips, tokens, dim], or [tokens of "
            "all clips, dim] with `offsets`."
        )
    check_length(labels, path, node.shape[0])
    return node, lambda clip: file.read(path, clip)


def _end_to_end(
    file: Hdf5File, path: str, offsets: FileArray, labels: FileArray
) -> tuple[Node, Reader]:
    node = file.node(path)
    if len(node.shape) != 2:
        raise DataError(
            f"{node.where} has shape {node.shape}; expected [tokens of all clips, dim], as it "
            "has offsets."
        )
    starts = _starts(offsets, len(labels.values), node.shape[0])
    return node, lambda clip: file.read(path, slice(starts[clip], starts[clip + 1]))


def _starts(offsets: FileArray, clips: int, tokens: int) -> list[int]:
    values = offsets.values
    if values.dtype.kind not in "iu" or values.shape != (clips + 1,):
        raise DataError(
            f"{offsets.where} holds {values.dtype} of shape {values.shape}; expected "
            f"{clips + 1} whole numbers, one more than there are clips."
        )
    starts: list[int] = values.tolist()
    if starts[0] != 0 or starts[-1] != tokens or starts != sorted(starts):
        raise DataError(
            f"{offsets.where} goes from {starts[0]} to {starts[-1]}; expected numbers that rise "
            f"from 0 to {tokens}, the number of tokens."
        )
    return starts


def _per_clip(
    file: Hdf5File, path: str, ids: Sequence[str], notes: list[str]
) -> tuple[Node, Reader]:
    paths = [path.replace(_ID, clip) for clip in ids]
    present = [file.has(clip_path) for clip_path in paths]
    missing = [clip_path for clip_path, found in zip(paths, present) if not found]
    if len(missing) == len(paths):
        raise DataError(
            f"{file.path}: no dataset '{paths[0]}', nor that of any other id; the file has "
            f"{file.datasets()}."
        )
    if missing:
        notes.append(
            f"{path}: {len(missing)} of {len(paths)} clips have no such dataset, e.g. "
            f"'{missing[0]}'; the modality is missing there."
        )
    first = file.node(paths[present.index(True)])
    if len(first.shape) != 2:
        raise DataError(f"{first.where} has shape {first.shape}; expected [tokens, dim].")
    return first, lambda clip: file.read(paths[clip], ()) if present[clip] else None


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
