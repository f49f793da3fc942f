"""Finds clips of one split that another split has as well: scores on them are too high.

A model remembers what it was trained on. So no id, no content and no video should be in two
splits.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymc.data.shards import Modality, ragged

# Extra columns that name a clip's video, the first of them that a file has; `path` is written by
# `raymc extract`, `video` by `raymc import coin`.
VIDEO_COLUMNS = ("path", "video", "video_id", "url")
_WINDOW = re.compile(r"(.+)@\d+(?:\.\d+)?-(?:\d+(?:\.\d+)?)?")  # an id that `raymc extract` gives
_DIGEST = pa.binary(16)


@dataclass(frozen=True)
class Clips:
    """What is compared of the clips of a split: arrays of one length, null where unknown."""

    ids: pa.Array
    videos: pa.Array
    contents: pa.Array


# Not by `pa.array`, which imports pandas: that takes long, and not all who import this need it.
NO_CLIPS = Clips(pa.nulls(0, pa.string()), pa.nulls(0, pa.string()), pa.nulls(0, _DIGEST))


def clips_in(table: pa.Table, modalities: Sequence[Modality]) -> Clips:
    """Return what is compared of a table's rows: id, video, and the content of `modalities`."""
    return Clips(
        ids=pa.array(table["id"].to_pylist(), pa.string()),
        videos=pa.array(videos_in(table), pa.string()),
        contents=pa.array(contents_of(table, modalities), _DIGEST),
    )


def joined(parts: Sequence[Clips]) -> Clips:
    """Return the clips of several tables as one."""
    return Clips(
        *(pa.concat_arrays([getattr(part, name.name) for part in parts]) for name in fields(Clips))
    )


def find_leaks(clips: Mapping[str, Clips]) -> list[str]:
    """Return a line about ids, one about contents and one about videos that are in two splits.

    Each line says how many there are, with an example; it is left out if there are none. Clips
    without a token have no content.
    """
    return [*_of_ids(clips), *_of_contents(clips), *_of_videos(clips)]


def _of_ids(clips: Mapping[str, Clips]) -> Iterator[str]:
    shared: list[pa.Array] = []
    example = ""
    for here, there in itertools.combinations(clips, 2):
        found = clips[there].ids.filter(_places(clips[there].ids, clips[here].ids).is_valid())
        if len(found):
            shared.append(found)
            example = example or f"{found[0].as_py()!r} in {here} and {there}"
    yield from _told(shared, "id is", "ids are", f"in more than one split, such as {example}")


def _of_contents(clips: Mapping[str, Clips]) -> Iterator[str]:
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


def _of_videos(clips: Mapping[str, Clips]) -> Iterator[str]:
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


def _under_other_ids(places: pa.Array, theirs: Clips, ours: Clips) -> pa.Array:
    """Say which of their clips have a place among ours without having the id of one of ours."""
    return pc.call_function("and", [places.is_valid(), _places(theirs.ids, ours.ids).is_null()])


def _places(values: pa.Array, among: pa.Array) -> pa.Array:
    """Return where each value is among others; null if it is not, or is unknown."""
    options = pc.SetLookupOptions(value_set=among, skip_nulls=True)
    return pc.call_function("index_in", [values], options)


def video_column(schema: pa.Schema) -> str | None:
    """Return the extra column that names the clips' videos; None if there is none.

    A column of tokens may be called `video`, too, but has bytes or lists.
    """
    found = (name for name in VIDEO_COLUMNS if name in schema.names)
    return next((name for name in found if not _has_tokens(schema.field(name).type)), None)


def _has_tokens(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    is_bytes = any(is_one(kind) for is_one in tests)
    return is_bytes or pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType)


def videos_in(table: pa.Table) -> list[str | None]:
    """Return what names each row's video, by `video_column` or the id."""
    ids, column = table["id"].to_pylist(), video_column(table.schema)
    known = table[column].to_pylist() if column else [None] * len(ids)
    return list(map(video_of, ids, known))


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
