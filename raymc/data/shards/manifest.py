"""The file `dataset.json`: what a dataset holds, shard by shard, and where it comes from.

Its digest identifies the dataset in checkpoints, bundles and runs. It covers the checksum of each
shard, and so the content.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from raymc.data.labels import Vocabulary
from raymc.data.shards.tokens import Modality
from raymc.errors import DataError

SCHEMA_VERSION = 1
_PARTS = re.compile(r"[/\\]")
MANIFEST_FILE = "dataset.json"
FAILURES_FILE = "failures.parquet"  # of `raymc extract`: what could not be read, and why
PLAN_FILE = ".plan.json"  # exists while a dataset is being written


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a dataset; `file` is its path inside it, e.g. `train/00000.parquet`.

    `sha256` is the checksum of the whole file, in hex; empty if unknown.

    Raises:
        DataError: `file` leads out of the dataset's folder.
    """

    file: str
    rows: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        # Paths are parsed only where they may be absolute: a manifest may have 100,000 shards.
        absolute = (self.file[:1] in ("/", "\\") or ":" in self.file) and (
            PurePosixPath(self.file).is_absolute() or PureWindowsPath(self.file).anchor
        )
        is_path = self.file and "\0" not in self.file
        if not is_path or absolute or (".." in self.file and ".." in _PARTS.split(self.file)):
            raise DataError(
                f"shard {self.file!r} is not inside the dataset's folder; expected a path such as "
                "'train/00000.parquet', without '..'"
            )


@dataclass(frozen=True)
class Manifest:
    """What a dataset holds.

    Attributes:
        vocabulary: Labels, in the order of the classes.
        modalities: Columns of tokens.
        splits: The shards of each split, in order.
        provenance: Where the rows come from, as JSON values.
        license: The licence of the data, e.g. `CC-BY-4.0`.
        schema_version: Version of this layout.

    Raises:
        DataError: There is no modality, or two have the same name.
    """

    vocabulary: Vocabulary
    modalities: tuple[Modality, ...]
    splits: Mapping[str, tuple[Shard, ...]]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    license: str = ""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        names = [modality.name for modality in self.modalities]
        if not names or len(set(names)) < len(names):
            raise DataError(f"modalities {names}: expected at least one, each with its own name")

    def rows_text(self) -> str:
        """Return how many rows each split has, as `42 train, 9 val`."""
        return ", ".join(f"{self.rows(split):,} {split}" for split in self.splits)

    def rows(self, split: str) -> int:
        """Return the number of rows of a split; 0 if it does not exist."""
        return sum(shard.rows for shard in self.splits.get(split, ()))

    def modality(self, name: str) -> Modality:
        """Return a modality by its name; raises `DataError` if there is none."""
        for modality in self.modalities:
            if modality.name == name:
                return modality
        known = ", ".join(modality.name for modality in self.modalities)
        raise DataError(f"the dataset has no modality '{name}'; it has {known}")

    def digest(self) -> str:
        """Return the SHA-256, in hex, of the manifest's JSON with sorted keys."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain JSON values; `from_json` reads them."""
        return {
            "schema_version": self.schema_version,
            "license": self.license,
            "vocabulary": self.vocabulary.to_json(),
            "modalities": [modality.to_json() for modality in self.modalities],
            "splits": {
                split: [dict(vars(shard)) for shard in shards]
                for split, shards in self.splits.items()
            },
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Manifest":
        """Build a manifest from the values of `to_json`.

        Raises `DataError` if a key is missing or wrong, or another version of raymc wrote it.
        """
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise DataError(
                f"schema_version is {version}; this raymc reads version {SCHEMA_VERSION}: install "
                "the raymc that wrote the dataset"
            )
        try:
            return cls(
                vocabulary=Vocabulary.from_json(values["vocabulary"]),
                modalities=tuple(Modality.from_json(item) for item in values["modalities"]),
                splits={
                    split: tuple(Shard(**item) for item in shards)
                    for split, shards in values["splits"].items()
                },
                provenance=values["provenance"],
                license=values["license"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"a key is missing or of the wrong type: {error}") from error


def to_text(values: Mapping[str, Any]) -> str:
    """Return JSON indented for people to read; raises `DataError` for NaN and NumPy numbers."""
    try:
        return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise DataError(
            f"provenance: {error}; use only text, finite numbers, lists and dicts"
        ) from error
