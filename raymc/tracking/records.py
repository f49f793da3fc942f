"""What MLflow takes: names, texts and metrics made fit for it, and where a run comes from.

Imports mlflow inside functions only. Passwords in addresses never leave here.
"""

import getpass
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mlflow.entities


KEY_TAG = "raymc.key"
STATE_TAG = "raymc.state"
TRIAL_TAG = "raymc.trial"
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
PARAM_LENGTH, TAG_LENGTH = 6000, 8000
_NAME_LENGTH = 250


def fit_key(key: str) -> str:
    """Return a run's key without the characters that end a string in MLflow's searches."""
    return re.sub(r"[\\'\"`]", "_", key)


def fit_name(name: str) -> str:
    """Return the name of a metric, param or tag, with what MLflow does not allow replaced."""
    return re.sub(r"[^/\w.\- :]", "_", name)[:_NAME_LENGTH]


def fit_text(value: object, length: int) -> str:
    """Return a value as text of at most `length` characters, without passwords."""
    text = without_password(str(value))
    return text if len(text) <= length else text[: length - 1] + "…"


def best_name(metric: str) -> str:
    """Return under which name a metric of the best epoch so far is recorded."""
    return f"best/{metric.removeprefix('val/')}"


def make_metrics(
    values: Mapping[str, float], step: int, milliseconds: int
) -> "list[mlflow.entities.Metric]":
    """Return MLflow's metrics; the time is the caller's, so one sent twice is stored once."""
    from mlflow.entities import Metric

    return [
        Metric(fit_name(name), float(value), milliseconds, step) for name, value in values.items()
    ]


def source_tags() -> dict[str, str]:
    """Return who runs what: command, user and git commit, under MLflow's own tag names."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "unknown"
    tags = {
        "mlflow.user": user,
        "mlflow.source.name": " ".join(command_line().split(maxsplit=2)[:2]),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git_commit(),
    }
    return {name: value for name, value in tags.items() if value}


def command_line() -> str:
    """Return what was typed to start this process; `python -m raymc` is called `raymc`."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return without_password(shlex.join([name, *sys.argv[1:]]))


@cache
def git_commit() -> str:
    """Return the working directory's commit at the first call; empty where there is none."""
    command = ["git", "rev-parse", "--verify", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def without_password(text: str) -> str:
    """Return a text with user and password of every address in it replaced."""
    return re.sub(r"://[^/@\s:]*:[^/@\s]*@", "://***@", text)


def reason(error: BaseException) -> str:
    """Return why something failed in one line; where a connection did, in the system's words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionError | TimeoutError | socket.gaierror):
            error = cause
        cause = cause.__cause__ or cause.__context__
    line = str(error).strip().partition("\n")[0][:300]
    return without_password(line or type(error).__name__)


def now() -> int:
    """Return the time as MLflow counts it, in milliseconds."""
    return round(time.time() * 1000)
