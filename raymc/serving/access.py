"""Who may ask a service: users of this machine, or whoever has its token; and what it may open."""

import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from raymc.errors import ConfigError

TOKEN_VARIABLE = "RAYMC_SERVE_TOKEN"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_SHORTEST_TOKEN = 16  # letters; a shorter one can be guessed
_OPTIONS = ("?", "#", "::", "\\")  # by which an address may lead elsewhere


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
    """Check that only this machine's users can reach a service without a token.

    Raises:
        ConfigError: Others can.
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


def check_places(places: Sequence[str]) -> tuple[str, ...]:
    """Return the places whose videos clients may name; each ends with a slash.

    Raises:
        ConfigError: One is neither a folder nor an address without options.
    """
    checked = []
    for place in places:
        if "://" in place:
            if place.startswith("file://") or any(mark in place for mark in _OPTIONS):
                raise ConfigError(f"--videos {place}: name a folder, or an address without options")
            checked.append(f"{place.rstrip('/')}/")
        elif os.path.isdir(place):
            checked.append(f"{os.path.realpath(place).rstrip('/')}/")
        else:
            raise ConfigError(f"--videos {place}: there is no such folder")
    return tuple(checked)


def is_below(address: str, places: Sequence[str]) -> bool:
    """Whether an address is below one of the checked places, and leads nowhere else.

    A local path has to be absolute; its links are followed before it is compared.
    """
    if "://" not in address:
        real = os.path.realpath(address)
        return os.path.isabs(address) and any(real.startswith(x) for x in places if "://" not in x)
    is_plain = address.isprintable() and not any(mark in address for mark in _OPTIONS)
    goes_up = ".." in unquote(address).split("/")
    return is_plain and not goes_up and any(address.startswith(x) for x in places if "://" in x)
