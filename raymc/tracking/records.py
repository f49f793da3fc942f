"""What MLflow is given: tags, and names, texts and metrics within its limits.

MLflow refuses long texts and most punctuation in names, and its searches have no way to escape a
quote. Passwords that a text quotes are replaced here.
"""

import getpass
import hashlib
import re
import shlex
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from raymc.addresses import redacted, without_password
from raymc.runtime.provenance import Code, current_code, from_texts

if TYPE_CHECKING:
    import mlflow.entities


KEY_TAG = "raymc.key"
KIND_TAG = "raymc.kind"  # run or sweep; raymc 0.1.0 wrote none
STATE_TAG = "raymc.state"
TRIAL_TAG = "raymc.trial"
REASON_TAG = "raymc.reason"  # why a trial failed
PARENT_TAG = "mlflow.parentRunId"
WORKERS_TAG, GPUS_TAG = "raymc.workers", "raymc.gpus"  # that a run, or each trial, holds at a time
_CODE_TAGS = {  # by the names in Code.as_texts
    "commit": "mlflow.source.git.commit",
    "dirty": "mlflow.source.git.dirty",
    "archive": "raymc.archive",
}
NOTE_TAG = "mlflow.note.content"
PARAM_LENGTH, TAG_LENGTH = 6000, 8000
_NAME_LENGTH = 250


def fit_key(key: str) -> str:
    """Return a run's key without quotes, which would end a string in MLflow's searches."""
    return re.sub(r"[\\'\"`]", "_", key)


def fit_name(name: str) -> str:
    """Return the name of a metric, param or tag, with what MLflow refuses replaced."""
    return re.sub(r"[^/\w.\- :]", "_", name)[:_NAME_LENGTH]


def fit_names(names: Iterable[str]) -> dict[str, str]:
    """Return names as `fit_name` does, by name.

    Where several would become one, such as `m!` and `m?`, they end in digits of their digests.
    """
    fit = {name: fit_name(name) for name in names}
    counts = Counter(fit.values())
    for name, made in fit.items():
        if counts[made] > 1 and made != name:
            mark = hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()[:6]
            fit[name] = f"{made[: _NAME_LENGTH - 7]}-{mark}"
    return fit


def fit_text(value: object, length: int) -> str:
    """Return a value as text of at most `length` characters, without passwords."""
    text = redacted(without_password(str(value)))
    return text if len(text) <= length else text[: length - 1] + "…"


def best_name(metric: str) -> str:
    """Return the name of a metric at the best epoch: `best/mAP` for `val/mAP`."""
    return f"best/{metric.removeprefix('val/')}"


def make_metrics(
    values: Mapping[str, float], step: int, milliseconds: int
) -> "list[mlflow.entities.Metric]":
    """Return MLflow's metrics.

    MLflow stores a metric of equal step, value and time once, so the caller gives the time: that
    of the record, not of the attempt to send it.
    """
    from mlflow.entities import Metric

    names = fit_names(values)
    return [Metric(names[name], float(value), milliseconds, step) for name, value in values.items()]


def source_tags() -> dict[str, str]:
    """Return command, user and code, under MLflow's tag names."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user in a container may have no name
        user = "unknown"
    tags = {
        "mlflow.user": user,
        "mlflow.source.name": " ".join(command_line().split(maxsplit=2)[:2]),
        "mlflow.source.type": "LOCAL",
    }
    known = current_code().as_texts()
    return tags | {_CODE_TAGS[name]: text for name, text in known.items()}


def code_of(tags: Mapping[str, str]) -> Code:
    """Return the code that a run's tags name."""
    return from_texts({name: tags.get(tag, "") for name, tag in _CODE_TAGS.items()})


def command_line() -> str:
    """Return the command line of this process; `python -m raymc` is written `raymc`."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join(redacted(one) for one in (name, *sys.argv[1:]))


def reason(error: BaseException) -> str:
    """Return in one line why something failed; a failed connection in the system's words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionError | TimeoutError | socket.gaierror):
            error = cause
        cause = cause.__cause__ or cause.__context__
    line = str(error).strip().partition("\n")[0][:300]
    return redacted(line or type(error).__name__)


def now() -> int:
    """Return the time in milliseconds, as MLflow takes it."""
    return round(time.time() * 1000)
