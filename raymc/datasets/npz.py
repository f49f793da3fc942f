"""Arrays of a NumPy archive to rows: the quickest way in for features computed elsewhere.

One .npz with an array [clips, tokens, dim] per modality, a multi-hot [clips, C], the class
names, the ids and the split of each clip. Imports numpy; nothing in the file is executed.

Axes: N clips, T tokens, D dim, C classes.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, Shaped
from pydantic import Field
from pydantic.dataclasses import dataclass

from raymc.datasets import DatasetRecipe
from raymc.datasets.lazy_rows import LazyRows
from raymc.errors import ConfigError, DataError
from raymc.labels import Vocabulary
from raymc.shards import Modality, Row

SPLITS = ("train", "val", "test")

_STORED_AS: Mapping[str, Literal["float16", "float32", "uint8"]] = {
    "float16": "float16",
    "float32": "float32",
    "float64": "float32",
    "uint8": "uint8",
}


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class NpzConfig:
    """Which arrays of the file mean what."""

    name: Literal["npz"] = Field(default="npz", description="The kind of dataset.")
    file: str = Field(min_length=1, description="Path of the .npz file.")
    modalities: Mapping[str, str] = Field(
        min_length=1, description="Array [clips, tokens, dim] of each modality, by its name."
    )
    rates_hz: Mapping[str, float] = Field(description="Tokens a second of each modality.")
    labels: str = Field(default="y", description="Array [clips, classes] of 0 and 1.")
    classes: str = Field(default="classes", description="Array [classes] of label names.")
    split: str = Field(
        default="split",
        description="Array [clips] of 0, 1, 2 for train, val, test, or of these names.",
    )
    ids: str = Field(default="names", description="Array [clips] of ids, each used once.")
    group_separator: str = Field(
        default="",
        description="Labels are grouped by what stands before it in their names; empty: no groups.",
    )
    license: str = Field(default="", description="The licence of the data, kept with it.")


def npz(config: NpzConfig) -> DatasetRecipe:
    """The recipe of a dataset that stands in one NumPy archive; its arrays are held in memory.

    float64 is stored as float32, float16, float32 and uint8 as they are.

    Raises:
        ConfigError: `rates_hz` doesn't have the same keys as `modalities`, or isn't positive.
        DataError: The file or an array is missing, isn't what was expected, or doesn't fit
            the others.
    """
    _check_rates(config)
    roles = (config.labels, config.classes, config.split, config.ids)
    arrays = _read_arrays(config.file, (*roles, *config.modalities.values()))
    multi_hot = _multi_hot(config, arrays[config.labels])
    clips = _Clips(
        ids=_ids(config, arrays[config.ids], len(multi_hot)),
        multi_hot=multi_hot,
        names=_class_names(config, arrays[config.classes], multi_hot.shape[1]),
        tokens={
            modality: _tokens(config, array, arrays[array], len(multi_hot))
            for modality, array in config.modalities.items()
        },
    )
    numbers = _split_numbers(config, arrays[config.split], len(multi_hot))
    chosen = {name: np.flatnonzero(numbers == number) for number, name in enumerate(SPLITS)}
    return DatasetRecipe(
        vocabulary=_vocabulary(config, clips.names),
        modalities=_modalities(config, clips),
        splits={
            name: LazyRows(len(rows), partial(clips.row, rows))
            for name, rows in chosen.items()
            if len(rows)
        },
        provenance={"file": Path(config.file).name, "sha256": _digest(config.file)},
        license=config.license,
    )


@plain_dataclass(frozen=True)
class _Clips:
    """All clips of the file, checked."""

    ids: tuple[str, ...]
    multi_hot: Bool[np.ndarray, "N C"]
    names: tuple[str, ...]
    tokens: Mapping[str, Shaped[np.ndarray, "N _ _"]]

    def row(self, chosen: Int[np.ndarray, " rows"], i: int) -> Row:
        """Row i of a split is clip `chosen[i]` of the file."""
        clip = int(chosen[i])
        return Row(
            id=self.ids[clip],
            labels=tuple(self.names[k] for k in np.flatnonzero(self.multi_hot[clip])),
            tokens={modality: array[clip] for modality, array in self.tokens.items()},
        )


def _modalities(config: NpzConfig, clips: _Clips) -> tuple[Modality, ...]:
    return tuple(
        Modality(
            name,
            dim=array.shape[2],
            dtype=_STORED_AS[array.dtype.name],
            rate_hz=config.rates_hz[name],
            encoder=f"{Path(config.file).name}: {config.modalities[name]}",
        )
        for name, array in clips.tokens.items()
    )


def _check_rates(config: NpzConfig) -> None:
    if set(config.rates_hz) != set(config.modalities):
        raise ConfigError(
            f"rates_hz has the keys {_listed(config.rates_hz)}; expected a rate for each of "
            f"{_listed(config.modalities)}, as in `modalities`."
        )
    for name, rate_hz in config.rates_hz.items():
        if not 0 < rate_hz < float("inf"):
            raise ConfigError(f"rates_hz.{name} is {rate_hz}; expected tokens a second, above 0.")


def _read_arrays(file: str, names: Sequence[str]) -> dict[str, np.ndarray]:
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


def _read_array(file: str, archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    if name not in archive:
        raise DataError(f"{file}: no array '{name}'; the file has {_listed(archive.files)}.")
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
    return array


def _multi_hot(config: NpzConfig, labels: np.ndarray) -> Bool[np.ndarray, "N C"]:
    where = f"{config.file}: '{config.labels}'"
    if labels.ndim != 2 or 0 in labels.shape:
        raise DataError(f"{where} has shape {labels.shape}; expected [clips, classes], not empty.")
    if labels.dtype.kind not in "biuf":
        raise DataError(f"{where} holds {labels.dtype}; expected 0 and 1.")
    wrong = np.argwhere((labels != 0) & (labels != 1))
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            f"{where} holds {labels[row, column]} in row {row}, column {column}; expected 0 or 1, "
            "each row with a 1 for every label of its clip."
        )
    return labels.astype(bool)


def _tokens(
    config: NpzConfig, name: str, array: np.ndarray, clips: int
) -> Shaped[np.ndarray, "N T D"]:
    where = f"{config.file}: '{name}'"
    if array.ndim != 3 or array.shape[2] == 0:
        raise DataError(f"{where} has shape {array.shape}; expected [clips, tokens, dim].")
    _check_clips(config, name, len(array), clips)
    if array.dtype.name not in _STORED_AS:
        raise DataError(
            f"{where} holds {array.dtype}; expected float16, float32, float64 or uint8."
        )
    with np.errstate(over="ignore"):
        stored = array.astype(_STORED_AS[array.dtype.name], copy=False)
    for row, values in enumerate(stored):
        if not np.isfinite(values).all():
            raise DataError(
                f"{where} holds NaN, infinity or a value beyond float32 in row {row}; "
                "remove that clip or repair it."
            )
    return stored


def _class_names(config: NpzConfig, array: np.ndarray, count: int) -> tuple[str, ...]:
    where = f"{config.file}: '{config.classes}'"
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise DataError(
            f"{where} holds {array.dtype} of shape {array.shape}; expected a list of strings."
        )
    if len(array) != count:
        raise DataError(
            f"{where} names {len(array)} classes where '{config.labels}' has {count} columns; "
            "expected one name a column."
        )
    return tuple(array.astype(str).tolist())


def _ids(config: NpzConfig, array: np.ndarray, clips: int) -> tuple[str, ...]:
    where = f"{config.file}: '{config.ids}'"
    if array.ndim != 1 or array.dtype.kind not in "USiu":
        raise DataError(
            f"{where} holds {array.dtype} of shape {array.shape}; expected a list of strings or "
            "whole numbers."
        )
    _check_clips(config, config.ids, len(array), clips)
    ids = tuple(array.astype(str).tolist())
    first_row: dict[str, int] = {}
    for row, clip in enumerate(ids):
        if not clip:
            raise DataError(f"{where} is empty in row {row}; expected an id for each clip.")
        if clip in first_row:
            raise DataError(
                f"{where} holds '{clip}' in rows {first_row[clip]} and {row}; expected every id "
                "once: rename one, or remove the repeated clip."
            )
        first_row[clip] = row
    return ids


def _split_numbers(config: NpzConfig, array: np.ndarray, clips: int) -> Int[np.ndarray, " N"]:
    where = f"{config.file}: '{config.split}'"
    if array.ndim != 1 or array.dtype.kind not in "USiu":
        raise DataError(
            f"{where} holds {array.dtype} of shape {array.shape}; expected a list of 0, 1, 2 or "
            "of train, val, test."
        )
    _check_clips(config, config.split, len(array), clips)
    known: Sequence[object] = SPLITS if array.dtype.kind in "US" else range(len(SPLITS))
    values = array.astype(str).tolist() if array.dtype.kind in "US" else array.tolist()
    for row, value in enumerate(values):
        if value not in known:
            raise DataError(
                f"{where} holds {value!r} in row {row}; expected one of "
                f"{', '.join(map(str, known))}."
            )
    return np.array([known.index(value) for value in values])


def _check_clips(config: NpzConfig, name: str, found: int, clips: int) -> None:
    if found != clips:
        raise DataError(
            f"{config.file}: '{name}' has {found} rows where '{config.labels}' has {clips}; "
            "expected one row a clip in both."
        )


def _vocabulary(config: NpzConfig, names: tuple[str, ...]) -> Vocabulary:
    """The labels, grouped by what stands before the separator; those without it in no group."""
    groups: dict[str, tuple[str, ...]] = {}
    for name in names:
        prefix, found, _ = name.partition(config.group_separator or "\0")
        if prefix and found:
            groups[prefix] = (*groups.get(prefix, ()), name)
    try:
        return Vocabulary(names, groups)
    except DataError as error:
        raise DataError(f"{config.file}: '{config.classes}': {error}") from error


def _digest(file: str) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "none"
