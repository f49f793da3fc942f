"""The types of settings that name a place, a path, an address or a run, and their limits.

Paths may begin with `~`, the home folder. Passwords in addresses are kept apart (`addresses.py`).
"""

import os
from typing import Annotated

from pydantic import AfterValidator

from raymc.addresses import keep_password

LARGEST_SEED = 2**63 - 1  # that torch and NumPy take
LONGEST_NAME = 255  # bytes, in every usual file system


def _place(value: str) -> str:
    if "://" in value:
        return keep_password(value)
    expanded = os.path.expanduser(value)
    _check_names(expanded)
    return expanded


def _name(value: str) -> str:
    _check_names(value)
    return value


def _check_names(path: str) -> None:
    try:
        names = os.fsencode(path).split(b"/")
    except UnicodeEncodeError:
        raise ValueError("a character in it can't be part of a path") from None
    if b"\0" in os.fsencode(path):
        raise ValueError("a NUL character can't be part of a path")
    longest = max(map(len, names))
    if longest > LONGEST_NAME:
        raise ValueError(
            f"a name in it has {longest} bytes, and file systems allow {LONGEST_NAME}; shorten it"
        )


Address = Annotated[str, AfterValidator(keep_password)]
Place = Annotated[str, AfterValidator(_place)]
Name = Annotated[str, AfterValidator(_name)]
