"""A local file system that counts the bytes read of each file."""

import io
from collections import Counter
from dataclasses import replace
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs

from raymc.data.shards import Dataset


class _File(io.FileIO):
    def __init__(self, path: str, read: Counter[str]) -> None:
        super().__init__(path)
        self._path, self._read = path, read

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(-1 if size is None else size) or b""
        self._read[self._path] += len(data)
        return data


class _Files(LocalFileSystem):
    cachable = False
    bytes_read: Counter[str]

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **_: Any) -> Any:
        assert mode == "rb"
        return _File(path, self.bytes_read)


def counted(dataset: Dataset) -> tuple[Dataset, Counter[str]]:
    """Return a dataset whose reading is counted, and the bytes read by path so far."""
    files = _Files()
    files.bytes_read = Counter()
    handler = fs.FSSpecHandler(files)
    return replace(dataset, filesystem=fs.PyFileSystem(handler)), files.bytes_read
