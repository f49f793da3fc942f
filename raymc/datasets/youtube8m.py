"""YouTube-8M and YouTube-8M Segments to rows, from the record files as they are offered.

Every file is read once to check it and to find its records, and once more when the rows are
written; only offsets are held. Imports numpy; `youtube8m_files.py` reaches the files.

S. Abu-El-Haija et al., YouTube-8M: A Large-Scale Video Classification Benchmark, 2016,
arXiv 1609.08675.
Axes: R records.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raymc.datasets import DatasetRecipe
from raymc.datasets.lazy_rows import LazyRows
from raymc.datasets.tfrecord import RecordReader
from raymc.datasets.youtube8m_files import Decode, RecordFile, find_files, look_through
from raymc.datasets.youtube8m_records import (
    Feature,
    Level,
    describe,
    read_row,
    read_vocabulary,
)
from raymc.errors import ConfigError, DataError
from raymc.labels import Vocabulary
from raymc.shards import Row, storage


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Youtube8mConfig:
    """Which record files make which split, and what is taken from them."""

    name: Literal["youtube8m"] = Field(default="youtube8m", description="The kind of dataset.")
    train: str = Field(
        default="", description="Record files: a path or address, with * in the file's name."
    )
    val: str = Field(default="", description="As `train`; YouTube-8M calls this split validate.")
    test: str = Field(default="", description="As `train`; YouTube-8M gives it no labels.")
    level: Level = Field(
        default="frame", description="Features of every second, or one mean of each whole video."
    )
    modalities: Mapping[str, Feature] = Field(
        default_factory=lambda: {"visual": "rgb", "audio": "audio"},
        min_length=1,
        description="Feature of each modality, rgb or audio, by the modality's name.",
    )
    vocabulary: str = Field(
        default="", description="Path of vocabulary.csv; empty: labels are named by their number."
    )
    classes: int = Field(default=3862, ge=1, description="Labels, where no vocabulary is given.")
    skip_damaged: bool = Field(
        default=False, description="Leave damaged records out and count them; else stop at one."
    )
    license: str = Field(default="CC BY 4.0", description="The licence of the data, kept with it.")


def youtube8m(config: Youtube8mConfig) -> DatasetRecipe:
    """The recipe of a YouTube-8M dataset; features are kept as they are stored.

    Frame-level features stay uint8, with the scale and offset of YouTube-8M's own dequantisation;
    of a video-level record, each mean becomes one float32 token. Segment labels are left out.
    Repeated ids are left to `raymc data check`: to see them here, all ids would have to be held.

    Raises:
        ConfigError: No split has files.
        DataError: A file is missing; a record is damaged, of the other level, or has a label
            beyond the vocabulary; the vocabulary can't be read.
        ResourceError: The package google-crc32c is missing.
    """
    patterns = {"train": config.train, "val": config.val, "test": config.test}
    if not any(patterns.values()):
        raise ConfigError("youtube8m: no files; give those of at least one of train, val, test.")
    vocabulary, vocabulary_file = _vocabulary(config)
    decode = partial(
        read_row, level=config.level, modalities=config.modalities, names=vocabulary.names
    )
    splits, files, notes = {}, {}, []
    for split, pattern in patterns.items():
        if pattern:
            filesystem, paths = find_files(split, pattern)
            found = [
                look_through(filesystem, path, decode, skip=config.skip_damaged) for path in paths
            ]
            notes += _notes(split, found)
            files[split] = [{"file": file.name, "sha256": file.sha256} for file in found]
            splits[split] = _Records(RecordReader(filesystem), decode, found).rows()
    return DatasetRecipe(
        vocabulary=vocabulary,
        modalities=tuple(
            describe(name, feature, config.level) for name, feature in config.modalities.items()
        ),
        splits=splits,
        provenance={
            "files": files,
            "vocabulary": vocabulary_file,
            "level": config.level,
            "modalities": dict(config.modalities),
            "skip_damaged": config.skip_damaged,
            "notes": notes,
        },
        license=config.license,
    )


class _Records:
    """The good records of a split, over all its files."""

    def __init__(self, reader: RecordReader, decode: Decode, files: Sequence[RecordFile]) -> None:
        self._reader, self._decode = reader, decode
        self._paths = [file.path for file in files]
        self._ends = np.cumsum([len(file.offsets) for file in files])
        self._offsets = np.concatenate([file.offsets for file in files])

    def rows(self) -> LazyRows:
        return LazyRows(len(self._offsets), self._row)

    def _row(self, i: int) -> Row:
        path = self._paths[np.searchsorted(self._ends, i, side="right")]
        offset = int(self._offsets[i])
        try:
            return self._decode(self._reader.read(path, offset))[0]
        except DataError as error:
            raise DataError(
                f"{path}: record at byte {offset}: {error}; it was sound when the file was looked "
                "through: if the file has changed, import it anew"
            ) from error


def _vocabulary(config: Youtube8mConfig) -> tuple[Vocabulary, dict[str, str]]:
    """The labels in the order of their numbers, and the file they are from."""
    if not config.vocabulary:
        return Vocabulary(tuple(str(number) for number in range(config.classes))), {}
    filesystem, path = storage.open_address(config.vocabulary)
    with storage.reaching(config.vocabulary):
        data = storage.read_bytes(filesystem, path)
    file = {"file": PurePosixPath(path).name, "sha256": hashlib.sha256(data).hexdigest()}
    return read_vocabulary(config.vocabulary, data), file


def _notes(split: str, files: Sequence[RecordFile]) -> list[str]:
    """What the user is to know about a split.

    Raises:
        DataError: It has no good record.
    """
    notes = [
        f"{split}: {file.name}: damaged records left out: {file.damaged}, the first of "
        f"them the {file.first_damage}"
        for file in files
        if file.damaged
    ]
    records = sum(len(file.offsets) for file in files)
    if not records:
        raise DataError(f"{notes[0]}; no record of the split is left: fetch its files again")
    remarks = sum((file.remarks for file in files), Counter[str]())
    counted = [f"{split}: {n} of {records} records {text}" for text, n in sorted(remarks.items())]
    return notes + counted
