"""Finds clips of one split that another split has as well: scores on them are too high.

A model remembers what it was trained on. So no id, no content and no video should be in two
splits.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymc.data.shards import Dataset, Modality, Shard, ragged
from raymc.data.storage import reaching
from raymc.errors import DataError, first_line

# Of larger datasets only ids and videos are compared: reading all tokens would take minutes.
CONTENT_BYTES = 16 << 30
# Extra columns that name a clip's video, the first of them that a file has; `path` is written by
# `raymc extract`, `video` by `raymc import coin`.
_VIDEO_COLUMNS = ("path", "video", "video_id", "url")
_WINDOW = re.compile(r"(.+)@\d+(?:\.\d+)?-(?:\d+(?:\.\d+)?)?")  # an id that `raymc extract` gives
_SHARDS_AT_ONCE = 4
_DIGEST = pa.binary(16)


@dataclass(frozen=True)
class _Clips:
    """What is compared of the clips of a split: arrays of one length, null where unknown."""

    ids: pa.Array
    videos: pa.Array
    contents: pa.Array


def find_leaks(dataset: Dataset, splits: Iterable[str]) -> list[str]:
    """Return a line about ids, one about contents and one about videos that are in two splits.

    Each line says how many there are, with an example; it is left out if there are none. Splits
    without rows are passed over. Clips without a token have no content.

    Raises:
        DataError: A shard can't be read.
    """
    manifest = dataset.manifest
    names = [split for split in dict.fromkeys(splits) if manifest.rows(split)]
    size = sum(shard.bytes for name in names for shard in manifest.splits[name])
    modalities = manifest.modalities if size <= CONTENT_BYTES else ()
    clips = {name: _read(dataset, manifest.splits[name], modalities) for name in names}
    return [*_of_ids(clips), *_of_contents(clips), *_of_videos(clips)]


def _of_ids(clips: Mapping[str, _Clips]) -> Iterator[str]:
    shared: list[pa.Array] = []
    example = ""
    for here, there in itertools.combinations(clips, 2):
        found = clips[there].ids.filter(_places(clips[there].ids, clips[here].ids).is_valid())
        if len(found):
            shared.append(found)
            example = example or f"{found[0].as_py()!r} in {here} and {there}"
    yield from _told(shared, "id is", "ids are", f"in more than one split, such as {example}")


def _of_contents(clips: Mapping[str, _Clips]) -> Iterator[str]:
    shared: list[pa.Array] = []
    example = ""
    for here, there in itertools.combinations(clips, 2):
        ours, theirs = clips[here], clips[there]
        at = _places(theirs.contents, ours.contents)
        found = _under_other_ids(at, theirs, ours)
        for row in np.flatnonzero(found.to_numpy(zero_copy_only=False))[:1].tolist():
            ids = theirs.ids[row].as_py(), ours.ids[at[row].as_py()].as_py()
            example = example or f"{ids[0]!r} in {there}, which equals {ids[1]!r} in {here}"
        shared.append(theirs.ids.filter(found))
    told = f"the content of a clip in another split, such as {example}"
    yield from _told(shared, "clip has", "clips have", told)


def _of_videos(clips: Mapping[str, _Clips]) -> Iterator[str]:
    shared: list[pa.Array] = []
    example = ""
    for here, there in itertools.combinations(clips, 2):
        ours, theirs = clips[here], clips[there]
        found = _under_other_ids(_places(theirs.videos, ours.videos), theirs, ours)
        videos = theirs.videos.filter(found)
        if len(videos):
            shared.append(videos)
            example = example or f"{videos[0].as_py()!r} in {here} and {there}"
    told = f"clips in more than one split, such as {example}"
    yield from _told(shared, "video has", "videos have", told)


def _told(shared: Sequence[pa.Array], one: str, many: str, what: str) -> Iterator[str]:
    count = len(pa.chunked_array(shared).unique()) if shared else 0
    if count:
        yield f"leak: {count:,} {one if count == 1 else many} {what}; scores on them are too high"


def _under_other_ids(places: pa.Array, theirs: _Clips, ours: _Clips) -> pa.Array:
    """Say which of their clips have a place among ours without having the id of one of ours."""
    return pc.call_function("and", [places.is_valid(), _places(theirs.ids, ours.ids).is_null()])


def _places(values: pa.Array, among: pa.Array) -> pa.Array:
    """Return where each value is among others; null if it is not, or is unknown."""
    options = pc.SetLookupOptions(value_set=among, skip_nulls=True)
    return pc.call_function("index_in", [values], options)


def _read(dataset: Dataset, shards: Sequence[Shard], modalities: Sequence[Modality]) -> _Clips:
    with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
        parts = list(pool.map(partial(_read_shard, dataset, modalities=modalities), shards))
    rows = list(itertools.chain.from_iterable(parts))
    return _Clips(
        ids=pa.array([name for name, _, _ in rows], pa.string()),
        videos=pa.array([video for _, video, _ in rows], pa.string()),
        contents=pa.array([content for _, _, content in rows], _DIGEST),
    )


def _read_shard(
    dataset: Dataset, shard: Shard, *, modalities: Sequence[Modality]
) -> list[tuple[str | None, str | None, bytes | None]]:
    """Return the id, video and content of each row of a shard."""
    path = f"{dataset.path}/{shard.file}"
    rows = []
    try:
        with reaching(path), dataset.filesystem.open_input_file(path) as file:
            parquet = pq.ParquetFile(file, pre_buffer=True)
            names = parquet.schema_arrow.names
            video = video_column(names)
            columns = ["id", *([video] if video else []), *(one.name for one in modalities)]
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, columns=columns)
                ids = table["id"].to_pylist()
                of = table[video].to_pylist() if video else [None] * len(ids)
                videos = [video_of(name, known) for name, known in zip(ids, of)]
                rows += zip(ids, videos, contents_of(table, modalities))
    except pa.ArrowException as error:
        raise DataError(
            f"{path} can't be read ({first_line(error)}); "
            f"check it with `raymc data check {dataset.path}`"
        ) from error
    return rows


def video_column(names: Sequence[str]) -> str | None:
    """Return the extra column that names the clips' videos; None if there is none."""
    return next((name for name in _VIDEO_COLUMNS if name in names), None)


def video_of(name: str | None, known: object) -> str | None:
    """Return what names a clip's video, from its id and that column; None if nothing does."""
    if known is not None and known != "":
        return str(known)
    window = _WINDOW.fullmatch(name or "")
    return window[1] if window else None


def contents_of(table: pa.Table, modalities: Sequence[Modality]) -> list[bytes | None]:
    """Return a digest of each row's tokens of all modalities; None for a row without tokens."""
    tokens = [ragged(table[modality.name], modality) for modality in modalities]
    found: list[bytes | None] = []
    for row in range(len(table)):
        parts = [one.values[one.offsets[row] : one.offsets[row + 1]] for one in tokens]
        if not any(len(part) for part in parts):
            found.append(None)
            continue
        digest = hashlib.sha256(str([len(part) for part in parts]).encode())
        for part in parts:
            digest.update(part.data)
        found.append(digest.digest()[:16])
    return found
