"""Which environment variables a job on a cluster gets: some are sent, secrets are only named.

Pure. Ray has no store for secrets. Whatever is sent with a job, in the `env_vars` of its runtime
environment, stands in the clear in the answers of the jobs API, in the GCS and its Redis, in the
environment of every process of the job, and in `logs/runtime_env_agent.log` of every node, which
the dashboard serves; only browsers are shown `<redacted>` in a job's details. So a secret is
set on the cluster's nodes (a Kubernetes secret in the pods' environment, an export before
`ray start`, an instance role), whence drivers and workers inherit it. The submission has its name
alone, and the job ends at once if the driver's node lacks it.
"""

import os
import re
from collections.abc import Mapping, Sequence

from raymc.errors import ConfigError
from raymc.runtime.packing import Tree, find_text

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(
    r"PASS(WORD|WD|PHRASE)|SECRET|(^|_)(PASS|TOKEN|KEY|CREDENTIALS?)(_|$)", re.IGNORECASE
)
_PASSWORD_IN_ADDRESS = re.compile(r"://[^/@\s:]*:[^/@\s]+@")
_TELLING_LETTERS = 8  # a shorter value is found in files by chance


def sent(names: Sequence[str]) -> dict[str, str]:
    """Return the variables of our own environment that are sent along.

    Raises:
        ConfigError: one isn't set, or is a secret.
    """
    for name in names:
        _check_name(name)
        value = os.environ.get(name)
        if value is None:
            raise ConfigError(f"--env {name}: there is no such variable in your environment")
        if _SECRET.search(name) or holds_password(value):
            raise ConfigError(
                f"--env {name}: a secret that is sent stands in Ray's logs and the job's details "
                f"for everyone to read; set it on the cluster's nodes, and use --secret {name}"
            )
    return {name: os.environ[name] for name in names}


def required(names: Sequence[str]) -> str:
    """Return a shell command that ends a job whose node lacks a secret; empty if there is none.

    Raises:
        ConfigError: something is no name of a variable.
    """
    for name in names:
        _check_name(name)
    complaint = "raymc: $name is not set on this node; it is listed as a --secret of this job"
    check = f'printenv "$name" > /dev/null || {{ echo "{complaint}" >&2; exit 2; }}'
    return f"for name in {' '.join(names)}; do {check}; done; " if names else ""


def refuse_values(names: Sequence[str], texts: Mapping[str, str], tree: Tree) -> None:
    """Refuse to send the value of a secret, as far as our own environment tells it.

    Args:
        names: The secrets.
        texts: What else is sent, by what it is.
        tree: The files that are sent.

    Raises:
        ConfigError: the value of one stands in a text or file.
    """
    for name in names:
        value = os.environ.get(name, "")
        if len(value) < _TELLING_LETTERS:
            continue
        place = next((place for place, text in texts.items() if value in text), None)
        if place or (place := find_text(tree, value)):
            raise ConfigError(
                f"the value of {name} stands in {place} and would be sent with it: take it out"
            )


def holds_password(text: str) -> bool:
    """Say whether a text holds an address with a password, as in postgresql://me:secret@host."""
    return _PASSWORD_IN_ADDRESS.search(text) is not None


def _check_name(name: str) -> None:
    if not _VARIABLE.fullmatch(name):
        raise ConfigError("--env and --secret take names of variables, without values")
