"""YouTube-8M and YouTube-8M Segments to rows, from their record files (`tfrecord.py`).

Every file is read once to check it and to find its records, and again when the rows are written;
only offsets are held. What a record holds: research.google.com/youtube8m/download.html.

S. Abu-El-Haija et al., YouTube-8M: A Large-Scale Video Classification Benchmark, 2016,
arXiv 1609.08675.
Axes: R records, T seconds, D dim.
"""

import csv
import hashlib
import io
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64, UInt8
from pyarrow import fs

from raymc.config import Feature, Level, Youtube8mConfig
from raymc.data import storage
from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Row
from raymc.errors import ConfigError, DataError
from raymc.formats.recipe import DatasetRecipe, LazyRows
from raymc.formats.tfrecord import Damage, Example, RecordReader, parse_example, scan_records

DIMS: Mapping[str, int] = {"rgb": 1024, "audio": 128}
# Dequantize(feat_vector, max=2, min=-2) of the YouTube-8M starter code (utils.py):
# value · range/255 + range/512 + min, where range = max - min
SCALE = 4 / 255
OFFSET = 4 / 512 - 2
_NO_VERTICAL = "(Unknown)"


class ForeignError(DataError):
    """An undamaged record that doesn't fit the settings; `skip_damaged` doesn't skip it."""


def _describe(name: str, feature: Feature, level: Level) -> Modality:
    """Say what the tokens of a modality are: a second's bytes, or the mean over a video."""
    if level == "video":
        return Modality(name, DIMS[feature], "float32", 1.0, f"YouTube-8M mean_{feature}")
    encoder = f"YouTube-8M {feature}"
    return Modality(name, DIMS[feature], "uint8", 1.0, encoder, scale=SCALE, offset=OFFSET)


def _read_row(
    record: bytes | Damage,
    *,
    level: Level,
    modalities: Mapping[str, Feature],
    names: Sequence[str],
) -> tuple[Row, bool]:
    """Turn a record into a row, and say whether it has segment labels, which aren't in the row."""
    if isinstance(record, Damage):
        raise DataError(record.reason)
    example = parse_example(record)
    _check_level(example, level)
    tokens = _frames if level == "frame" else _mean
    row = Row(
        id=_id(example),
        labels=_labels(example, names),
        tokens={name: tokens(example, feature) for name, feature in modalities.items()},
    )
    return row, any(name.startswith("segment_") for name in example.features)


def _check_level(example: Example, level: Level) -> None:
    found = {
        "frame": any(feature in example.lists for feature in DIMS),
        "video": any(f"mean_{feature}" in example.features for feature in DIMS),
    }
    other = "video" if level == "frame" else "frame"
    if found[other] and not found[level]:
        raise ForeignError(f"it has {other}-level features; set level to {other}")
    if not found[level]:
        names = ", ".join([*example.features, *example.lists])[:80]
        raise DataError(f"it is not a record of YouTube-8M: expected rgb, audio; found {names!r}")


def _id(example: Example) -> str:
    """The id, which older releases call video_id."""
    key = "id" if "id" in example.features else "video_id"
    values = example.features.get(key, ())
    if not isinstance(values, tuple) or len(values) != 1 or not values[0]:
        raise DataError("it has no id; expected one text in 'id' or 'video_id'")
    try:
        return values[0].decode()
    except UnicodeDecodeError as error:
        raise DataError(f"its id {values[0][:16]!r} is not text") from error


def _labels(example: Example, names: Sequence[str]) -> tuple[str, ...]:
    numbers = example.features.get("labels", ())
    if len(numbers) == 0:
        return ()
    if isinstance(numbers, tuple) or numbers.dtype != np.int64:
        raise DataError("its labels are not whole numbers")
    for number in numbers[(numbers < 0) | (numbers >= len(names))]:
        raise ForeignError(
            f"it has the label {number}, where the vocabulary has 0 to {len(names) - 1}; give the "
            "vocabulary, or the number of classes, of the same release"
        )
    return tuple(names[int(number)] for number in dict.fromkeys(numbers))


def _frames(example: Example, feature: Feature) -> UInt8[np.ndarray, "T D"] | None:
    seconds = example.lists.get(feature, ())
    for second, values in enumerate(seconds):
        sizes = [len(value) for value in values] if isinstance(values, tuple) else "numbers, not"
        if sizes != [DIMS[feature]]:
            raise DataError(
                f"its '{feature}' has {sizes} bytes in second {second}; expected {DIMS[feature]}"
            )
    joined = b"".join(value for values in seconds for value in values)
    return np.frombuffer(joined, np.uint8).reshape(-1, DIMS[feature]) if seconds else None


def _mean(example: Example, feature: Feature) -> Float32[np.ndarray, "1 D"] | None:
    values = example.features.get(f"mean_{feature}", ())
    if len(values) == 0:
        return None
    if isinstance(values, tuple) or values.dtype != np.float32 or len(values) != DIMS[feature]:
        raise DataError(
            f"its 'mean_{feature}' has {len(values)} values; expected {DIMS[feature]} of float32"
        )
    if not np.isfinite(values).all():
        raise DataError(f"its 'mean_{feature}' holds NaN or infinity")
    return values[None]


def _read_vocabulary(file: str, data: bytes) -> Vocabulary:
    """Read the labels of YouTube-8M's vocabulary.csv, in the order of their numbers.

    A name that is empty, or used more than once, is followed by its number. A label's parent is
    its first vertical; verticals don't become label groups, as these would mean that only some
    of the labels were annotated.
    """
    found, verticals = _labels_by_number(file, data)
    if not found or sorted(found) != list(range(len(found))):
        raise DataError(f"{file}: {len(found)} labels; expected an Index from 0 on without gaps")
    uses = Counter(found.values())
    names = {
        number: name if name and uses[name] == 1 else f"{name} ({number})".strip()
        for number, name in sorted(found.items())
    }
    above = set(verticals.values())
    parents = {
        name: verticals[number]
        for number, name in names.items()
        if number in verticals and name not in above
    }
    try:
        return Vocabulary(tuple(names.values()), parents=parents)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def _labels_by_number(file: str, data: bytes) -> tuple[dict[int, str], dict[int, str]]:
    """Return each label's name, and the first vertical of those that have one."""
    names: dict[int, str] = {}
    verticals: dict[int, str] = {}
    line = 1
    try:
        table = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        if not {"Index", "Name"} <= set(table.fieldnames or ()):
            raise ValueError("no columns Index and Name")
        for row in table:
            line = table.line_num
            number = int(row["Index"] or "")
            if number in names:
                raise ValueError(f"the Index {number} is repeated")
            names[number] = (row["Name"] or "").strip()
            vertical = (row.get("Vertical1") or "").strip()
            if vertical and vertical != _NO_VERTICAL:
                verticals[number] = vertical
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"{file}: line {line}: {str(error)[:80]}; expected vocabulary.csv of YouTube-8M, in "
            "UTF-8 with the columns Index and Name"
        ) from error
    return names, verticals


Decode = Callable[[bytes | Damage], tuple[Row, bool]]  # and whether it has labels of segments
_CHUNK_BYTES = 8 << 20
_REMEDY = (
    "fetch the file again (unpack it, if it is compressed), or leave damaged records out with "
    "skip_damaged"
)


@dataclass(frozen=True)
class RecordFile:
    """A record file that was read through.

    Attributes:
        offsets: Where its good records begin.
        remarks: How many of them are odd, and how.
        damaged: How many others were left out.
        first_damage: What is wrong with the first of those.
    """

    path: str
    sha256: str
    offsets: Int64[np.ndarray, " R"]
    remarks: Counter[str]
    damaged: int
    first_damage: str

    @property
    def name(self) -> str:
        """The file's name alone."""
        return PurePosixPath(self.path).name


def _find_files(split: str, pattern: str) -> tuple[fs.FileSystem, list[str]]:
    """Find the files of a split, sorted by name; `pattern` may have * in the file's name."""
    filesystem, path = storage.open_address(pattern)
    folder, _, wanted = path.rpartition("/")
    with storage.reaching(pattern):
        if storage.exists(filesystem, path):
            return filesystem, [path]
        inside = filesystem.get_file_info(fs.FileSelector(folder or "/", allow_not_found=True))
    found = [file for file in inside if file.is_file and fnmatchcase(file.base_name, wanted)]
    if not found:
        raise DataError(
            f"{split}: no files at {pattern}; expected a path or an address of record files, "
            "with * in the file's name only, such as frame/train*.tfrecord"
        )
    return filesystem, sorted(file.path for file in found)


def _look_through(
    filesystem: fs.FileSystem, path: str, decode: Decode, *, skip: bool
) -> RecordFile:
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
    return RecordFile(path, digest.hexdigest(), found, remarks, damaged, first_damage)


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
        while read(_CHUNK_BYTES):  # what follows an unreadable length, for the digest
            pass


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


def youtube8m(config: Youtube8mConfig) -> DatasetRecipe:
    """Return the recipe of a YouTube-8M dataset; features keep their stored values.

    Frame-level features stay uint8, with the scale and offset of YouTube-8M's own dequantisation;
    each mean of a video-level record becomes one float32 token. Segment labels are left out.
    `raymc data check` finds repeated ids: here, all ids would have to be held.

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
        _read_row, level=config.level, modalities=config.modalities, names=vocabulary.names
    )
    splits, files, notes = {}, {}, []
    for split, pattern in patterns.items():
        if pattern:
            filesystem, paths = _find_files(split, pattern)
            found = [
                _look_through(filesystem, path, decode, skip=config.skip_damaged) for path in paths
            ]
            notes += _notes(split, found)
            files[split] = [{"file": file.name, "sha256": file.sha256} for file in found]
            splits[split] = _Records(RecordReader(filesystem), decode, found).rows()
    return DatasetRecipe(
        vocabulary=vocabulary,
        modalities=tuple(
            _describe(name, feature, config.level) for name, feature in config.modalities.items()
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
                f"{path}: record at byte {offset}: {error}; it was valid when the file was first "
                "read: if the file has changed, import it again"
            ) from error


def _vocabulary(config: Youtube8mConfig) -> tuple[Vocabulary, dict[str, str]]:
    if not config.vocabulary:
        return Vocabulary(tuple(str(number) for number in range(config.classes))), {}
    filesystem, path = storage.open_address(config.vocabulary)
    with storage.reaching(config.vocabulary):
        data = storage.read_bytes(filesystem, path)
    file = {"file": PurePosixPath(path).name, "sha256": hashlib.sha256(data).hexdigest()}
    return _read_vocabulary(config.vocabulary, data), file


def _notes(split: str, files: Sequence[RecordFile]) -> list[str]:
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
