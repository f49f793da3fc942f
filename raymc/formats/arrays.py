"""Checks the arrays that describe clips: labels, class names, ids, splits and token types.

`npz.py` and `hdf5.py` read the arrays; what is valid is the same for both, and stated here.

Axes: N clips, T tokens, D dim, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, Shaped

from raymc.config import Hdf5Config, NpzConfig
from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Row, Rows
from raymc.errors import ConfigError, DataError
from raymc.formats.recipe import LazyRows


@dataclass(frozen=True)
class FileArray:
    """An array and where it comes from, for messages."""

    file: str
    name: str
    values: Shaped[np.ndarray, "..."]

    @property
    def where(self) -> str:
        """The beginning of messages about the array."""
        return f"{self.file}: '{self.name}'"


def check_length(labels: FileArray, name: str, found: int) -> None:
    """Check that an array of the file has one row per clip, as many as `labels`."""
    clips = len(labels.values)
    if found != clips:
        raise DataError(
            f"{labels.file}: '{name}' has {found} rows, but '{labels.name}' has {clips}; "
            "expected one row per clip in both."
        )


def texts(array: FileArray) -> tuple[str, ...]:
    """Return the values of an array as texts; raises `DataError` for bytes that are not ASCII."""
    try:
        return tuple(array.values.astype(str).tolist())
    except UnicodeDecodeError as error:
        raise DataError(
            f"{array.where} holds bytes that are not ASCII; save them as text."
        ) from error


def listed(names: Sequence[str] | Mapping[str, object]) -> str:
    """Return names as a message shows them, sorted."""
    return ", ".join(sorted(names)) or "none"


SPLITS = ("train", "val", "test")
STORED_AS: Mapping[str, Literal["float16", "float32", "uint8"]] = {
    "float16": "float16",
    "float32": "float32",
    "float64": "float32",
    "uint8": "uint8",
}


@dataclass(frozen=True)
class Clips:
    """All clips of a file, without their tokens.

    `multi_hot` has a column per label of the vocabulary; `split_numbers` are indices into `SPLITS`.
    """

    ids: tuple[str, ...]
    multi_hot: Bool[np.ndarray, "N C"]
    vocabulary: Vocabulary
    split_numbers: Int[np.ndarray, " N"]

    def rows(
        self, tokens: Callable[[int], Mapping[str, Shaped[np.ndarray, "..."] | None]]
    ) -> dict[str, Rows]:
        """Return the rows of each split that has any; `tokens(clip)` is called for each row."""
        chosen = {
            split: np.flatnonzero(self.split_numbers == number)
            for number, split in enumerate(SPLITS)
        }
        return {
            split: LazyRows(len(clips), partial(self._row, tokens, clips))
            for split, clips in chosen.items()
            if len(clips)
        }

    def _row(
        self,
        tokens: Callable[[int], Mapping[str, Shaped[np.ndarray, "..."] | None]],
        clips: Int[np.ndarray, " rows"],
        i: int,
    ) -> Row:
        clip = int(clips[i])
        names = self.vocabulary.names
        return Row(
            id=self.ids[clip],
            labels=tuple(names[k] for k in np.flatnonzero(self.multi_hot[clip])),
            tokens=tokens(clip),
        )


def check_clips(config: NpzConfig | Hdf5Config, arrays: Mapping[str, FileArray]) -> Clips:
    """Check the arrays that describe the clips, by their names, and that they fit each other."""
    labels, classes = arrays[config.labels], arrays[config.classes]
    ids, split = arrays[config.ids], arrays[config.split]
    return Clips(
        multi_hot=_multi_hot(labels),
        ids=_ids(ids, labels),
        vocabulary=_vocabulary(classes, _class_names(classes, labels), config.group_separator),
        split_numbers=_split_numbers(split, labels),
    )


def check_rates(rates_hz: Mapping[str, float], modalities: Mapping[str, str]) -> None:
    """Check that there is a positive rate for each modality, and no other."""
    if set(rates_hz) != set(modalities):
        raise ConfigError(
            f"rates_hz has the keys {listed(rates_hz)}; expected those of `modalities`: "
            f"{listed(modalities)}."
        )
    for name, rate_hz in rates_hz.items():
        if not 0 < rate_hz < float("inf"):
            raise ConfigError(f"rates_hz.{name} is {rate_hz}; expected tokens per second, above 0.")


def modality_of(
    where: str,
    shape: Sequence[int],
    dtype: np.dtype,
    *,
    name: str,
    rate_hz: float,
    encoder: str,
) -> Modality:
    """Return the modality of an array of tokens, whose last axis is the dim.

    float64 is stored as float32. `where` begins the messages; `encoder` says what made the tokens.
    """
    if shape[-1] == 0:
        raise DataError(f"{where} has shape {tuple(shape)}; expected a dim of 1 or more.")
    if dtype.name not in STORED_AS:
        raise DataError(f"{where} holds {dtype}; expected float16, float32, float64 or uint8.")
    return Modality(name, shape[-1], STORED_AS[dtype.name], rate_hz, encoder)


def _multi_hot(labels: FileArray) -> Bool[np.ndarray, "N C"]:
    values = labels.values
    if values.ndim != 2 or 0 in values.shape:
        raise DataError(
            f"{labels.where} has shape {values.shape}; expected [clips, classes], not empty."
        )
    if values.dtype.kind not in "biuf":
        raise DataError(f"{labels.where} holds {values.dtype}; expected 0 and 1.")
    wrong = np.argwhere((values != 0) & (values != 1))
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            f"{labels.where} holds {values[row, column]} in row {row}, column {column}; expected "
            "0 or 1, each row with a 1 for every label of its clip."
        )
    return values.astype(bool)


def _class_names(classes: FileArray, labels: FileArray) -> tuple[str, ...]:
    array, count = classes.values, labels.values.shape[1]
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise DataError(
            f"{classes.where} holds {array.dtype} of shape {array.shape}; expected a list of "
            "strings."
        )
    if len(array) != count:
        raise DataError(
            f"{classes.where} names {len(array)} classes, but '{labels.name}' has {count} "
            "columns; expected one name per column."
        )
    return texts(classes)


def _ids(ids: FileArray, labels: FileArray) -> tuple[str, ...]:
    _check_list(ids, labels, "strings or whole numbers")
    names = texts(ids)
    first_row: dict[str, int] = {}
    for row, clip in enumerate(names):
        if not clip:
            raise DataError(f"{ids.where} is empty in row {row}; expected an id for every clip.")
        if clip in first_row:
            raise DataError(
                f"{ids.where} holds '{clip}' in rows {first_row[clip]} and {row}; expected each "
                "id once: rename one, or write the file again without it."
            )
        first_row[clip] = row
    return names


def _check_list(array: FileArray, labels: FileArray, of: str) -> None:
    values = array.values
    if values.ndim != 1 or values.dtype.kind not in "USiu":
        raise DataError(
            f"{array.where} holds {values.dtype} of shape {values.shape}; expected a list of {of}."
        )
    check_length(labels, array.name, len(values))


def _split_numbers(split: FileArray, labels: FileArray) -> Int[np.ndarray, " N"]:
    _check_list(split, labels, "0, 1, 2 or of train, val, test")
    named = split.values.dtype.kind in "US"
    known: list[object] = list(SPLITS if named else range(len(SPLITS)))
    values: Sequence[object] = texts(split) if named else split.values.tolist()
    for row, value in enumerate(values):
        if value not in known:
            raise DataError(
                f"{split.where} holds {value!r} in row {row}; expected one of "
                f"{', '.join(map(str, known))}."
            )
    return np.array([known.index(value) for value in values])


def _vocabulary(classes: FileArray, names: tuple[str, ...], group_separator: str) -> Vocabulary:
    """The labels, grouped by the part before the separator; those without it are in no group."""
    groups: dict[str, tuple[str, ...]] = {}
    for name in names:
        prefix, found, _ = name.partition(group_separator or "\0")
        if prefix and found:
            groups[prefix] = (*groups.get(prefix, ()), name)
    try:
        return Vocabulary(names, groups)
    except DataError as error:
        raise DataError(f"{classes.where}: {error}") from error
