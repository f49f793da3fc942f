"""Which code a run comes from: what was submitted, or the working directory's commit."""

import subprocess
from pathlib import Path

import pytest

from raymc.runtime.provenance import VARIABLE, Code, current_code, from_texts

AUTHOR = ("-c", "user.name=a", "-c", "user.email=a@b.c")


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    read = current_code.__wrapped__
    assert read() == Code()
    assert read().as_texts() == {}
    git("init", "-q")
    assert read() == Code()
    Path("a").write_text("1")
    git("add", "a")
    git(*AUTHOR, "commit", "-q", "-m", "x")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD")
    Path("untracked").touch()
    assert read() == Code(commit=commit)
    assert read().short == commit[:8]
    Path("a").write_text("2")
    assert read() == Code(commit=commit, dirty=True)
    assert read().short == f"{commit[:8]}+"
    sent = Code(commit="ab" * 20, archive="cd" * 32)
    monkeypatch.setenv(VARIABLE, sent.as_variable()[VARIABLE])
    assert read() == sent
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read() == Code()


@pytest.mark.parametrize(
    "code", [Code(), Code(archive="cd"), Code(commit="ab"), Code(commit="ab", dirty=True)]
)
def test_texts_name_the_same_code(code: Code) -> None:
    assert from_texts({**code.as_texts(), "job_name": "other"}) == code
