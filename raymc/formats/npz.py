"""Arrays of a NumPy archive to rows: the quickest way to use features computed elsewhere.

One .npz holds an array [clips, tokens, dim] per modality, a multi-hot [clips, C], the class
names, and the id and split of each clip. Pickled objects are refused, so no code is run.

Axes: N clips, T tokens, D dim, C classes.
"""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from raymc.config import NpzConfig
from raymc.data.shards import Modality
from raymc.data.storage import digest, open_address
from raymc.errors import DataError
from raymc.formats.arrays import (
    FileArray,
    check_clips,
    check_length,
    check_rates,
    listed,
    modality_of,
)
from raymc.formats.recipe import DatasetRecipe


def npz(config: NpzConfig) -> DatasetRecipe:
    """Return the recipe of a dataset in one NumPy archive; its arrays are held in memory.

    float64 is stored as float32; float16, float32 and uint8 are stored unchanged.

    Raises:
        ConfigError: `rates_hz` doesn't have the keys of `modalities`, or a rate is not positive.
        DataError: The file or an array is missing or invalid, or doesn't fit the others.
    """
    check_rates(config.rates_hz, config.modalities)
    roles = (config.labels, config.classes, config.split, config.ids)
    arrays = _read_arrays(config.file, (*roles, *config.modalities.values()))
    labels = arrays[config.labels]
    clips = check_clips(config, arrays)
    modalities = tuple(
        _modality(config, modality, arrays[name], labels)
        for modality, name in config.modalities.items()
    )
    tokens = {one.name: _tokens(arrays[config.modalities[one.name]], one) for one in modalities}
    return DatasetRecipe(
        vocabulary=clips.vocabulary,
        modalities=modalities,
        splits=clips.rows(lambda clip: {name: array[clip] for name, array in tokens.items()}),
        provenance={"file": Path(config.file).name, "sha256": digest(*open_address(config.file))},
        license=config.license,
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
        raise DataError(f"{file}: '{name}' is not an array; expected a file of `np.savez`.")
    return FileArray(file, name, array)


def _modality(config: NpzConfig, name: str, array: FileArray, labels: FileArray) -> Modality:
    values = array.values
    if values.ndim != 3:
        raise DataError(f"{array.where} has shape {values.shape}; expected [clips, tokens, dim].")
    check_length(labels, array.name, len(values))
    return modality_of(
        array.where,
        values.shape,
        values.dtype,
        name=name,
        rate_hz=config.rates_hz[name],
        encoder=f"{Path(config.file).name}: {array.name}",
    )


def _tokens(array: FileArray, modality: Modality) -> Shaped[np.ndarray, "N T D"]:
    with np.errstate(over="ignore"):
        stored = array.values.astype(modality.dtype, copy=False)
    for row, clip in enumerate(stored):
        if not np.isfinite(clip).all():
            raise DataError(
                f"{array.where} holds NaN, infinity or a value too large for float32 in row {row}; "
                "repair that clip, or write the file again without it."
            )
    return stored
