"""Parquet files wherever they are: found, opened, and read forward a few rows at a time.

Pure: pyarrow only. A row group of others may hold a million rows, more than fits into memory, so
none is ever read whole: what is held is a page of each column.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raymc.data import storage
from raymc.errors import DataError, first_line

_BATCH_ROWS = 32
_BUFFER_BYTES = 1 << 20  # of each column


@dataclass(frozen=True)
class ParquetFile:
    """A file.

    Attributes:
        filesystem: Where it is.
        path: Its path inside `filesystem`.
        name: Its path inside the folder that was looked through.
        split: The split of all its rows; empty if they tell.
    """

    filesystem: fs.FileSystem
    path: str
    name: str
    split: str


@dataclass(frozen=True)
class RowGroup:
    """A row group; `first_row` is a number through all files, `first_of_file` through its own."""

    file: ParquetFile
    number: int
    rows: int
    first_row: int
    first_of_file: int


@dataclass(frozen=True)
class Batch:
    """Some rows that follow each other; `first_row` and `first_of_file` as in `RowGroup`."""

    columns: pa.RecordBatch
    file: ParquetFile
    first_row: int
    first_of_file: int

    def __contains__(self, row: int) -> bool:
        return self.first_row <= row < self.first_row + len(self.columns)


def find_files(address: str, split: str = "") -> list[ParquetFile]:
    """Find Parquet files, sorted by path; names that begin with a dot or _ are left out.

    Args:
        address: A file, a folder with all below it, or a pattern in which * stands for anything
            within the name of a file or folder; local, or what pyarrow or fsspec knows.
        split: What the files are of.

    Raises:
        DataError: There are none, or the place can't be reached.
    """
    before, star, _ = address.partition("*")
    head, slash, _ = before.rpartition("/")
    base, pattern = (head or slash or ".", address[len(head + slash) :]) if star else (address, "")
    filesystem, root = storage.open_address(base)
    with storage.reaching(address):
        if filesystem.get_file_info(root).is_file:
            return [ParquetFile(filesystem, root, PurePosixPath(root).name, split)]
        names = list(storage.parquet_files(filesystem, root))
    # a pattern from the root must match the whole of a path
    found = [n for n in names if not pattern or PurePosixPath(f"/{n}").match(f"/{pattern}")]
    if not found:
        raise DataError(f"{address}: no files *.parquet; give a file, a folder or a pattern.")
    return [ParquetFile(filesystem, f"{root}/{name}", name, split) for name in found]


@contextmanager
def opened(file: ParquetFile) -> Iterator[pq.ParquetFile]:
    """Open a file such that its batches take little memory, however large its row groups.

    Raises:
        DataError: It can't be read, now or inside the block.
    """
    try:
        with file.filesystem.open_input_file(file.path) as stream:
            yield pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = first_line(error)
        raise DataError(
            f"{file.path}: can't be read as Parquet ({reason}); copy it again or leave it out."
        ) from error


class ForwardReader:
    """Gives the rows of files by number, quickly where they are asked for in order.

    Args:
        groups: The row groups of all files, in order.
        columns: Names of the columns to read.
    """

    def __init__(self, groups: Sequence[RowGroup], columns: Sequence[str]) -> None:
        self._groups = groups
        self._columns = list(columns)
        self._first_rows = [group.first_row for group in groups]
        self._batches: Iterator[Batch] = iter(())
        self._held: Batch | None = None

    def batch(self, row: int) -> Batch:
        """Return the batch that holds a row; the same object as before, if it still does.

        Raises:
            DataError: A file can't be read, or has changed.
        """
        if self._held is None or row not in self._held:
            group = self._groups[bisect_right(self._first_rows, row) - 1]
            is_ahead = self._held and group.first_row <= self._held.first_row <= row
            if not is_ahead:
                self._batches = _batches(group, self._columns)
            self._held = next((batch for batch in self._batches if row in batch), None)
            if self._held is None:
                raise DataError(f"{group.file.path}: changed while it was read; run again.")
        return self._held


def _batches(group: RowGroup, columns: list[str]) -> Iterator[Batch]:
    done = 0
    with opened(group.file) as source:
        for columns_of_batch in source.iter_batches(_BATCH_ROWS, [group.number], columns):
            yield Batch(
                columns_of_batch, group.file, group.first_row + done, group.first_of_file + done
            )
            done += len(columns_of_batch)
