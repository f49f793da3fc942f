"""Datasets of an HDF5 file to rows, read clip by clip: for features too large for memory.

Like `npz.py`, from one .h5 whose tokens are padded, end to end with offsets, or one HDF5
dataset per clip. Imports numpy; `hdf5_file.py` reads the file,
`hdf5_layouts.py` finds the tokens of a clip in it.

Axes: N clips, T tokens, S tokens of all clips, D dim.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from raymc.config import Hdf5Config
from raymc.data.shards import Modality
from raymc.data.storage import digest, open_address
from raymc.errors import ConfigError, DataError
from raymc.formats.arrays import (
    STORED_AS,
    FileArray,
    check_clips,
    check_length,
    check_rates,
    listed,
)
from raymc.formats.hdf5_file import Hdf5File, Node
from raymc.formats.recipe import DatasetRecipe

# The layouts in which an HDF5 file may hold the tokens of clips, checked, and read clip by clip.
# Imports numpy; `hdf5_file.py` reads the file.


ID = "{id}"  # in the path of a dataset that each clip has for itself
Reader = Callable[[int], Shaped[np.ndarray, "..."] | None]  # the tokens of a clip


def find_tokens(
    file: Hdf5File,
    path: str,
    *,
    offsets: str | None,
    labels: FileArray,
    ids: Sequence[str],
    notes: list[str],
) -> tuple[Node, Reader]:
    """Return a dataset with a modality's type and dim, and what reads a clip's tokens.

    Args:
        file: The file.
        path: [clips, tokens, dim]; with `offsets` [tokens of all clips, dim]; with {id} in it
            [tokens, dim] of each clip, None where there is none.
        offsets: The dataset [clips + 1] that says where a clip's tokens begin and end.
        labels: Has a row for each clip.
        ids: Of the clips.
        notes: Takes what a user may not expect.

    Raises:
        DataError: A dataset is missing, damaged, or of another shape.
    """
    if ID in path:
        return _per_clip(file, path, ids, notes)
    if offsets is not None:
        return _end_to_end(file, path, file.array(offsets), labels)
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
    paths = [path.replace(ID, clip) for clip in ids]
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
