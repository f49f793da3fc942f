"""What `raymc submit` packs of a working tree: the files that git does not ignore, as one zip.

`git ls-files` lists the files: tracked ones, and untracked ones that no ignore rule excludes. Ours
is what it can't do:
- It lists no untracked files of submodules and other repositories inside: we ask git in each.
- It knows neither our data and runs nor files of credentials: we leave those out, and say so.
- It lists links, which may lead out of the tree, and which Ray does not unpack as links: we pack
  copies of what is packed itself, but not of a folder that the link is in.
- It lists the files of other working trees of the same repository (`git worktree`) inside.
- It can't pack untracked files: we write the zip, always the same for the same files, so that
  Ray uploads it once, and stop at the size that the job server accepts.
Ray's own packing reads only `.gitignore` files, follows links out of the tree and does not
compress.
"""

import fnmatch
import hashlib
import os
import re
import stat
import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from raymc.errors import ConfigError, ResourceError
from raymc.runtime.provenance import Code

LIMIT_BYTES = 100 << 20  # the largest request that Ray's dashboard accepts
# Files of credentials, by name or end of the path, in any case. After the documentation of the
# programs that write them and gitrob's signatures (github.com/michenriksen/gitrob), without those
# that are as likely to be code, logs or a database.
SECRET_FILES = (
    *(".env", ".env.*", "*.env", ".envrc", ".netrc", "_netrc", ".pgpass", ".htpasswd", "htpasswd"),
    *(".git-credentials", ".npmrc", ".pypirc", ".dockercfg", ".dockerconfigjson", ".s3cfg"),
    *(".my.cnf", ".mylogin.cnf", ".renviron", ".modal.toml", ".comet.config", "*/wandb/settings"),
    *(".boto", ".databrickscfg", ".vault-token", ".huggingface_token", "auth_token"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.pkcs12", "*.ppk", "*.jks", "*.keystore", "*.kdbx"),
    *("*.keypair", "*.ovpn", "*.kwallet", "*.keychain", "secring.gpg"),
    *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "id_*_sk"),
    *("*_rsa", "*_dsa", "*_ecdsa", "*_ed25519"),
    *("credentials", ".credentials", "credentials.json", "credentials.toml", "credentials.y*ml"),
    *("credentials.xml", "credentials.db", "credentials.tfrc.json"),
    *("application_default_credentials.json", "client_secret*.json", "service-account*.json"),
    *("gha-creds-*.json", "*.publishsettings"),
    *("service_account*.json", "serviceaccount*.json", "accesstokens.json", "kaggle.json"),
    *(
        "secret.y*ml",
        "secrets.y*ml",
        "secrets.json",
        "secrets.toml",
        "secrets.ini",
        "*.tfvars",
        "*.tfstate",
    ),
    *("kubeconfig", "*.kubeconfig", "*/.docker/config.json", "rclone.conf"),
    *("*/huggingface/token", "*/.huggingface/token", "*/gh/hosts.yml"),
    *("*/.ssh/*", "*/.kube/*", "*/.aws/*", "*/.azure/*", "*/.config/gcloud/*"),
)
_EXAMPLE = re.compile(r"[._-](example|sample|template|tmpl|dist)(\.|$)|\.pub$")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Tree:
    """The files of a working tree that are packed.

    Attributes:
        root: Top folder of the tree.
        files: Names in the archive, relative to the root, and the files to copy there.
        left_out: What git does not ignore but is not packed, each with the reason.
        commit: The commit that is checked out; empty before the first.
        dirty: Whether the files differ from that commit.
    """

    root: Path
    files: Mapping[str, Path]
    left_out: tuple[str, ...] = ()
    commit: str = ""
    dirty: bool = False


def tree_root(folder: Path) -> Path:
    """Return the top folder of the git working tree that `folder` is in.

    Raises:
        ConfigError: it is not in a working tree.
        ResourceError: git is not installed.
    """
    return Path(git(folder, "rev-parse", "--show-toplevel").removesuffix("\n")).resolve()


def list_tree(root: Path, *, leave_out: Collection[Path] = (), allow: Collection[str] = ()) -> Tree:
    """List the files to pack.

    Args:
        root: Top folder of a git working tree.
        leave_out: Folders of data and runs, whose files are not packed.
        allow: Names of files that are packed although their names are those of secrets.

    Raises:
        ConfigError: git can't list the tree, or a name in it is not UTF-8.
        ResourceError: git is not installed.
    """
    away = {os.path.relpath(folder.resolve(), root) for folder in leave_out}
    reasons: dict[str, str] = {}
    kept = []
    for name in _names(root, reasons):
        if reason := _reason(name, away, allow):
            reasons[name] = reason
        else:
            kept.append(name)
    links = {name for name in kept if (root / name).is_symlink()}
    # a tracked file that was deleted is listed, but not there
    plain = {name: root / name for name in kept if name not in links and (root / name).is_file()}
    files = dict(plain)
    for link in links:
        if _leads_up(root / link):
            reasons[link] = f"{link} (a link to a folder that it is in)"
            continue
        copies = _copies(root, link, plain)
        files.update(copies)
        if not copies:
            reasons[link] = f"{link} (leads to what is not packed)"
    return Tree(
        root,
        files=dict(sorted(files.items())),
        left_out=tuple(sorted(set(reasons.values()))),
        commit=_commit(root),
        dirty=bool(_changed(root) - set(reasons)),
    )


def list_ignored(root: Path) -> tuple[str, ...]:
    """Return the files that git ignores in a tree; a folder in place of all its files.

    Raises:
        ConfigError: git can't list the tree.
        ResourceError: git is not installed.
    """
    given = ("--others", "--ignored", "--exclude-standard", "--directory")
    return tuple(sorted(filter(None, git(root, "ls-files", "-z", *given).split("\0"))))


def find_text(tree: Tree, text: str) -> str | None:
    """Return the first packed file of up to 1 MiB that contains a text, or None."""
    wanted = text.encode()
    for name, path in tree.files.items():
        try:
            if path.stat().st_size <= _CHUNK_BYTES and wanted in path.read_bytes():
                return name
        except OSError:
            continue  # packing it reports what is wrong
    return None


def write_archive(tree: Tree, archive: Path, *, limit_bytes: int = LIMIT_BYTES) -> int:
    """Write the files into a zip, always the same for the same files.

    Returns:
        The zip's size in bytes.

    Raises:
        ResourceError: it is larger than the server accepts.
        ConfigError: there are no files, or one can't be read.
    """
    if not tree.files:
        raise ConfigError(f"nothing to pack in {tree.root}: git lists no files there")
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


@contextmanager
def archived(tree: Tree) -> Iterator[tuple[Path, int, Code]]:
    """Write the files into a zip that is deleted at the end; yields it, its size and its code.

    Raises:
        ResourceError: it is larger than the server accepts.
        ConfigError: there are no files, or one can't be read.
    """
    with TemporaryDirectory() as folder:
        archive = Path(folder) / "tree.zip"
        size = write_archive(tree, archive)
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield archive, size, Code(commit=tree.commit, dirty=tree.dirty, archive=digest)


def size_text(count: int | float) -> str:
    """Return a number of bytes for people, such as 3.2 MiB."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _written(packed: ZipFile, name: str, path: Path) -> Iterator[int]:
    """Add a file to a zip; yield the size of each chunk."""
    status = path.stat()
    entry = ZipInfo(name)  # dated 1980, whenever the file was written
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
        f"{tree.root} packs to more than the {size_text(limit_bytes)} that the job server accepts; "
        f"the largest files are {shown}: make git ignore what the job does not need"
    )


def _names(root: Path, reasons: dict[str, str]) -> Iterator[str]:
    """Yield the names that git lists in a repository and those inside it, relative to its top.

    Other working trees of the repository are left out, and their names added to `reasons`.
    """
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        path = root / name
        if any("\udc80" <= letter <= "\udcff" for letter in name):
            raise ConfigError(f"{str(path)!r} can't be packed: its name is not UTF-8")
        if path.is_symlink() or not path.is_dir():
            yield name
        elif (path / ".git").exists():  # git lists the folder of a repository inside, no more
            if _is_worktree(path):
                reasons[name] = f"{name} (another working tree of this repository)"
            else:
                yield from (f"{name.rstrip('/')}/{inner}" for inner in _names(path, reasons))


def _commit(root: Path) -> str:
    try:
        return git(root, "rev-parse", "--verify", "HEAD").strip()
    except ConfigError:  # nothing is committed
        return ""


def _changed(root: Path) -> set[str]:
    """Return the names of files that differ from the commit or are not in it."""
    given = ("--porcelain", "-z", "--untracked-files=all", "--no-renames")
    return {entry[3:] for entry in git(root, "status", *given).split("\0") if entry}


def _is_worktree(folder: Path) -> bool:
    """Return whether `git worktree` made a folder; submodules have a file `.git` too."""
    mark = folder / ".git"
    return mark.is_file() and "/worktrees/" in mark.read_text(errors="replace")


def _reason(name: str, away: Collection[str], allow: Collection[str]) -> str:
    """Return why a name is not packed; empty if it is."""
    folder = next((folder for folder in away if name.startswith(f"{folder}/")), None)
    if folder is not None:
        return f"{folder}/ (data or runs)"
    if name not in allow and is_secret_file(name):
        return f"{name} (may hold secrets)"
    return f"{name} (Ray can't unpack a name with a backslash)" if "\\" in name else ""


def is_secret_file(name: str) -> bool:
    """Return whether a file's name in the tree is one of files of credentials."""
    path = f"/{name.lower()}"
    last = path.rpartition("/")[2]
    if _EXAMPLE.search(last):
        return False
    return any(
        fnmatch.fnmatchcase(path if "/" in pattern else last, pattern) for pattern in SECRET_FILES
    )


def _leads_up(link: Path) -> bool:
    """Return whether a link leads to a folder that it is in, whose files would be packed twice."""
    return Path(os.path.realpath(link.parent)).is_relative_to(os.path.realpath(link))


def _copies(root: Path, link: str, files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the packed files that a link leads to, under their names through the link."""
    target = os.path.relpath(os.path.realpath(root / link), os.path.realpath(root))
    if target in files:
        return {link: files[target]}
    return {
        f"{link}/{name.removeprefix(f'{target}/')}": path
        for name, path in files.items()
        if name.startswith(f"{target}/")
    }


def git(folder: Path, *arguments: str) -> str:
    """Return what a command of git prints in a folder.

    Raises:
        ConfigError: git fails there.
        ResourceError: git is not installed.
    """
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, env={**os.environ, "LC_ALL": "C"}
        )
    except FileNotFoundError:
        raise ResourceError(
            "git is not installed; it says which files belong to the working tree"
        ) from None
    if done.returncode:
        reason = os.fsdecode(done.stderr).strip().partition("\n")[0]
        if "not a git repository" in reason:
            raise ConfigError(
                f"{folder} is not in a git working tree, so nothing says which files belong to "
                "the job: run `git init` in its top folder, and list data and secrets in .gitignore"
            )
        raise ConfigError(f"git can't list {folder}: {reason}")
    return os.fsdecode(done.stdout)
