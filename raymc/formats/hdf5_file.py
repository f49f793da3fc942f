"""HDF5 files read in a process of their own: on a damaged one libhdf5 may loop for ever, or crash.

Imports numpy; h5py in that process.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any
from weakref import finalize

import numpy as np
from jaxtyping import Shaped

from raymc.errors import DataError, ResourceError, first_line
from raymc.formats.arrays import FileArray, listed
from raymc.runtime.child_process import Child, ChildError, limit_cpu

MOST_CPU_SECONDS = 60.0  # for one request; gigabytes are inflated in less
# what h5py raises on a damaged file
_DAMAGES = (OSError, RuntimeError, TypeError, ValueError, LookupError, MemoryError)
_LISTED = 8  # datasets named in a message


@dataclass(frozen=True)
class Node:
    """What a file says of a dataset without reading it; `where` is what messages begin with."""

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype


class Hdf5File:
    """An open file.

    Raises:
        DataError: It is missing or no HDF5 file; of each method, that what it asks for is
            damaged, such that libhdf5 says so, crashes or doesn't come to an end.
        ResourceError: h5py isn't installed.
    """

    def __init__(self, path: str) -> None:
        if find_spec("h5py") is None:
            raise ResourceError(
                f"{path} can't be read: h5py is missing; pip install 'raymc[formats]'."
            )
        self.path = path
        self._child = Child(_serve, path, MOST_CPU_SECONDS)
        finalize(self, self._child.close)
        self._ask("open")

    def has(self, path: str) -> bool:
        """Say whether there is something at a path."""
        return self._ask("has", path)

    def node(self, path: str) -> Node:
        """Describe the dataset at a path."""
        return self._ask("node", path)

    def datasets(self) -> str:
        """Return the paths of the first datasets, for messages."""
        return self._ask("datasets")

    def array(self, path: str) -> FileArray:
        """Read a whole dataset; strings become NumPy strings."""
        return FileArray(self.path, path, self._ask("array", path))

    def read(self, path: str, key: int | slice | tuple[()]) -> Shaped[np.ndarray, "..."]:
        """Read a part of a dataset."""
        return self._ask("read", path, key)

    def _ask(self, request: str, *arguments: Any) -> Any:
        try:
            with suppress(OSError):  # a child that ended; the reason is told next
                self._child.connection.send((request, arguments))
            answer = self._child.receive()
        except ChildError as error:
            what = f"'{arguments[0]}'" if arguments else "the file"
            raise DataError(
                f"{self.path}: {what} can't be read: libhdf5 {error}, as it may on a damaged "
                "file; fetch the file again."
            ) from error
        if isinstance(answer, DataError):
            raise answer
        return answer


def _serve(connection: Connection, path: str, cpu_seconds: float) -> None:
    """Answer requests, in the process of its own, until nobody is there to ask."""
    store = _Store(path)
    answers: dict[str, Callable[..., Any]] = {
        "open": store.open,
        "has": store.has,
        "node": store.describe,
        "datasets": store.datasets,
        "array": store.array,
        "read": store.read,
    }
    with suppress(EOFError):
        while True:
            request, arguments = connection.recv()
            limit_cpu(cpu_seconds)
            try:
                connection.send(answers[request](*arguments))
            except DataError as error:
                connection.send(error)
            except _DAMAGES as error:
                where = f"{path}: '{arguments[0]}'" if arguments else path
                reason = f"can't be read ({first_line(error)}); fetch the file again, or save it as"
                connection.send(DataError(f"{where} {reason} numbers or UTF-8 strings."))
            limit_cpu(0)


class _Store:
    """The file as h5py sees it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: Any = None

    def open(self) -> None:
        import h5py

        try:
            self._file = h5py.File(self._path, "r")
        except FileNotFoundError as error:
            raise DataError(f"{self._path}: no such file; give the path of a .h5 file.") from error
        except _DAMAGES as error:
            raise DataError(
                f"{self._path}: not an HDF5 file ({first_line(error)}); expected a .h5 file."
            ) from error

    def has(self, path: str) -> bool:
        return path in self._file

    def describe(self, path: str) -> Node:
        node = self._node(path)
        return Node(f"{self._path}: '{path}'", node.shape or (), node.dtype)

    def array(self, path: str) -> Shaped[np.ndarray, "..."]:
        import h5py

        node = self._node(path)
        if h5py.check_string_dtype(node.dtype) is None:
            return np.asarray(node[()])
        return np.asarray(node.asstr()[()]).astype(str)

    def read(self, path: str, key: int | slice | tuple[()]) -> Shaped[np.ndarray, "..."]:
        return np.asarray(self._node(path)[key])

    def datasets(self) -> str:
        found: list[str] = []

        def visit(path: Any, node: Any) -> None:  # a damaged path is of bytes
            if hasattr(node, "shape"):
                found.append(str(path))

        with suppress(*_DAMAGES):
            self._file.visititems(visit)
        return listed(found[:_LISTED]) + (", …" if len(found) > _LISTED else "")

    def _node(self, path: str) -> Any:
        import h5py

        try:
            node = self._file[path]
        except KeyError as error:
            raise DataError(
                f"{self._path}: no dataset '{path}'; the file has {self.datasets()}."
            ) from error
        if not isinstance(node, h5py.Dataset):
            raise DataError(
                f"{self._path}: '{path}' is a group; expected a dataset; the file has "
                f"{self.datasets()}."
            )
        return node
