"""What of a working tree is packed: what git doesn't ignore, no data, no secrets, once."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile

import pytest

from raymc.errors import ConfigError, RaymcError, ResourceError
from raymc.runtime.packing import (
    SECRET_FILES,
    Tree,
    find_text,
    list_ignored,
    list_tree,
    tree_root,
    write_archive,
)


def git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def make_tree(root: Path, files: Mapping[str, str], *, tracked: tuple[str, ...] = ()) -> Path:
    """A git working tree with some files, a few of them tracked."""
    root.mkdir(parents=True, exist_ok=True)
    git(root, "init", "--quiet")
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if tracked:
        git(root, "add", "--force", "--", *tracked)
    return root


def packed(tree: Tree, archive: Path) -> dict[str, bytes]:
    write_archive(tree, archive)
    with ZipFile(archive) as written:
        assert written.testzip() is None
        return {name: written.read(name) for name in written.namelist()}


def test_what_git_does_not_ignore(tmp_path: Path) -> None:
    files = {
        ".gitignore": "*.log\n/big/\n",
        "train.yaml": "a: 1\n",
        "with spaces/ünïcode 'quoted'\tname.txt": "b",
        "new/untracked.py": "c",
        "run.log": "d",
        "kept.log": "e",
        "big/data.bin": "f",
        "sub/.gitignore": "secret.txt\n",
        "sub/secret.txt": "g",
    }
    root = make_tree(tmp_path / "tree", files, tracked=("train.yaml", "kept.log"))
    (root / ".git/info/exclude").write_text("/new/excluded.py\n")
    (root / "new/excluded.py").write_text("h")
    left_here = {"run.log", "big/data.bin", "sub/secret.txt"}
    found = packed(list_tree(root), tmp_path / "tree.zip")
    assert found == {name: text.encode() for name, text in files.items() if name not in left_here}


def test_a_tracked_file_that_is_gone(tmp_path: Path) -> None:
    root = make_tree(tmp_path, {"here": "1", "gone": "2"}, tracked=("here", "gone"))
    (root / "gone").unlink()
    assert list(list_tree(root).files) == ["here"]


def test_the_tree_is_that_of_the_repository(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree", {"a/b/c": ""})
    assert tree_root(root / "a" / "b") == tree_root(root) == root.resolve()


def test_repositories_inside(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree", {"top": "1"})
    make_tree(root / "inner", {".gitignore": "out\n", "kept": "2", "out": "3"}, tracked=("kept",))
    files = list_tree(root).files
    assert list(files) == ["inner/.gitignore", "inner/kept", "top"]


def test_data_and_runs_stay_here(tmp_path: Path) -> None:
    files = {"data/digits/train/0": "", "data/readme": "", "runs/a/b": "", "runs2/c": ""}
    root = make_tree(tmp_path / "tree", files, tracked=("data/digits/train/0",))
    away = [root / "data/digits", root / "runs", tmp_path / "elsewhere"]
    tree = list_tree(root, leave_out=away)
    assert list(tree.files) == ["data/readme", "runs2/c"]
    assert tree.left_out == ("data/digits/ (data or runs)", "runs/ (data or runs)")


@pytest.mark.parametrize("pattern", SECRET_FILES)
def test_files_of_secrets_stay_here(tmp_path: Path, pattern: str) -> None:
    name = f"deep/{pattern.replace('*', 'server').upper()}"
    root = make_tree(tmp_path, {name: "password", "code.py": ""}, tracked=(name,))
    tree = list_tree(root)
    assert list(tree.files) == ["code.py"]
    assert tree.left_out == (f"{name} (may hold secrets)",)
    assert list(list_tree(root, allow=[name]).files) == sorted([name, "code.py"])


def test_names_that_only_look_like_secrets(tmp_path: Path) -> None:
    names = ["credentials.py", "test_credentials.md", "docs/credentials.md", "secrets.py"]
    names += ["tokenizer.json", "config.json", "environment.yml", "keys.py", "id_rsa.pub"]
    names += [".env.example", "secrets.yaml.sample", ".env.template.local", "kube/config"]
    tree = list_tree(make_tree(tmp_path, dict.fromkeys(names, "")))
    assert list(tree.files) == sorted(names)
    assert tree.left_out == ()


def test_links_lead_to_what_is_packed(tmp_path: Path) -> None:
    files = {".gitignore": "hidden\n", "code/a b.py": "1", "code/deep/c.py": "2", "hidden": "3"}
    root = make_tree(tmp_path / "tree", files)
    (tmp_path / "outside").write_text("4")
    links = {
        "to file": "code/a b.py",
        "to folder": "code",
        "to link": "to file",
        "absolute": str(root / "code/deep"),
        "lost": "nowhere",
        "loop": "loop",
        "out": "../outside",
        "to hidden": "hidden",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    tree = list_tree(root)
    found = packed(tree, tmp_path / "tree.zip")
    assert found == {
        ".gitignore": b"hidden\n",
        "code/a b.py": b"1",
        "code/deep/c.py": b"2",
        "to file": b"1",
        "to link": b"1",
        "to folder/a b.py": b"1",
        "to folder/deep/c.py": b"2",
        "absolute/c.py": b"2",
    }
    reason = "(leads to what is not packed)"
    assert tree.left_out == tuple(f"{x} {reason}" for x in ("loop", "lost", "out", "to hidden"))


def test_no_tree_is_packed_twice(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree", {"a": "1", "code/b": "2"}, tracked=("a",))
    git(root, "-c", "user.name=me", "-c", "user.email=me", "commit", "--quiet", "-m", "a")
    git(root, "worktree", "add", "--quiet", "other")
    (root / "inner").mkdir()
    links = {"itself": ".", "code/up": "..", "code/here": str(root / "code"), "above": ".."}
    links |= {"code/to a": "../a", "inner/code": "../code"}
    for name, target in links.items():
        (root / name).symlink_to(target)
    tree = list_tree(root)
    assert list(tree.files) == ["a", "code/b", "code/to a", "inner/code/b"]
    is_in = "(a link to a folder that it is in)"
    assert tree.left_out == (
        *(f"{name} {is_in}" for name in ("above", "code/here", "code/up", "itself")),
        "other/ (another working tree of this repository)",
    )


def test_the_commit_that_is_packed(tmp_path: Path) -> None:
    root = make_tree(tmp_path, {"a": "1", ".env": "2", "gone": "", ".gitignore": "x\n", "x": ""})
    assert (list_tree(root).commit, list_tree(root).dirty) == ("", True)
    git(root, "add", "--all")
    git(root, "-c", "user.name=me", "-c", "user.email=me", "commit", "--quiet", "-m", "a")
    head = git(root, "rev-parse", "HEAD").strip()
    (root / ".env").write_text("3")  # stays here anyway
    (root / "runs").mkdir()
    (root / "runs/new").touch()

    def found() -> tuple[str, bool]:
        tree = list_tree(root, leave_out=[root / "runs"])
        return tree.commit, tree.dirty

    assert found() == (head, False)
    (root / "new").touch()
    assert found() == (head, True)
    (root / "new").unlink()
    (root / "gone").unlink()
    assert found() == (head, True)


def test_what_git_ignores_is_listed(tmp_path: Path) -> None:
    files = {".gitignore": "*.log\n/big/\n", "a.log": "", "big/1": "", "big/2": "", "c": ""}
    root = make_tree(tmp_path, files)
    assert list_ignored(root) == ("a.log", "big/")


def test_what_ray_cannot_unpack(tmp_path: Path) -> None:
    tree = list_tree(make_tree(tmp_path, {"a\\b": "", "c": ""}))
    assert list(tree.files) == ["c"]
    assert tree.left_out == ("a\\b (Ray can't unpack a name with a backslash)",)


def test_equal_trees_make_equal_archives(tmp_path: Path) -> None:
    archives = []
    for number, name in enumerate(("one", "two")):
        root = make_tree(tmp_path / name, {"a": "1" * 1000, "run.sh": "echo"})
        (root / "run.sh").chmod(0o755 if number else 0o700)
        os.utime(root / "a", (number, number))
        size = write_archive(list_tree(root), tmp_path / f"{name}.zip")
        archives.append((tmp_path / f"{name}.zip").read_bytes())
        assert size == len(archives[-1]) < 1000
    assert archives[0] == archives[1]
    with ZipFile(tmp_path / "one.zip") as written:
        modes = {entry.filename: entry.external_attr >> 16 & 0o777 for entry in written.filelist}
    assert modes == {"a": 0o644, "run.sh": 0o755}


def test_a_tree_of_just_the_largest_size(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree", {"a": "1", "b": "2"})
    size = write_archive(list_tree(root), tmp_path / "tree.zip")
    assert write_archive(list_tree(root), tmp_path / "tree.zip", limit_bytes=size) == size
    with pytest.raises(ResourceError, match=r"packs to more than"):
        write_archive(list_tree(root), tmp_path / "tree.zip", limit_bytes=size - 1)


def test_too_large_a_tree_names_its_largest_files(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree", {"small.py": "", "2.bin": "", "1 big.bin": "", "3.bin": ""})
    (root / "2.bin").write_bytes(os.urandom(2 << 20))
    (root / "1 big.bin").write_bytes(os.urandom(3 << 20))
    (root / "3.bin").write_bytes(os.urandom(1500))
    expected = (
        rf"^{root} packs to more than the 1\.0 MiB that the job server accepts; the largest files "
        r"are 1 big\.bin \(3\.0 MiB\), 2\.bin \(2\.0 MiB\), 3\.bin \(1\.5 KiB\): make git ignore "
        r"what the job does not need$"
    )
    with pytest.raises(ResourceError, match=expected):
        write_archive(list_tree(root), tmp_path / "tree.zip", limit_bytes=1 << 20)
    assert (tmp_path / "tree.zip").stat().st_size < 2.5 * (1 << 20)


def test_a_text_is_found_where_it_stands(tmp_path: Path) -> None:
    root = make_tree(tmp_path, {"a.yaml": "x: 1", "b/c.yaml": "password: päss-word"})
    (root / "large").write_bytes(b"only-in-large" + bytes(1 << 20))
    tree = list_tree(root)
    assert find_text(tree, "päss-word") == "b/c.yaml"
    assert find_text(tree, "pass-word") is None
    assert find_text(tree, "only-in-large") is None


def in_no_tree(folder: Path) -> None:
    tree_root(folder)


def in_an_empty_tree(folder: Path) -> None:
    write_archive(list_tree(make_tree(folder, {})), folder / "tree.zip")


def in_a_bare_repository(folder: Path) -> None:
    git(folder, "init", "--quiet", "--bare")
    tree_root(folder)


def with_a_name_that_is_no_text(folder: Path) -> None:
    make_tree(folder, {})
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).touch()
    list_tree(folder)


def with_a_file_that_vanishes(folder: Path) -> None:
    tree = list_tree(make_tree(folder, {"a": ""}))
    (folder / "a").unlink()
    assert find_text(tree, "text") is None
    write_archive(tree, folder / "tree.zip")


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (in_no_tree, r"is not in a git working tree.*`git init`"),
        (in_an_empty_tree, r"nothing to pack in .*git lists no files"),
        (in_a_bare_repository, r"git can't list .*: fatal: this operation must be run in a work"),
        (with_a_name_that_is_no_text, r"udcff' can't be packed: its name is not UTF-8$"),
        (with_a_file_that_vanishes, r"/a can't be packed: No such file or directory$"),
    ],
)
def test_what_cannot_be_packed(tmp_path: Path, case, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        case(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RaymcError, match=r"^git is not installed; it says which"):
        tree_root(tmp_path)
