"""Who may ask a service: users of this machine, or whoever has its token."""

import ipaddress
import os
from pathlib import Path

from raymc.errors import ConfigError

TOKEN_VARIABLE = "RAYMC_SERVE_TOKEN"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_SHORTEST_TOKEN = 16  # letters; a shorter one can be guessed


def read_token(file: Path | None) -> str:
    """Return the token in a file, else in `RAYMC_SERVE_TOKEN`, which leaves the environment.

    It is never an argument, because every user of a machine can list those.

    Raises:
        ConfigError: The file can't be read, or the token is too short or not plain.
    """
    token, where = os.environ.pop(TOKEN_VARIABLE, ""), TOKEN_VARIABLE
    if file is not None:
        where = str(file)
        try:
            token = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"--token-file {file} can't be read: {reason}") from error
    if (token or file) and not (len(token) >= _SHORTEST_TOKEN and token.isascii()):
        raise ConfigError(
            f"the token in {where} has {len(token)} letters; expected {_SHORTEST_TOKEN} or more, "
            "without accents, such as what `openssl rand -hex 32` prints"
        )
    return token


def check_host(host: str, token: str) -> None:
    """Check that nobody but this machine's users can reach a service without a token.

    Raises:
        ConfigError: They can.
    """
    if not token and not is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached by others: set a token, in {TOKEN_VARIABLE} or a "
            "--token-file"
        )


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
