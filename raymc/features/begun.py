"""What an extraction was begun with, and how failed files that were replaced are read again.

`on_ray.py` notes the state of all media beside the dataset, and compares it when it resumes. What
was made of a file stays only while the file does. A file that had failed may be replaced: then the
dataset is written again in a hidden folder inside its own, with the stored rows of the other
files, and takes its place once it is complete. A crash at any moment leaves one of the two.
"""

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs

from raymc.data.shards import FAILURES_FILE, Dataset, read_shard
from raymc.data.shards.manifest import MANIFEST_FILE
from raymc.data.shards.read import read_manifest
from raymc.data.storage import exists, open_address, parquet_files, reaching
from raymc.errors import DataError
from raymc.features.clips import Failure
from raymc.features.extraction import END, EncodedClip, ExtractPlan, Item
from raymc.features.sources import Source
from raymc.features.transcripts import find_sidecars

MEDIA_FILE = ".media.json"
AGAIN = ".again"  # the folder inside the dataset's
State = list[int | str] | None
_REQUESTS = 16  # at once, for states that come one by one
_SAMPLE_BYTES = 4096  # of the beginning, the middle and the end of a local file
# What servers and file systems call a file's version, apart from its size.
_VERSIONS = ("ETag", "etag", "generation", "Content-MD5", "Last-Modified", "LastModified", "mtime")


def media_states(sources: Sequence[Source], plan: ExtractPlan) -> dict[str, dict[str, State]]:
    """Return the states of media and of the texts that are read beside them, by path of media."""
    paths = list(dict.fromkeys(source.path for source in sources))
    texts = _text_states(paths, plan.config.language) if plan.reads_sidecars else {}
    return {"files": states_of(paths), "texts": texts}


def states_of(paths: Sequence[str]) -> dict[str, State]:
    """Return the size of each file, the time of its last change and a sample, or its version.

    A file that is missing, or whose server does not answer, has None.
    """
    local = [path for path in paths if "://" not in path]
    states = dict(zip(local, _each(_local_state, local)))
    places: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for path in paths:
        if "://" in path:
            parts = urlsplit(path)
            places[parts.scheme, parts.netloc, parts.query].append(path)
    for group in places.values():
        states |= _remote_states(group)
    return {path: states[path] for path in paths}


def _text_states(media: Sequence[str], language: str) -> dict[str, State]:
    """Return the name and state of the text beside each media file; None without one."""
    folders: dict[str, list[str]] = defaultdict(list)
    for path in media:
        folders[_beside(path, "")].append(path)
    names: dict[str, str] = {}
    for paths in folders.values():
        with suppress(DataError):  # of a server, which is reported when its clips are read
            found = find_sidecars(paths, language)
            names |= {path: files[0] for path, files in found.items() if files}
    texts = {path: _beside(path, name) for path, name in names.items()}
    states = states_of([*texts.values()])
    found = {path: [names[path], *state] for path, text in texts.items() if (state := states[text])}
    return {path: found.get(path) for path in media}


def _beside(path: str, name: str) -> str:
    """Return the path or address of another file in a file's folder."""
    place, mark, options = path.partition("?") if "://" in path else (path, "", "")
    return os.path.join(os.path.dirname(place), name) + mark + options


def _each(state: Callable[[str], State], paths: Sequence[str]) -> list[State]:
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(state, paths))


def _local_state(path: str) -> State:
    """Return size, time and digest of a sample: another file may have the same size and time."""
    sample = hashlib.sha256()
    try:
        found = os.stat(path)
        if stat.S_ISREG(found.st_mode):  # a pipe would wait for its other end
            with open(path, "rb") as file:
                for place in (0, found.st_size // 2, max(0, found.st_size - _SAMPLE_BYTES)):
                    sample.update(os.pread(file.fileno(), _SAMPLE_BYTES, place))
    except (OSError, ValueError):
        return None
    return [found.st_size, found.st_mtime_ns, sample.hexdigest()[:16]]


def _remote_states(paths: Sequence[str]) -> dict[str, State]:
    """Return the states of files in one bucket or on one server."""
    try:
        filesystem, first = open_address(paths[0])
        # Opening an address may take a request, so the others' paths are made from the first.
        place = urlsplit(paths[0]).path.lstrip("/")
        if first.endswith(place) and not any("%" in path for path in paths):
            start = first[: len(first) - len(place)]
            inner = [start + urlsplit(path).path.lstrip("/") for path in paths]
        else:
            inner = [open_address(path)[1] for path in paths]
    except DataError:  # reported when its clips are read
        return dict.fromkeys(paths)
    if isinstance(filesystem, fs.LocalFileSystem):
        return dict(zip(paths, _each(_local_state, inner)))
    if isinstance(filesystem, fs.PyFileSystem) and isinstance(filesystem.handler, fs.FSSpecHandler):
        known = filesystem.handler.fs
        return dict(zip(paths, _each(partial(_fsspec_state, known), inner)))
    try:
        infos = filesystem.get_file_info(inner)
    except OSError:
        return dict.fromkeys(paths)
    return {
        path: [info.size, info.mtime_ns or 0] if info.is_file else None
        for path, info in zip(paths, infos)
    }


def _fsspec_state(filesystem: Any, path: str) -> State:
    try:
        info = filesystem.info(path)
    except Exception:  # of any package's own kind; reported when its clips are read
        return None
    versions = [str(info[name]) for name in _VERSIONS if info.get(name)]
    return [info.get("size") or 0, *versions]


def changed_files(
    before: Mapping[str, State],
    now: Mapping[str, State],
    read: Collection[str],
    failed: Collection[str],
) -> set[str]:
    """Return which of the files that were read are there and have changed since.

    A file on a server that did not answer at first has changed only if reading it failed, too.
    """
    return {
        path
        for path in before.keys() & now.keys() & set(read)
        if _has_changed(before[path], now[path])
        and (before[path] is not None or "://" not in path or path in failed)
    }


def _has_changed(before: State, now: State) -> bool:
    """Whether a file is there and is another; what an older raymc noted has no sample."""
    return now is not None and (before is None or now[: len(before)] != before)


def stored_items(
    dataset: Dataset,
    sources: Sequence[Source],
    failures: Sequence[Failure],
    fresh: Iterator[tuple[int, Item]],
    *,
    again: Collection[str],
    first: int,
) -> Iterator[tuple[int, Item]]:
    """Yield the items of files from number `first`, stored ones but for the files read again.

    Args:
        dataset: The dataset as it is.
        sources: All files, in the order of its rows.
        failures: Its failures.
        fresh: Items of those files from `first` that are read again, in order, each ended by None,
            under numbers that don't count.
        again: Paths of the files that are read again.
        first: Number of the first file whose items are wanted.
    """
    rows = _Peekable(_stored_clips(dataset))
    for number, source in enumerate(sources):
        clips = rows.take_while(lambda row, source=source: _is_of(source, row[0], row[1].id))
        if source.path in again:
            for _ in clips:
                pass
            if number >= first:
                yield from ((number, item) for item in _of_one_file(fresh))
            continue
        for _, clip in clips:
            if number >= first:
                yield number, clip
        if number >= first:
            told = (one for one in failures if _is_of(source, one.path, one.id))
            yield from ((number, failure) for failure in told)
            yield number, END
    if not rows.is_empty:
        raise DataError(
            f"{dataset.path} has rows of files that are not among the media: choose another folder "
            "with --out"
        )


def _stored_clips(dataset: Dataset) -> Iterator[tuple[str, EncodedClip]]:
    """Yield the rows of all splits in order, each with the path of its file."""
    names = [modality.name for modality in dataset.manifest.modalities]
    for shards in dataset.manifest.splits.values():
        for shard in shards:
            columns = ["path", "id", "start_seconds", "end_seconds", *names]
            table = read_shard(dataset, shard, columns)
            for path, id, start, end, *tokens in zip(
                *(table[name].to_pylist() for name in columns)
            ):
                stored = dict(zip(names, tokens))
                yield path, EncodedClip(id=id, start_seconds=start, end_seconds=end, tokens=stored)


def _is_of(source: Source, path: str, id: str) -> bool:
    """Return whether a row or failure is of a source: windows add @BEGIN-END to its id."""
    return path == source.path and (id == source.id or id.startswith(f"{source.id}@"))


def _of_one_file(items: Iterator[tuple[int, Item]]) -> Iterator[Item]:
    for _, item in items:
        yield item
        if item is END:
            return


class _Peekable:
    """An iterator whose next value can be looked at."""

    def __init__(self, values: Iterator[tuple[str, EncodedClip]]) -> None:
        self._values = values
        self._next = next(values, None)

    @property
    def is_empty(self) -> bool:
        return self._next is None

    def take_while(
        self, is_wanted: Callable[[tuple[str, EncodedClip]], bool]
    ) -> Iterator[tuple[str, EncodedClip]]:
        while self._next is not None and is_wanted(self._next):
            taken, self._next = self._next, next(self._values, None)
            yield taken


def inside(address: str, name: str) -> str:
    """Return the address of a file or folder inside a folder, whose options it keeps."""
    place, mark, options = address.partition("?") if "://" in address else (address, "", "")
    return f"{place.rstrip('/')}/{name}{mark}{options}"


def take_over(out: str) -> None:
    """Put the dataset that was written again, if it is complete, in the place of the old one.

    May be called again after a crash: the manifest comes last, and until then the new one is kept.
    """
    filesystem, root = open_address(out)
    new = f"{root}/{AGAIN}"
    with reaching(out):
        if not exists(filesystem, f"{new}/{MANIFEST_FILE}"):
            return
        splits = read_manifest(filesystem, new).splits
        kept = {shard.file for shards in splits.values() for shard in shards}
        if exists(filesystem, f"{root}/{MANIFEST_FILE}"):
            filesystem.delete_file(f"{root}/{MANIFEST_FILE}")
        for file in parquet_files(filesystem, root):
            if file not in kept and file.partition("/")[0] in splits:
                filesystem.delete_file(f"{root}/{file}")
        for file in (*sorted(kept), FAILURES_FILE, MEDIA_FILE, MANIFEST_FILE):
            if exists(filesystem, f"{new}/{file}"):
                filesystem.create_dir(f"{root}/{file}".rpartition("/")[0], recursive=True)
                filesystem.move(f"{new}/{file}", f"{root}/{file}")
        filesystem.delete_dir(new)
