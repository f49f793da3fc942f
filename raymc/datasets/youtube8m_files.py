"""Record files of YouTube-8M looked through: where their good records begin, and what is odd.

Imports numpy, and pyarrow to reach the files.

Axes: R records.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
from jaxtyping import Int64
from pyarrow import fs

from raymc.datasets.tfrecord import Damage, scan_records
from raymc.datasets.youtube8m_records import ForeignError
from raymc.errors import DataError
from raymc.shards import Row, storage

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
        path: Its path in its file system.
        sha256: Of the whole file.
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


def find_files(split: str, pattern: str) -> tuple[fs.FileSystem, list[str]]:
    """Find the files of a split, sorted by name; `pattern` may have * in the file's name.

    Raises:
        DataError: There are none, or the place can't be reached.
    """
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


def look_through(filesystem: fs.FileSystem, path: str, decode: Decode, *, skip: bool) -> RecordFile:
    """Read a file through, and check each record.

    Raises:
        DataError: A record is damaged and `skip` is false, or of another kind of file.
    """
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
        while read(_CHUNK_BYTES):  # what stands behind an unreadable length
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
