"""Which code a run comes from: the git commit, whether files differ from it, the sent archive.

`raymc submit` works it out for the tree that it sends, whose copy on the cluster is in no git
repository. It goes to Ray as the job's metadata, for people and `raymc jobs`, and as a variable
in the job's environment, because Ray gives the metadata back only through the job server.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

VARIABLE = "RAYMC_CODE"


@dataclass(frozen=True, kw_only=True)
class Code:
    """What identifies code.

    Attributes:
        commit: In hex; empty without a git repository, or before its first commit.
        dirty: Whether files differ from the commit: of a submitted tree all that were sent, else
            those that git tracks.
        archive: SHA-256 of the archive that was submitted; empty if none was.
    """

    commit: str = ""
    dirty: bool = False
    archive: str = ""

    @property
    def short(self) -> str:
        """The beginning of the commit, with a + if files differ from it; empty without one."""
        return f"{self.commit[:8]}{'+' if self.dirty else ''}" if self.commit else ""

    def as_texts(self) -> dict[str, str]:
        """Return what is known, as texts by name, for metadata and tags."""
        known = {"commit": self.commit, "archive": self.archive}
        if self.commit:
            known["dirty"] = str(self.dirty).lower()
        return {name: text for name, text in known.items() if text}

    def as_variable(self) -> dict[str, str]:
        """Return the variable that tells a job which code it runs."""
        return {VARIABLE: json.dumps(self.as_texts())}


def from_texts(texts: Mapping[str, str]) -> Code:
    """Return code from what `as_texts` made of it; other names are ignored."""
    commit, archive = texts.get("commit", ""), texts.get("archive", "")
    return Code(commit=commit, dirty=texts.get("dirty") == "true", archive=archive)


@cache
def current_code() -> Code:
    """Return the code of this process: what was submitted, else that of the working directory."""
    if told := os.environ.get(VARIABLE):
        return from_texts(json.loads(told))
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return Code()
    found = answer.stdout.strip()
    if answer.returncode or not found:
        return Code()
    return Code(commit=found.removesuffix("+"), dirty=found.endswith("+"))
