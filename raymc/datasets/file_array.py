"""An array of a file, of whatever format, and how messages name it.

Imports numpy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from raymc.errors import DataError


@dataclass(frozen=True)
class FileArray:
    """An array and where it comes from, for messages."""

    file: str
    name: str
    values: Shaped[np.ndarray, "..."]

    @property
    def where(self) -> str:
        """What messages begin with."""
        return f"{self.file}: '{self.name}'"


def check_length(labels: FileArray, name: str, found: int) -> None:
    """Check that an array of the file has one row per clip.

    Raises:
        DataError: It has more or fewer than `labels`.
    """
    clips = len(labels.values)
    if found != clips:
        raise DataError(
            f"{labels.file}: '{name}' has {found} rows where '{labels.name}' has {clips}; "
            "expected one row a clip in both."
        )


def texts(array: FileArray) -> tuple[str, ...]:
    """Return the values of an array as texts.

    Raises:
        DataError: They are bytes that aren't ASCII.
    """
    try:
        return tuple(array.values.astype(str).tolist())
    except UnicodeDecodeError as error:
        raise DataError(
            f"{array.where} holds bytes that aren't ASCII; save them as text."
        ) from error


def listed(names: Sequence[str] | Mapping[str, object]) -> str:
    """Return names as a message shows them, sorted."""
    return ", ".join(sorted(names)) or "none"
