"""Files at any address, each written atomically: a reader sees the whole file or none.

Addresses are local paths, s3://, gs:// and what fsspec knows. All of raymc writes through
`write_bytes` (any address), `whole_file` or `whole_folder` (local paths).
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import tenacity
from pyarrow import fs

from raymc.addresses import keep_password, redacted, with_password
from raymc.errors import DataError, first_line

_PARTIAL = ".partial"


def open_address(path: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of an address, and the path inside it.

    An address is a local path, or one that pyarrow or fsspec knows, e.g. `s3://bucket/key`. Raises
    `DataError` if its kind is unknown, its package is missing, or it can't be reached, or if a name
    in a local path is not in UTF-8.
    """
    if "://" not in path:
        if not is_unicode(os.path.abspath(path)):
            raise DataError(f"{path}: a name in the path is not in UTF-8; rename it")
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))
    path = keep_password(path)
    try:
        with reaching(path):
            return _from_uri(with_password(path))
    except (ValueError, ImportError) as error:
        raise DataError(
            f"can't open {path}: {redacted(str(error))}; expected a local path, s3://, gs:// or an "
            "address for which fsspec's package is installed"
        ) from error


def is_unicode(name: str) -> bool:
    """Tell whether a name is text: one that isn't in UTF-8 on disk has halves of characters."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _from_uri(path: str) -> tuple[fs.FileSystem, str]:
    try:
        filesystem, inner = fs.FileSystem.from_uri(path)
    except pa.ArrowInvalid:  # pyarrow doesn't know it, fsspec may
        filesystem, inner = fs.FileSystem.from_uri(f"fsspec+{path}")
    return filesystem, inner.rstrip("/")


@contextmanager
def reaching(path: str) -> Iterator[None]:
    """Turn an OSError raised in the block into a `DataError` of one line."""
    try:
        yield
    except OSError as error:
        reason = redacted(first_line(error))
        raise DataError(
            f"can't read or write {path}: {reason}; check the address, permissions, free space "
            "and network"
        ) from error


def near_name(address: str) -> str:
    """Return `; did you mean PATH?` if there is a local file whose name is nearly the same."""
    place = Path(address)
    try:
        names = sorted(os.listdir(place.parent)) if "://" not in address else []
    except (OSError, ValueError):
        names = []
    near = get_close_matches(place.name, names, n=1)
    return f"; did you mean {place.with_name(near[0])}?" if near else ""


def exists(filesystem: fs.FileSystem, path: str) -> bool:
    """Tell whether there is a file at `path`."""
    return filesystem.get_file_info(path).type == fs.FileType.File


def read_bytes(filesystem: fs.FileSystem, path: str) -> bytes:
    """Read a whole file."""
    with filesystem.open_input_stream(path) as stream:
        return stream.read()


def digest(filesystem: fs.FileSystem, path: str) -> str:
    """Return the SHA-256 of a file, in hex, without loading the file into memory."""
    with reaching(path), filesystem.open_input_stream(path, compression=None) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_bytes(filesystem: fs.FileSystem, path: str, data: bytes | pa.Buffer) -> None:
    """Write a file atomically, at any address: under a temporary name beside it, then moved."""
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


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file written there replaces `path` at the end."""
    partial = path.with_name(path.name + _PARTIAL)
    try:
        yield partial
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a local text file atomically; replaces an existing one."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`, which becomes `folder` at the end of the block.

    `replace` deletes an existing `folder` first; without it the move fails if that has files.
    """
    partial = folder.absolute().with_name(folder.name + _PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    # safetensors makes its files 0600, whatever the umask; the folder's mode follows the umask
    mode = partial.stat().st_mode & 0o666
    for path in partial.iterdir():
        if path.is_file() and path.stat().st_mode & 0o777 != mode:
            path.chmod(mode)
    if replace:
        shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def delete_partials(filesystem: fs.FileSystem, folder: str) -> None:
    """Delete the temporary files that interrupted writers left below a folder."""
    for info in filesystem.get_file_info(fs.FileSelector(folder, recursive=True)):
        if info.base_name.endswith(_PARTIAL):
            filesystem.delete_file(info.path)


def parquet_files(filesystem: fs.FileSystem, folder: str) -> Iterator[str]:
    """Yield the Parquet files below a folder, relative to it and sorted, without hidden ones."""
    selector = fs.FileSelector(folder, recursive=True, allow_not_found=True)
    paths = (info.path for info in filesystem.get_file_info(selector))
    for path in sorted(paths):
        relative = path[len(folder) :].lstrip("/")
        hidden = any(part.startswith((".", "_")) for part in relative.split("/"))
        if relative.endswith(".parquet") and not hidden:
            yield relative


def patience(*errors: type[Exception], seconds: float, **options: Any) -> tenacity.Retrying:
    """Return a tenacity object that retries a call on these errors, while a server is unreachable.

    After `seconds` the last error is raised. `options` are further ones of tenacity.
    """
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(errors),
        wait=tenacity.wait_exponential(multiplier=0.1, max=2),
        stop=tenacity.stop_after_delay(seconds),
        reraise=True,
        **options,
    )
