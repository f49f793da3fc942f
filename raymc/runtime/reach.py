"""What a job on a cluster can reach: the folder that all nodes share, storage, the files it brings.

`raymc submit` asks here before it sends anything. A path that exists on this machine alone would be
noticed on the cluster only after a node has started, or never: a run that writes to a node's own
disk loses its checkpoints with the node.
"""

import fnmatch
import os
from collections.abc import Collection
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from raymc.errors import ConfigError

SHARED_FOLDER = "/mnt/raymc"  # where all definitions in `cluster/` mount the shared file system
_OF_ONE_MACHINE = {"file", "local", "memory"}  # addresses that every machine reads as its own
_LOOPBACK = {"localhost", "ip6-localhost", "::1", "0.0.0.0", "::"}


def check_folder(key: str, value: str, shared: str) -> None:
    """Refuse a folder of data or runs that not all nodes of a cluster see.

    Args:
        key: The setting that names it.
        value: Its path or address.
        shared: The folder that all nodes share.

    Raises:
        ConfigError: they don't; the message says what to give instead.
    """
    instead = f"--set {key}={_within(shared, value)}"
    if "://" in value:
        _check_scheme(key, value, f"give a path that all nodes share, such as {instead}")
    elif not os.path.isabs(value):
        raise ConfigError(
            f"setting {key} = {value!r}: it would be in the job's own copy of the tree, which Ray "
            f"deletes; give a folder that all nodes share, such as {instead}"
        )
    elif not is_shared(value, shared):
        raise ConfigError(
            f"setting {key} = {value!r}: the cluster's nodes share {shared}, and may not see other "
            f"folders of this machine; give {instead}, or name the folder that they share with "
            "--shared"
        )


def check_input(key: str, value: str, shared: str, folder: str, files: Collection[str]) -> None:
    """Refuse files to read that are neither sent with the job nor seen by all nodes.

    Args:
        key: The setting that names them.
        value: A path, pattern or address.
        shared: The folder that all nodes share.
        folder: Folder of the sent tree in which the job starts.
        files: Names of the files that are sent, relative to the top of the tree.

    Raises:
        ConfigError: the job would not find them; the message says why and what to do.
    """
    if "://" in value:
        _check_scheme(key, value, f"copy it to {shared} on the cluster and give that path")
        return
    if os.path.isabs(value):
        if not is_shared(value, shared):
            raise ConfigError(
                f"setting {key} = {value!r} is on this machine, and the cluster's nodes may not "
                f"see it: copy it to {shared} there and give that path{_unless_made(key)}"
            )
        return
    name = os.path.normpath(os.path.join(folder, value))
    inside = name != ".." and not name.startswith("../")
    if not inside or not any(_names(name, file) for file in files):
        why = "git ignores it, or it is not there" if inside else "it is outside the working tree"
        raise ConfigError(
            f"setting {key} = {value!r} would not be sent with the job, because {why}: copy it to "
            f"{shared} on the cluster and give that path{_unless_made(key)}"
        )


def check_server(key: str, value: str, shared: str) -> None:
    """Refuse a server or database that only this machine, or one node, reaches.

    Args:
        key: What names it, such as `setting tracking.uri`.
        value: Its address.
        shared: The folder that all nodes share.

    Raises:
        ConfigError: it is one; the message says what to give instead.
    """
    if shared == "/" or "://" not in value:  # all nodes are this machine
        return
    parts = urlsplit(value)
    kind = parts.scheme.partition("+")[0]
    if kind in ("sqlite", *_OF_ONE_MACHINE):
        path = parts.path.removeprefix("/" if kind == "sqlite" else "")  # sqlite:////absolute
        if path and not (os.path.isabs(path) and is_shared(path, shared)):
            raise ConfigError(
                f"{key} = {value!r}: the cluster's nodes do not see that file; give a server or "
                f"database that they reach, or a file in {shared}"
            )
    elif (host := parts.hostname) and (host in _LOOPBACK or host.startswith("127.")):
        raise ConfigError(
            f"{key} = {value!r}: on the cluster, {host} is the node that the job runs on; give "
            "the name or address that the server has there"
        )


def is_shared(path: str, shared: str) -> bool:
    """Return whether an absolute path is in the folder that all nodes share."""
    return PurePosixPath(os.path.normpath(path)).is_relative_to(os.path.normpath(shared))


def _check_scheme(key: str, value: str, instead: str) -> None:
    scheme = value.partition("://")[0].lower()
    if scheme.rpartition("+")[2] in _OF_ONE_MACHINE:
        raise ConfigError(
            f"setting {key} = {value!r}: each node would look on its own disk or in its own "
            f"memory; {instead}"
        )


def _within(shared: str, value: str) -> str:
    """Return where in the shared folder a path of this machine could be copied."""
    path = value.partition("://")[2] if "://" in value else value
    last = PurePosixPath(os.path.normpath(path)).name if os.path.isabs(path) else path
    return str(PurePosixPath(shared) / (last or "FOLDER"))


def _names(name: str, file: str) -> bool:
    """Return whether a path or pattern names a file, or a folder that the file is in."""
    return name == "." or file == name or file.startswith(f"{name}/") or fnmatch.fnmatch(file, name)


def _unless_made(key: str) -> str:
    made = "; if the dataset is there already, add --set data.make=null"
    return made if key.startswith("data.make.") else ""
