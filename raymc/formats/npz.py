"""Arrays of a NumPy archive to rows: the quickest way in for features computed elsewhere.

One .npz with an array [clips, tokens, dim] per modality, a multi-hot [clips, C], the class
names, the ids and the split of each clip. Imports numpy; nothing in the file is executed.

Axes: N clips, T tokens, D dim, C classes.
"""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from raymc.config import NpzConfig
from raymc.data.shards import Modality
from raymc.data.storage import digest, open_address
from raymc.errors import DataError
from raymc.formats.arrays import (
    STORED_AS,
    FileArray,
    check_clips,
    check_length,
    check_rates,
    listed,
)
from raymc.formats.recipe import DatasetRecipe


def npz(config: NpzConfig) -> DatasetRecipe:
    """The recipe of a dataset that stands in one NumPy archive; its arrays are held in memory.

    float64 is stored as float32, float16, float32 and uint8 as they are.

    Raises:
        ConfigError: `rates_hz` doesn't have the same keys as `modalities`, or isn't positive.
        DataError: The file or an array is missing, isn't what was expected, or doesn't fit
            the others.
    """
    check_rates(config.rates_hz, config.modalities)
    roles = (config.labels, config.classes, config.split, config.ids)
    arrays = _read_arrays(config.file, (*roles, *config.modalities.values()))
    labels = arrays[config.labels]
    clips = check_clips(
        labels=labels,
        classes=arrays[config.classes],
        ids=arrays[config.ids],
        split=arrays[config.split],
        group_separator=config.group_separator,
    )
    tokens = {
        modality: _tokens(arrays[name], labels) for modality, name in config.modalities.items()
    }
    return DatasetRecipe(
        vocabulary=clips.vocabulary,
        modalities=_modalities(config, tokens),
        splits=clips.rows(lambda clip: {name: array[clip] for name, array in tokens.items()}),
        provenance={"file": Path(config.file).name, "sha256": digest(*open_address(config.file))},
        license=config.license,
    )


def _modalities(
    config: NpzConfig, tokens: Mapping[str, Shaped[np.ndarray, "N _ _"]]
) -> tuple[Modality, ...]:
    return tuple(
        Modality(
            name,
            dim=array.shape[2],
            dtype=STORED_AS[array.dtype.name],
            rate_hz=config.rates_hz[name],
            encoder=f"{Path(config.file).name}: {config.modalities[name]}",
        )
        for name, array in tokens.items()
    )


def _read_arrays(file: str, names: Sequence[str]) -> dict[str, FileArray]:
    try:
        archive = np.load(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file; give the path of a .npz file.") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}: not a NumPy archive ({error}); expected a .npz file.") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise DataError(f"{file}: a single array; expected a .npz file, as `np.savez` writes it.")
    with archive:
        return {name: _read_array(file, archive, name) for name in names}


def _read_array(file: str, archive: np.lib.npyio.NpzFile, name: str) -> FileArray:
    if name not in archive:
        raise DataError(f"{file}: no array '{name}'; the file has {listed(archive.files)}.")
    try:
        array = archive[name]
    except ValueError as error:
        raise DataError(
            f"{file}: '{name}' holds pickled Python objects or is damaged ({error}); "
            "save it again as numbers or strings."
        ) from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file}: '{name}' is damaged ({error}); fetch the file again.") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{file}: '{name}' is no array; expected a file that `np.savez` wrote.")
    return FileArray(file, name, array)


def _tokens(array: FileArray, labels: FileArray) -> Shaped[np.ndarray, "N T D"]:
    values = array.values
    if values.ndim != 3 or values.shape[2] == 0:
        raise DataError(f"{array.where} has shape {values.shape}; expected [clips, tokens, dim].")
    check_length(labels, array.name, len(values))
    if values.dtype.name not in STORED_AS:
        raise DataError(
            f"{array.where} holds {values.dtype}; expected float16, float32, float64 or uint8."
        )
    with np.errstate(over="ignore"):
        stored = values.astype(STORED_AS[values.dtype.name], copy=False)
    for row, clip in enumerate(stored):
        if not np.isfinite(clip).all():
            raise DataError(
                f"{array.where} holds NaN, infinity or a value beyond float32 in row {row}; "
                "remove that clip or repair it."
            )
    return stored
