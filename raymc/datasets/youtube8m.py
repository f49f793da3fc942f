"""YouTube-8M and YouTube-8M Segments to rows, from the record files as they are offered.

Every file is read once to check it and to find its records, and once more when the rows are
written; only offsets are held. Imports numpy, and pyarrow to reach the files.

S. Abu-El-Haija et al., YouTube-8M: A Large-Scale Video Classification Benchmark, 2016,
arXiv 1609.08675.
Axes: R records.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Int64
from pyarrow import fs
from pydantic import Field
from pydantic.dataclasses import dataclass

from raymc.datasets import DatasetRecipe
from raymc.datasets.lazy_rows import LazyRows
from raymc.datasets.tfrecord import Damage, RecordReader, scan_records
from raymc.datasets.youtube8m_records import (
    Feature,
    ForeignError,
    Level,
    describe,
    read_row,
    read_vocabulary,
)
from raymc.errors import ConfigError, DataError
from raymc.labels import Vocabulary
from raymc.shards import Row, storage

_CHUNK_BYTES = 8 << 20
_REMEDY = (
    "fetch the file again (unpack it, if it is compressed), or leave damaged records out with "
    "skip_damaged"
)
_Decode = Callable[[bytes | Damage], tuple[Row, bool]]


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
            filesystem, paths = _find(split, pattern)
            found = [_index(filesystem, path, decode, skip=config.skip_damaged) for path in paths]
            notes += _notes(split, found)
            files[split] = [{"file": _name(file.path), "sha256": file.sha256} for file in found]
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


@plain_dataclass(frozen=True)
class _File:
    """A record file that was read through: where its good records begin, and what was odd."""

    path: str
    sha256: str
    offsets: Int64[np.ndarray, " R"]
    remarks: Counter[str]
    damaged: int
    first_damage: str


class _Records:
    """The good records of a split, over all its files."""

    def __init__(self, reader: RecordReader, decode: _Decode, files: Sequence[_File]) -> None:
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
    file = {"file": _name(path), "sha256": hashlib.sha256(data).hexdigest()}
    return read_vocabulary(config.vocabulary, data), file


def _find(split: str, pattern: str) -> tuple[fs.FileSystem, list[str]]:
    """The files of a split, sorted by name."""
    filesystem, path = storage.open_address(pattern)
    folder, _, wanted = path.rpartition("/")
    with storage.reaching(pattern):
        if storage.exists(filesystem, path):
            return filesystem, [path]
        inside = filesystem.get_file_info(fs.FileSelector(folder or "/", allow_not_found=True))
    found = [file for file in inside if file.is_file and fnmatchcase(file.base_name, wanted)]
    if not found:
        raise DataError(
            f"{split}: no file is at {pattern}; expected a path or an address of record files, "
            "with * in the file's name only, such as frame/train*.tfrecord"
        )
    return filesystem, sorted(file.path for file in found)


def _records(
    filesystem: fs.FileSystem, path: str, see: Callable[[bytes], None]
) -> Iterator[tuple[int, bytes | Damage]]:
    """Yield the records of a file with their offsets; all bytes of the file are shown to `see`."""
    with (
        storage.reaching(path),
        filesystem.open_input_file(path) as file,
        pa.input_stream(file, compression=None, buffer_size=_CHUNK_BYTES) as stream,
    ):

        def read(count: int) -> bytes:
            data = stream.read(count)
            see(data)
            return data

        if file.size() == 0:
            yield 0, Damage("the file is empty", 0)
        yield from scan_records(read, file.size())
        while read(_CHUNK_BYTES):  # what stands behind an unreadable length
            pass


def _index(filesystem: fs.FileSystem, path: str, decode: _Decode, *, skip: bool) -> _File:
    """Read a file through, and check each record."""
    digest, offsets, damaged, first_damage = hashlib.sha256(), array("q"), 0, ""
    remarks: Counter[str] = Counter()
    for offset, record in _records(filesystem, path, digest.update):
        where = f"record at byte {offset}"
        try:
            remarks.update(_remarks(*decode(record)))
            offsets.append(offset)
        except ForeignError as error:
            raise DataError(f"{path}: {where}: {error}") from error
        except DataError as error:
            if not skip:
                raise DataError(f"{path}: {where}: {error}; {_REMEDY}") from error
            damaged += 1
            first_damage = first_damage or f"{where}: {error}"
    found = np.array(offsets, np.int64)
    return _File(path, digest.hexdigest(), found, remarks, damaged, first_damage)


def _remarks(row: Row, has_segments: bool) -> Iterator[str]:
    """What is to be counted about a record."""
    seconds = {name: len(values) for name, values in row.tokens.items() if values is not None}
    if not row.labels:
        yield "have no labels"
    for name in row.tokens:
        if name not in seconds:
            yield f"have no {name}"
    if len(set(seconds.values())) > 1:
        yield f"have unequal numbers of seconds of {' and '.join(seconds)}, kept as they are"
    if has_segments:
        yield "have segment labels, left out: rows keep the labels of the whole video"


def _notes(split: str, files: Sequence[_File]) -> list[str]:
    """What the user is to know about a split.

    Raises:
        DataError: It has no good record.
    """
    notes = [
        f"{split}: {_name(file.path)}: damaged records left out: {file.damaged}, the first of "
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


def _name(path: str) -> str:
    return PurePosixPath(path).name
