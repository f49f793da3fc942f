"""Annotations joined with extracted features by video id: what `approve.py` and `coin.py` share.

`raymc extract` makes features without labels; a release of annotations has labels without
features. Both know the id of the video.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from raymc.data.shards import Modality, Ragged, Row, Rows, Shard, open_dataset, ragged, read_shard
from raymc.data.shards.tokens import RESERVED_COLUMNS
from raymc.data.storage import open_address, reaching, read_bytes
from raymc.errors import DataError
from raymc.formats.recipe import LazyRows

_SECONDS = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"  # what the format :g writes
_WINDOW = re.compile(rf"(.+)@{_SECONDS}-{_SECONDS}")


@dataclass(frozen=True, slots=True)
class Clip:
    """A row of the features: `id` is VIDEO or VIDEO@START-END, `shard` counts over all splits."""

    id: str
    video: str
    shard: int
    row: int


class Features:
    """The clips of an existing dataset by video; tokens are read when a row is made.

    Only the ids and the shard that was read last are in memory: ask in the order of the shards.

    Attributes:
        provenance: What names the dataset in the provenance of datasets made of it.
        clips: Clips by video, both in the order of the shards.
    """

    def __init__(self, address: str) -> None:
        self._dataset = open_dataset(address)
        manifest = self._dataset.manifest
        self.address = address
        self.modalities: tuple[Modality, ...] = manifest.modalities
        self.license = manifest.license
        self.provenance = {"digest": manifest.digest(), "provenance": dict(manifest.provenance)}
        self._shards: list[Shard] = [one for shards in manifest.splits.values() for one in shards]
        self._held: tuple[int, pa.Table, dict[str, Ragged]] | None = None
        self.clips: Mapping[str, list[Clip]] = self._index()

    def row(self, clip: Clip) -> Row:
        """Read the tokens and the extra columns of a clip, without its labels."""
        extras, columns = self._read(clip.shard)
        tokens = {name: column.row(clip.row) for name, column in columns.items()}
        return Row(
            id=clip.id,
            labels=(),
            # a view would keep the whole shard in memory
            tokens={name: array.copy() if len(array) else None for name, array in tokens.items()},
            extra={name: extras[name][clip.row].as_py() for name in extras.column_names},
        )

    def rows(self, videos: Collection[str], label: Callable[[str, Row], Row]) -> Rows:
        """Return the lazy rows of videos; `label` makes the final row of a video's id and a row."""
        chosen = [clip for video in videos for clip in self.clips.get(video, ())]
        # whatever the order of the videos, each shard is read once
        chosen.sort(key=lambda clip: (clip.shard, clip.row))
        return LazyRows(len(chosen), lambda i: label(chosen[i].video, self.row(chosen[i])))

    def require(self, videos: Iterable[str], file: str) -> None:
        """Check that at least one of the annotated videos has features."""
        videos = list(videos)
        if not any(video in self.clips for video in videos):
            raise DataError(
                f"{self.address}: no clip belongs to a video of {file}; the features have ids "
                f"such as {shown(self.clips)}, the annotations {shown(videos)}: extract the "
                "features again with the ids of the annotations"
            )

    def notes(self, wanted: Collection[str], known: Collection[str]) -> Iterator[str]:
        """Say which wanted videos have no features, and which features have no annotation."""
        missing = [video for video in wanted if video not in self.clips]
        if missing:
            yield f"{len(missing)} of {len(wanted)} videos have no features ({shown(missing)})"
        strangers = [video for video in self.clips if video not in known]
        if strangers:
            yield (
                f"{len(strangers)} of the {len(self.clips)} videos with features are not "
                f"annotated; left out ({shown(strangers)})"
            )

    def _index(self) -> dict[str, list[Clip]]:
        clips: dict[str, list[Clip]] = {}
        seen: dict[str, str] = {}
        for number, shard in enumerate(self._shards):
            ids = read_shard(self._dataset, shard, ["id"])["id"].to_pylist()
            for row, name in enumerate(ids):
                if not name or name in seen:
                    used = f"also used in {seen[name]}" if name else "empty"
                    raise DataError(
                        f"{self.address}: {shard.file}, row {row}: id {name!r} is {used}; give "
                        "each row of the features its own id"
                    )
                seen[name] = shard.file
                video, _, _ = window_of(name)
                clips.setdefault(video, []).append(Clip(name, video, number, row))
        return clips

    def _read(self, number: int) -> tuple[pa.Table, dict[str, Ragged]]:
        if self._held is None or self._held[0] != number:
            self._held = None  # not two shards in memory at once
            table = read_shard(self._dataset, self._shards[number])
            try:
                columns = {one.name: ragged(table[one.name], one) for one in self.modalities}
            except DataError as error:
                raise DataError(f"{self.address}: {self._shards[number].file}: {error}") from error
            read = {*RESERVED_COLUMNS, *columns}
            extras = table.select([name for name in table.column_names if name not in read])
            self._held = number, extras, columns
        return self._held[1], self._held[2]


def window_of(clip: str) -> tuple[str, float, float]:
    """Split the id of a clip into its video, and its start and end in seconds.

    VIDEO@START-END is the id of a window; any other id is a whole video, from 0 to infinity.
    """
    found = _WINDOW.fullmatch(clip)
    if found and float(found[2]) < float(found[3]):
        return found[1], float(found[2]), float(found[3])
    return clip, 0.0, float("inf")


def span_of(row: Row) -> tuple[float, float]:
    """Return the start and end in seconds of a row, from its columns or else from its id."""
    _, *span = window_of(row.id)
    for at, name in enumerate(("start_seconds", "end_seconds")):
        value = row.extra.get(name)
        if isinstance(value, (int, float)) and value == value:  # not NaN
            span[at] = float(value)
    return span[0], span[1]


def read_file(file: str) -> bytes:
    """Read a file of annotations, local or at any address."""
    filesystem, path = open_address(file)
    with reaching(file):
        if not filesystem.get_file_info(path).is_file:
            raise DataError(f"{file}: no such file; put the file of the release there")
        return read_bytes(filesystem, path)


def parse_object(data: bytes, file: str) -> dict[str, Any]:
    """Parse a file that holds a JSON object; raises `DataError` if it holds something else."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON ({error}); fetch the file again") from error
    if not isinstance(values, dict):
        raise DataError(f"{file}: the JSON is {kind_of(values)}; expected an object")
    return values


def kind_of(value: object) -> str:
    """Return the kind of a JSON value in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def digest(data: bytes) -> str:
    """Return the SHA-256 of a file's bytes in hex."""
    return hashlib.sha256(data).hexdigest()


def fraction(seed: int, key: str) -> float:
    """Return a number in [0, 1), uniformly distributed, from the seed and the key alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:6]) / 2**48


def shown(names: Iterable[str], most: int = 3) -> str:
    """Return the first few names for a message."""
    first = list(islice(names, most + 1))
    return ", ".join(f"'{name}'" for name in first[:most]) + (", …" if len(first) > most else "")
