"""What of a working tree goes to a cluster: what git doesn't ignore, as one zip.

Pure: asks git, writes the zip that Ray unpacks on its nodes. Ray's own packing of a folder reads
`.gitignore` files alone, follows links out of the tree and doesn't compress.
"""

import fnmatch
import os
import stat
import subprocess
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from raymc.errors import ConfigError, ResourceError

LIMIT_BYTES = 100 << 20  # ray.dashboard takes no larger request
SECRET_FILES = (
    *(".env", ".env.*", ".netrc", ".git-credentials", ".pypirc"),
    *("*.pem", "*.key", "id_rsa", "id_ed25519", "auth_token"),
)
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Tree:
    """The files of a working tree that are packed.

    Attributes:
        root: The tree's top folder.
        files: Name in the archive, with slashes and relative to the root, to the file that it is
            a copy of.
        left_out: What git doesn't ignore and isn't packed all the same, each with the reason.
    """

    root: Path
    files: Mapping[str, Path]
    left_out: tuple[str, ...] = ()


def tree_root(folder: Path) -> Path:
    """Return the top folder of the git working tree that `folder` is in.

    Raises:
        ConfigError: it is in none.
        ResourceError: there is no git.
    """
    return Path(_git(folder, "rev-parse", "--show-toplevel").removesuffix("\n")).resolve()


def list_tree(root: Path, *, leave_out: Collection[Path] = ()) -> Tree:
    """List what is packed: tracked files and untracked ones that git doesn't ignore.

    Submodules and repositories inside the tree are listed likewise. A link becomes a copy of
    what it leads to if that is packed as well. Files that by their names hold secrets stay here.

    Args:
        root: Top folder of a git working tree.
        leave_out: Folders whose files are not packed: data and runs.

    Raises:
        ConfigError: git can't list the tree, or a name in it is no text.
        ResourceError: there is no git.
    """
    away = {os.path.relpath(folder.resolve(), root) for folder in leave_out}
    names = list(_names(root))
    reasons = {name: reason for name in names if (reason := _reason(name, away))}
    kept = [name for name in names if name not in reasons]
    plain = {name: root / name for name in kept if _is_plain_file(root / name)}
    files = dict(plain)
    for link in (name for name in kept if (root / name).is_symlink()):
        copies = _copies(root, link, plain)
        files.update(copies)
        if not copies:
            reasons[link] = f"{link} (leads to what is not packed)"
    return Tree(root, dict(sorted(files.items())), tuple(sorted(set(reasons.values()))))


def find_text(tree: Tree, text: str) -> str | None:
    """Return the first packed file of up to 1 MiB that contains a text, if there is one."""
    wanted = text.encode()
    for name, path in tree.files.items():
        try:
            if path.stat().st_size <= _CHUNK_BYTES and wanted in path.read_bytes():
                return name
        except OSError:
            continue  # packing it says what is wrong with it
    return None


def write_archive(tree: Tree, archive: Path, *, limit_bytes: int = LIMIT_BYTES) -> int:
    """Write the files into a zip; equal files make equal zips, which Ray uploads once.

    Returns:
        The zip's size in bytes.

    Raises:
        ResourceError: it is larger than the server takes.
        ConfigError: there is no file, or one can't be read.
    """
    if not tree.files:
        raise ConfigError(f"there is nothing to pack in {tree.root}: git knows of no file there")
    with archive.open("wb") as raw, ZipFile(raw, "w") as packed:
        for name, path in tree.files.items():
            try:
                for _ in _written(packed, name, path):
                    if raw.tell() > limit_bytes:
                        raise _too_large(tree, limit_bytes)
            except OSError as error:
                raise ConfigError(f"{path} can't be packed: {error.strerror}") from None
    size = archive.stat().st_size
    if size > limit_bytes:
        raise _too_large(tree, limit_bytes)
    return size


def size_text(count: int | float) -> str:
    """Return a number of bytes as people read it, such as 3.2 MiB."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _written(packed: ZipFile, name: str, path: Path) -> Iterator[int]:
    """Add a file to a zip, chunk by chunk; yields the bytes of each."""
    status = path.stat()
    entry = ZipInfo(name)  # with the time of 1980, whenever the file was written
    entry.compress_type = ZIP_DEFLATED
    entry.file_size = status.st_size
    mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
    entry.external_attr = (stat.S_IFREG | mode) << 16
    with path.open("rb") as source, packed.open(entry, "w") as target:
        while chunk := source.read(_CHUNK_BYTES):
            yield target.write(chunk)


def _too_large(tree: Tree, limit_bytes: int) -> ResourceError:
    sizes = {name: path.stat().st_size for name, path in tree.files.items()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    shown = ", ".join(f"{name} ({size_text(sizes[name])})" for name in largest)
    return ResourceError(
        f"{tree.root} packs to more than the {size_text(limit_bytes)} that the job server takes; "
        f"the largest files are {shown}: have git ignore what the job doesn't need"
    )


def _names(root: Path) -> Iterator[str]:
    """Yield the names, relative to a repository's top folder, of what git doesn't ignore."""
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in sorted(set(listed.split("\0")) - {""}):
        path = root / name
        if any("\udc80" <= letter <= "\udcff" for letter in name):
            raise ConfigError(f"{str(path)!r} can't be packed: its name is not UTF-8")
        if path.is_dir() and not path.is_symlink():
            if (path / ".git").exists():
                yield from (f"{name.rstrip('/')}/{inner}" for inner in _names(path))
        else:
            yield name


def _reason(name: str, away: Collection[str]) -> str:
    """Return what is not packed, and why; empty if nothing speaks against it."""
    folder = next((folder for folder in away if name.startswith(f"{folder}/")), None)
    if folder is not None:
        return f"{folder}/ (data or runs)"
    if any(fnmatch.fnmatchcase(name.rpartition("/")[2], pattern) for pattern in SECRET_FILES):
        return f"{name} (may hold secrets)"
    return f"{name} (Ray unpacks no name with a backslash)" if "\\" in name else ""


def _is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _copies(root: Path, link: str, files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the packed files that a link leads to, by the names that they have through it."""
    target = os.path.relpath(os.path.realpath(root / link), os.path.realpath(root))
    if target in files:
        return {link: files[target]}
    inside = "" if target == "." else f"{target}/"
    return {
        f"{link}/{name.removeprefix(inside)}": path
        for name, path in files.items()
        if name.startswith(inside)
    }


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, env={**os.environ, "LC_ALL": "C"}
        )
    except FileNotFoundError:
        raise ResourceError(
            "git, which says what belongs to the working tree, is not installed"
        ) from None
    if done.returncode:
        reason = os.fsdecode(done.stderr).strip().partition("\n")[0]
        if "not a git repository" in reason:
            raise ConfigError(
                f"{folder} is in no git working tree, so nothing says what belongs to the job: "
                "run `git init` in its top folder, and list data and secrets in .gitignore"
            )
        raise ConfigError(f"git can't list {folder}: {reason}")
    return os.fsdecode(done.stdout)
