"""Datasets of an HDF5 file to rows, read clip by clip: for features too large for memory.

Like `npz.py`, from one .h5 file whose tokens are padded, end to end with offsets, or in one HDF5
dataset per clip. h5py runs in a child process, because libhdf5 may crash on a damaged file, or
loop forever.

Axes: N clips, T tokens, S tokens of all clips, D dim.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np
from jaxtyping import Shaped

from raymc.config import Hdf5Config
from raymc.data.storage import digest, open_address
from raymc.errors import ConfigError, DataError, ResourceError, first_line
from raymc.formats.arrays import (
    FileArray,
    check_clips,
    check_length,
    check_rates,
    listed,
    modality_of,
)
from raymc.formats.recipe import DatasetRecipe
from raymc.runtime.child_process import Child, ChildError, limit_cpu

MOST_CPU_SECONDS = 60.0  # for one request; gigabytes are inflated in less
# what h5py raises on a damaged file
_DAMAGES = (OSError, RuntimeError, TypeError, ValueError, LookupError, MemoryError)
_LISTED = 8  # datasets named in a message
ID = "{id}"  # in the path of a dataset that each clip has for itself
Reader = Callable[[int], Shaped[np.ndarray, "..."] | None]  # the tokens of a clip


def hdf5(config: Hdf5Config) -> DatasetRecipe:
    """Return the recipe of a dataset in one HDF5 file.

    Labels, ids and offsets are read at once, a clip's tokens when its row is made: the file stays
    open, and NaN is found when the row is written. float64 is stored as float32. A modality with
    {id} in its path may be missing in some clips.

    Raises:
        ConfigError: `rates_hz` or `offsets` don't fit `modalities`.
        DataError: The file or a dataset is missing or invalid, or doesn't fit the others.
        ResourceError: h5py isn't installed.
    """
    check_rates(config.rates_hz, config.modalities)
    _check_offsets(config)
    file = Hdf5File(config.file)
    roles = (config.labels, config.classes, config.ids, config.split)
    arrays = {name: file.array(name) for name in roles}
    labels, clips = arrays[config.labels], check_clips(config, arrays)
    notes: list[str] = []
    found = {
        name: _find_tokens(
            file,
            path,
            offsets=config.offsets.get(name),
            labels=labels,
            ids=clips.ids,
            notes=notes,
        )
        for name, path in config.modalities.items()
    }
    return DatasetRecipe(
        vocabulary=clips.vocabulary,
        modalities=tuple(
            modality_of(
                node.where,
                node.shape,
                node.dtype,
                name=name,
                rate_hz=config.rates_hz[name],
                encoder=f"{Path(config.file).name}: {config.modalities[name]}",
            )
            for name, (node, _) in found.items()
        ),
        splits=clips.rows(lambda clip: {name: read(clip) for name, (_, read) in found.items()}),
        provenance={
            "file": Path(config.file).name,
            "sha256": digest(*open_address(config.file)),
            "labels": config.labels,
            "offsets": dict(config.offsets),
            "notes": notes,
        },
        license=config.license,
    )


def _check_offsets(config: Hdf5Config) -> None:
    for name in config.offsets:
        path = config.modalities.get(name)
        if path is None:
            raise ConfigError(
                f"offsets.{name}: no such modality; `modalities` has {listed(config.modalities)}."
            )
        if ID in path:
            raise ConfigError(
                f"offsets.{name}: '{path}' is one dataset per clip, which needs no offsets; "
                "leave out one of the two."
            )


@dataclass(frozen=True)
class Node:
    """The type and shape of a dataset; `where` is the beginning of messages about it."""

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype


class Hdf5File:
    """An open file, read by h5py in a child process.

    Each method raises `DataError` for a damaged dataset: libhdf5 reports an error, crashes, or
    doesn't finish.
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
        """Return whether there is a dataset or group at a path."""
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
            with suppress(OSError):  # the child has ended; `receive` says why
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
    """Answer requests by the methods of `_Store`, in the child, until the connection closes."""
    store = _Store(path)
    with suppress(EOFError):
        while True:
            request, arguments = connection.recv()
            limit_cpu(cpu_seconds)
            try:
                connection.send(getattr(store, request)(*arguments))
            except DataError as error:
                connection.send(error)
            except _DAMAGES as error:
                where = f"{path}: '{arguments[0]}'" if arguments else path
                reason = f"can't be read ({first_line(error)}); fetch the file again, or save it as"
                connection.send(DataError(f"{where} {reason} numbers or UTF-8 strings."))
            limit_cpu(0.0)


class _Store:
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

    def node(self, path: str) -> Node:
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


def _find_tokens(
    file: Hdf5File,
    path: str,
    *,
    offsets: str | None,
    labels: FileArray,
    ids: Sequence[str],
    notes: list[str],
) -> tuple[Node, Reader]:
    """Return the dataset that has a modality's type and dim, and a reader of a clip's tokens.

    `path` is [clips, tokens, dim]; with `offsets`, the path of [clips + 1] numbers, it is [tokens
    of all clips, dim]; with {id} in it, [tokens, dim] of each clip, which may be missing.
    """
    if ID in path:
        return _per_clip(file, path, ids, notes)
    if offsets is not None:
        return _end_to_end(file, path, file.array(offsets), labels)
    return _padded(file, path, labels)


def _padded(file: Hdf5File, path: str, labels: FileArray) -> tuple[Node, Reader]:
    node = file.node(path)
    if len(node.shape) != 3:
        raise DataError(
            f"{node.where} has shape {node.shape}; expected [clips, tokens, dim], or [tokens of "
            "all clips, dim] with `offsets`."
        )
    check_length(labels, path, node.shape[0])
    return node, lambda clip: file.read(path, clip)


def _end_to_end(
    file: Hdf5File, path: str, offsets: FileArray, labels: FileArray
) -> tuple[Node, Reader]:
    node = file.node(path)
    if len(node.shape) != 2:
        raise DataError(
            f"{node.where} has shape {node.shape}; expected [tokens of all clips, dim], as it "
            "has offsets."
        )
    starts = _starts(offsets, len(labels.values), node.shape[0])
    return node, lambda clip: file.read(path, slice(starts[clip], starts[clip + 1]))


def _starts(offsets: FileArray, clips: int, tokens: int) -> list[int]:
    values = offsets.values
    if values.dtype.kind not in "iu" or values.shape != (clips + 1,):
        raise DataError(
            f"{offsets.where} holds {values.dtype} of shape {values.shape}; expected "
            f"{clips + 1} whole numbers, one more than there are clips."
        )
    starts: list[int] = values.tolist()
    if starts[0] != 0 or starts[-1] != tokens or starts != sorted(starts):
        raise DataError(
            f"{offsets.where} runs from {starts[0]} to {starts[-1]}; expected numbers that rise "
            f"from 0 to {tokens}, the number of tokens."
        )
    return starts


def _per_clip(
    file: Hdf5File, path: str, ids: Sequence[str], notes: list[str]
) -> tuple[Node, Reader]:
    paths = [path.replace(ID, clip) for clip in ids]
    present = [file.has(clip_path) for clip_path in paths]
    missing = [clip_path for clip_path, found in zip(paths, present) if not found]
    if len(missing) == len(paths):
        raise DataError(
            f"{file.path}: no dataset '{paths[0]}', nor one for any other id; the file has "
            f"{file.datasets()}."
        )
    if missing:
        notes.append(
            f"{path}: {len(missing)} of {len(paths)} clips have no such dataset, e.g. "
            f"'{missing[0]}'; the modality is missing there."
        )
    first = file.node(paths[present.index(True)])
    if len(first.shape) != 2:
        raise DataError(f"{first.where} has shape {first.shape}; expected [tokens, dim].")
    return first, lambda clip: file.read(paths[clip], ()) if present[clip] else None
