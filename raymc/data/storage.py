"""Files at any address: local paths, s3://, gs://, and what fsspec knows; written whole or not.

Pure: pyarrow.fs only. The shards need a place where nobody ever sees half a file.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pyarrow as pa
import tenacity
from pyarrow import fs

from raymc.errors import DataError, first_line

_PARTIAL = ".partial"


def open_address(path: str) -> tuple[fs.FileSystem, str]:
    """Find the file system of an address, and the path inside of it.

    Args:
        path: A local path, or an address that pyarrow or fsspec knows, e.g. `s3://bucket/key`.

    Raises:
        DataError: The kind of address is unknown, lacks its package, or can't be reached.
    """
    if "://" not in path:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))
    try:
        with reaching(path):
            return _from_uri(path)
    except (ValueError, ImportError) as error:
        raise DataError(
            f"can't open {path}: {error}; expected a local path, s3://, gs:// or an address for "
            "which fsspec's package is installed"
        ) from error


def _from_uri(path: str) -> tuple[fs.FileSystem, str]:
    try:
        filesystem, inner = fs.FileSystem.from_uri(path)
    except pa.ArrowInvalid:  # pyarrow doesn't know it, fsspec may
        filesystem, inner = fs.FileSystem.from_uri(f"fsspec+{path}")
    return filesystem, inner.rstrip("/")


@contextmanager
def reaching(path: str) -> Iterator[None]:
    """Turn the refusal of a file system into an error of one line.

    Raises:
        DataError: The block met an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = first_line(error)
        raise DataError(
            f"can't read or write {path}: {reason}; check the address, rights, space and network"
        ) from error


def exists(filesystem: fs.FileSystem, path: str) -> bool:
    """Tell whether there is a file at `path`."""
    return filesystem.get_file_info(path).type == fs.FileType.File


def read_bytes(filesystem: fs.FileSystem, path: str) -> bytes:
    """Read a whole file."""
    with filesystem.open_input_stream(path) as stream:
        return stream.read()


def digest(filesystem: fs.FileSystem, path: str) -> str:
    """Return the SHA-256 of a file, in hex, without holding the file.

    Raises:
        DataError: It can't be read.
    """
    with reaching(path), filesystem.open_input_stream(path, compression=None) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_bytes(filesystem: fs.FileSystem, path: str, data: bytes | pa.Buffer) -> None:
    """Write a whole file: to a temporary name beside it, then moved, so that it is never half."""
    folder, name = path.rsplit("/", 1)
    filesystem.create_dir(folder, recursive=True)
    partial = f"{folder}/.{name}.{uuid4().hex}{_PARTIAL}"
    try:
        with filesystem.open_output_stream(partial) as stream:
            stream.write(data)
        filesystem.move(partial, path)
    except BaseException:
        if exists(filesystem, partial):
            filesystem.delete_file(partial)
        raise


def delete_partials(filesystem: fs.FileSystem, folder: str) -> None:
    """Delete the temporary files that killed writers left below a folder."""
    for info in filesystem.get_file_info(fs.FileSelector(folder, recursive=True)):
        if info.base_name.endswith(_PARTIAL):
            filesystem.delete_file(info.path)


def parquet_files(filesystem: fs.FileSystem, folder: str) -> Iterator[str]:
    """Yield the Parquet files below a folder, relative to it and sorted; hidden ones left out."""
    selector = fs.FileSelector(folder, recursive=True, allow_not_found=True)
    paths = (info.path for info in filesystem.get_file_info(selector))
    for path in sorted(paths):
        relative = path[len(folder) :].lstrip("/")
        hidden = any(part.startswith((".", "_")) for part in relative.split("/"))
        if relative.endswith(".parquet") and not hidden:
            yield relative


# Trying again while a server or storage is away. Pure.


def patience(*errors: type[Exception], seconds: float, **options: Any) -> tenacity.Retrying:
    """Return what calls a function again and again while it raises one of `errors`.

    Args:
        errors: of which it is known that they may pass.
        seconds: for how long; then the last error is raised.
        options: tenacity's further ones.
    """
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(errors),
        wait=tenacity.wait_exponential(multiplier=0.1, max=2),
        stop=tenacity.stop_after_delay(seconds),
        reraise=True,
        **options,
    )
