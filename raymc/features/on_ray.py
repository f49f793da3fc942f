"""`raymc extract` on Ray Data: videos to a dataset of shards. Few are read in this process.

Tasks decode files and actors encode them. The driver receives the features in the order of the
files and writes each shard as soon as its rows have arrived, with a journal of its progress: an
interrupted job resumes there, and leaves the same files as an uninterrupted one.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from pyarrow import fs
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from raymc.config import AUTO, ExtractConfig
from raymc.data.labels import Vocabulary
from raymc.data.shards import (
    FAILURES_FILE,
    Manifest,
    Modality,
    Row,
    ShardStream,
    open_dataset,
    read_shard,
)
from raymc.data.shards.manifest import MANIFEST_FILE, PLAN_FILE
from raymc.data.shards.read import read_json
from raymc.data.storage import exists, open_address, reaching, read_bytes
from raymc.errors import DataError, ExtractionError
from raymc.events import ExtractProgress
from raymc.features.begun import (
    AGAIN,
    MEDIA_FILE,
    State,
    changed_files,
    inside,
    media_states,
    stored_items,
    take_over,
)
from raymc.features.clips import Failure, is_media
from raymc.features.extraction import (
    END,
    SIDECAR,
    STUCK_SECONDS,
    EncodedClip,
    Encoders,
    ExtractPlan,
    Item,
    are_few,
    encode,
    extract_files,
    extract_files_apart,
    extract_here,
    make_encoders,
    plan_extraction,
    streams_of,
)
from raymc.features.recipe import ENCODER_WEIGHTS, FEATURES, FEATURES_KEY, LATER, MADE_BY, recipe_in
from raymc.features.sources import Listing, Source, check_present, extra_fields, list_media
from raymc.features.transcripts import find_sidecars
from raymc.runtime.connect import (
    capacity,
    connect,
    explained,
    gpus_to_use,
    keep_order,
    most_at_work,
)

_FAILURE_SCHEMA = pa.schema([(name, pa.string()) for name in ("path", "id", "stage", "error")])


@dataclass(frozen=True)
class ExtractSummary:
    """The result of a job: the dataset, the number of files, the rows of `failures.parquet`.

    `wordless` are the paths of the clips without text, one for each clip; `texts` those of the
    media with a text file beside them. `read_again` is the number of files that had failed and
    were replaced since.
    """

    manifest: Manifest
    files: int
    failures: tuple[Failure, ...]
    wordless: tuple[str, ...] = ()
    texts: frozenset[str] = frozenset()
    read_again: int = 0

    @property
    def failed_files(self) -> int:
        """The number of files that could not be read, or only in part."""
        return len({failure.path for failure in self.failures})

    def text_line(self) -> str:
        """Say how many clips have no text, and why; empty if all have some."""
        unread = {failure.path for failure in self.failures if "text" in failure.stage}
        reasons = Counter(
            "without a text file beside the video"
            if path not in self.texts
            else "whose text could not be read"
            if path in unread
            else "in which nothing is said"
            for path in self.wordless
        )
        clips = sum(map(self.manifest.rows, self.manifest.splits))
        why = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        return f"text: {len(self.wordless):,} of {clips:,} clips have none: {why}" if why else ""


def extract(
    config: ExtractConfig,
    out: str,
    *,
    listener: Callable[[ExtractProgress], None],
    on_listing: Callable[[Listing], None] = lambda listing: None,
) -> ExtractSummary:
    """Make a dataset of the features of videos, or resume an interrupted job.

    Args:
        config: Which media, and how they are encoded.
        out: Folder of the dataset: a local path, or any address pyarrow or fsspec knows.
        listener: Called with the job's progress after each file.
        on_listing: Called with the media before any is decoded.

    Raises:
        ConfigError: An encoder is unknown, or none is named.
        DataError: The media can't be listed or have changed, or `out` is a file, or holds media or
            another dataset.
        ExtractionError: No file could be read.
        ResourceError: Weights, a package or a requested GPU are missing.
    """
    _check_place(out)
    plan = plan_extraction(as_begun(config, out))
    listing = list_media(config)
    on_listing(replace(listing, lines=[*listing.lines, _features_line(plan)]))
    check_present(listing.sources)
    sources = _by_split(listing.sources)
    take_over(out)
    _check_raymc(out)
    # `_check_media` compares the weights; a dataset of an older raymc tells none
    begun = _begun(out)
    weights = plan.weights if begun is None else begun.get(ENCODER_WEIGHTS, {})
    manifest, fields = _manifest(plan, sources, weights, listing.notes), extra_fields(sources)
    stream = ShardStream(out, manifest, extra_fields=fields, shard_rows=config.shard_rows)
    again = _check_media(out, stream, sources, plan)
    if stream.finished is None:
        _Job(sources, plan, stream, listener).run(partial(extract_items, sources, plan))
    if again:
        noted = _to_note(_read_noted(out) or {}, media_states(sources, plan), plan)
        place = _begin_again(out, noted)
        stream = ShardStream(place, manifest, extra_fields=fields, shard_rows=config.shard_rows)
        _write_noted(stream, noted)
        _Job(sources, plan, stream, listener).run(
            partial(_items_again, out, sources, plan, again=again)
        )
        take_over(out)
    assert stream.finished is not None
    summary = ExtractSummary(
        stream.finished, len(sources), _read_failures(out), read_again=len(again)
    )
    if not plan.reads_sidecars:
        return summary
    found = find_sidecars({source.path for source in sources}, config.language)
    texts = frozenset(path for path, files in found.items() if files)
    return replace(summary, wordless=tuple(_wordless(out)), texts=texts)


def _check_place(out: str) -> None:
    """Check that a dataset can be in `out`, before anything is made of the media.

    Raises:
        DataError: It is a file, or a folder of media.
    """
    filesystem, root = open_address(out)
    with reaching(out):
        found = filesystem.get_file_info(root)
        if found.type == fs.FileType.File:
            raise DataError(f"{out} is a file: name a folder for the dataset")
        if _begun(out) is None:
            files = filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True))
            media = (one.base_name for one in files if is_media(one.base_name))
            if name := next(media, None):
                raise DataError(
                    f"{out} holds media, such as {name}: name a folder of its own for the dataset"
                )


def _features_line(plan: ExtractPlan) -> str:
    """Say which encoders make the features."""
    named = {name: one.encoder for name, one in streams_of(plan.config).items()}
    read = {plan.models[key] for key in plan.models.keys() & {"transcript", "reader"}} - {SIDECAR}
    after = f"; words by {' and '.join(sorted(read))}" if read else ""
    return f"features: {', '.join(f'{name} {one}' for name, one in named.items())}{after}"


def as_begun(config: ExtractConfig, out: str) -> ExtractConfig:
    """Return the settings with what `auto` stood for when the dataset in `out` was begun."""
    made = recipe_in(_begun(out) or {}) or {}
    asked = {"visual": config.visual, "text": config.text}
    chosen = {name: made[name] for name in asked.keys() & made if asked[name] == AUTO}
    return replace(config, **chosen)


def _begun(out: str) -> Mapping[str, Any] | None:
    """Return the provenance of the dataset in `out`, finished or not; None if there is none."""
    filesystem, root = open_address(out)
    with reaching(out):
        files = [f"{root}/{name}" for name in (MANIFEST_FILE, PLAN_FILE)]
        begun = next((file for file in files if exists(filesystem, file)), None)
        return read_json(filesystem, begun).get("provenance", {}) if begun else None


def _wordless(out: str) -> Iterator[str]:
    """Yield the path of each clip without text: no token, or only zeros, as `words` gives."""
    dataset = open_dataset(out)
    for shards in dataset.manifest.splits.values():
        for shard in shards:
            table = read_shard(dataset, shard, ["path", "text"])
            columns = table["path"].to_pylist(), table["text"].to_pylist()
            yield from (path for path, data in zip(*columns) if not (data or b"").strip(b"\0"))


def _check_raymc(out: str) -> None:
    """Refuse a dataset that was begun by a raymc which makes other features.

    Raises:
        DataError: It was.
    """
    known = _read_noted(out)
    if known is not None and known.get("features") != FEATURES:
        raise DataError(
            f"{out} was begun by a raymc that makes other features: choose another folder with "
            "--out"
        )


def _check_media(
    out: str, stream: ShardStream, sources: Sequence[Source], plan: ExtractPlan
) -> frozenset[str]:
    """Check that media and weights are those with which the dataset was begun, or note them.

    Of a file its size, the time of its last change and a sample of its bytes count, or the version
    that its server names, and its digest if the table has one; so do those of the text beside it.

    Returns:
        The paths of files that had failed and were replaced, and so are to be read again.

    Raises:
        DataError: Another file has changed, or the weights of an encoder.
    """
    known, now = _read_noted(out), media_states(sources, plan)
    if known is None:
        if stream.finished is None:
            _write_noted(stream, _to_note({}, now, plan))
        return frozenset()
    another = "choose another folder with --out"
    weights = known.get("weights", {})
    for name, digest in plan.weights.items():
        if weights.get(name, digest) != digest:
            model = plan.models[name]
            raise DataError(f"{out} was begun with other weights of {model}: {another}")
    read = _read_so_far(stream, sources)
    failed = {failure.path for failure in _failures_so_far(out, stream)}
    files = changed_files(known.get("files", {}), now["files"], read, failed)
    texts = changed_files(known.get("texts", {}), now["texts"], read, failed)
    lost = sorted((files | texts) - failed)
    if lost:
        count, have = (f"{len(lost)} media files", "have") if lost[1:] else ("a media file", "has")
        of = "" if lost[0] in files else "the text of "
        raise DataError(
            f"{count} {have} changed since {out} was begun, such as {of}{lost[0]}: {another}"
        )
    if stream.finished is None:  # of the files that are still to be read
        _write_noted(stream, _to_note(known, now, plan, keep=read))
    return frozenset(files | texts)


def _read_noted(out: str) -> dict[str, Any] | None:
    """Return what is noted beside a dataset; None if nothing is."""
    filesystem, root = open_address(out)
    place = f"{root}/{MEDIA_FILE}"
    with reaching(place):
        return read_json(filesystem, place) if exists(filesystem, place) else None


def _to_note(
    known: Mapping[str, Any],
    now: Mapping[str, Mapping[str, State]],
    plan: ExtractPlan,
    *,
    keep: Collection[str] = (),
) -> dict[str, Any]:
    """Return what to note of all files: how they are now; how they were, if kept or missing."""
    states = {}
    for name, found in now.items():
        before = known.get(name, {})
        kept = {path for path in before if path in keep or found.get(path) is None}
        states[name] = {path: before[path] if path in kept else found[path] for path in found}
    return {"features": FEATURES, **states, "weights": dict(plan.weights)}


def _write_noted(stream: ShardStream, noted: Mapping[str, Any]) -> None:
    stream.write_beside(MEDIA_FILE, pa.py_buffer(json.dumps(noted).encode()))


def _read_so_far(stream: ShardStream, sources: Sequence[Source]) -> set[str]:
    """Return the paths of files that rows or failures of the dataset are of."""
    if stream.finished is not None:
        return {source.path for source in sources}
    last = stream.journal[-1].note if stream.journal else {"file": 0, "clips": 0}
    count = int(last["file"]) + (int(last["clips"]) > 0)
    return {source.path for source in sources[:count]}


def _failures_so_far(out: str, stream: ShardStream) -> Sequence[Failure]:
    if stream.finished is not None:
        return _read_failures(out)
    return [Failure(**one) for entry in stream.journal for one in entry.note["failures"]]


def _begin_again(out: str, noted: Mapping[str, Any]) -> str:
    """Return the folder for a dataset that is written again.

    It keeps what an interrupted command wrote there, if the files are still the same.
    """
    place = inside(out, AGAIN)
    if _read_noted(place) not in (None, noted):
        filesystem, root = open_address(place)
        with reaching(place):
            filesystem.delete_dir(root)
    return place


def _items_again(
    out: str,
    sources: Sequence[Source],
    plan: ExtractPlan,
    first: int,
    *,
    again: Collection[str],
) -> Iterator[tuple[int, Item]]:
    """Yield the items of files from number `first`: new ones of those in `again`, else stored."""
    dataset = open_dataset(out)
    dataset.verify(*dataset.manifest.splits)
    wanted = [source for source in sources[first:] if source.path in again]
    fresh = extract_items(wanted, plan, 0)
    yield from stored_items(dataset, sources, _read_failures(out), fresh, again=again, first=first)


class _Job:
    """Takes the items of the stages, in order, and writes them."""

    def __init__(
        self,
        sources: Sequence[Source],
        plan: ExtractPlan,
        stream: ShardStream,
        listener: Callable[[ExtractProgress], None],
    ) -> None:
        self._sources, self._plan, self._stream, self._listener = sources, plan, stream, listener
        self._failures = [Failure(**x) for entry in stream.journal for x in entry.note["failures"]]
        self._noted = len(self._failures)  # failures already in the journal
        self._clips, self._seconds = 0, 0.0  # of this process, without those of earlier ones

    def run(self, items_from: Callable[[int], Iterator[tuple[int, Item]]]) -> None:
        """Write the files that are not in the journal; `items_from` gives those from a number."""
        last = self._stream.journal[-1].note if self._stream.journal else {"file": 0, "clips": 0}
        first, clips = int(last["file"]), int(last["clips"])
        self._tell(first)
        for file, item in _unwritten(items_from(first), clips):
            clips = clips + 1 if isinstance(item, EncodedClip) else clips
            self._take(file, item, clips)
            clips = 0 if item is END else clips
        if not self._stream.journal:
            first = self._failures[0]
            raise ExtractionError(
                f"none of the {len(self._sources)} files has a clip that can be read; the first, "
                f"{first.path}: {first.error}"
            )
        table = pa.Table.from_pylist([asdict(x) for x in self._failures], _FAILURE_SCHEMA)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="none")
        self._stream.write_beside(FAILURES_FILE, sink.getvalue())
        self._stream.finish()

    def _take(self, file: int, item: Item, clips: int) -> None:
        split = self._sources[file].split
        if isinstance(item, EncodedClip):
            self._failures += item.failures
            self._clips += 1
            self._seconds += item.end_seconds - item.start_seconds
            self._stream.add(_row(self._sources[file], item, self._plan))
            if self._stream.is_full:
                self._flush(split, file, clips)
        elif isinstance(item, Failure):
            self._failures.append(item)
        else:
            is_last = file + 1 == len(self._sources)
            if is_last or self._sources[file + 1].split != split:
                self._flush(split, file + 1, 0)
            self._tell(file + 1)

    def _flush(self, split: str, file: int, clips: int) -> None:
        new = [asdict(failure) for failure in self._failures[self._noted :]]
        before = len(self._stream.journal)
        self._stream.flush(split, {"file": file, "clips": clips, "failures": new})
        if len(self._stream.journal) > before:
            self._noted = len(self._failures)

    def _tell(self, files: int) -> None:
        failed = len({failure.path for failure in self._failures})
        self._listener(
            ExtractProgress(files, len(self._sources), self._clips, self._seconds, failed)
        )


def _unwritten(items: Iterator[tuple[int, Item]], clips: int) -> Iterator[tuple[int, Item]]:
    """Skip the first file's items up to its clip number `clips`, written by an earlier job."""
    seen = 0
    for file, item in items:
        if item is END:  # a file that was replaced may have fewer clips
            seen = clips
        if seen >= clips:
            yield file, item
        seen += isinstance(item, EncodedClip)


def _by_split(sources: Sequence[Source]) -> list[Source]:
    usual = {"train": 0, "val": 1, "test": 2}
    return sorted(sources, key=lambda source: (usual.get(source.split, 3), source.split))


def _manifest(
    plan: ExtractPlan,
    sources: Sequence[Source],
    weights: Mapping[str, str],
    notes: Sequence[str] = (),
) -> Manifest:
    """Return the planned dataset; its provenance has the settings that change its rows."""
    names = sorted({label for source in sources for label in source.labels})
    told = json.dumps([asdict(source) for source in sources], sort_keys=True, default=str)
    every = asdict(plan.config)
    settings = {k: v for k, v in every.items() if k not in {*LATER, *_NOT_IN_RESULTS}}
    later = {name: every[name] for name in LATER}
    return Manifest(
        Vocabulary(tuple(names)),
        plan.modalities,
        splits={source.split: () for source in sources},
        provenance={
            "made_by": MADE_BY,
            **settings,
            "split": "train",  # as raymc 0.1.0 wrote it: datasets that it began go on
            **{name: value for name, value in later.items() if value != LATER[name]},
            **({ENCODER_WEIGHTS: dict(weights)} if weights else {}),
            **({FEATURES_KEY: FEATURES} if FEATURES > 1 else {}),
            "files": len(sources),
            "sources_sha256": hashlib.sha256(told.encode()).hexdigest(),
            **({"notes": [note.strip() for note in notes]} if notes else {}),
        },
        license=plan.config.license,
    )


# What is read from a table is in `sources_sha256`.
_OF_TABLES = (
    "videos",
    "columns",
    "label_separator",
    "encoding",
    "sheet",
    "unlabelled",
    "split",
    "seed",
)
_NOT_IN_RESULTS = (
    "weights",
    "max_failures",
    "device",
    "license",
    *_OF_TABLES,
)


def _row(source: Source, item: EncodedClip, plan: ExtractPlan) -> Row:
    stored = {modality.name: modality for modality in plan.modalities}
    return Row(
        id=item.id,
        labels=source.labels,
        tokens={name: _array(data, stored[name]) for name, data in item.tokens.items() if data},
        extra={
            **source.extra,
            "path": source.path,
            "start_seconds": item.start_seconds,
            "end_seconds": item.end_seconds,
        },
    )


def _array(data: bytes, modality: Modality) -> np.ndarray:
    return np.frombuffer(data, modality.numpy_dtype).reshape(-1, modality.dim)


def _read_failures(out: str) -> tuple[Failure, ...]:
    filesystem, root = open_address(out)
    data = read_bytes(filesystem, f"{root}/{FAILURES_FILE}")
    return tuple(Failure(**row) for row in pq.read_table(pa.BufferReader(data)).to_pylist())


# Enough to hide the cost of a task, and few enough that all workers end at about the same time.
FILES_PER_TASK = 16
HEAVY_FILES_PER_TASK = 4  # Ray Data passes on what a task has made when it ends
TASKS_OF_EACH = 8  # CPU, at least, where there are files enough
CLIPS_PER_BLOCK = 16  # so that the frames of a long video are never in memory all at once


def extract_items(
    sources: Sequence[Source], plan: ExtractPlan, first: int
) -> Iterator[tuple[int, Item]]:
    """Yield the items of the files from number `first`, in order; None ends each file.

    Raises:
        ResourceError: A GPU is asked for and there is none.
    """
    if sources[first:]:
        few = are_few(sources[first:], plan)
        numbered = list(enumerate(sources))[first:]
        yield from extract_here(numbered, plan) if few else _items_on_ray(sources, plan, first)


def _items_on_ray(
    sources: Sequence[Source], plan: ExtractPlan, first: int
) -> Iterator[tuple[int, Item]]:
    files = len(sources) - first
    connect()  # only now: errors in the request are reported without starting Ray
    gpus = 1 if plan.heavy and gpus_to_use(plan.config.device) else 0
    keep_order()
    shared = ray.put((tuple(sources), plan))
    tasks = -(-files // _per_task(files, plan))
    items = ray.data.range(files, override_num_blocks=tasks).map_batches(
        partial(_decode, shared=shared, first=first, apart=bool(gpus)),
        batch_size=None,
        num_cpus=1,
        compute=TaskPoolStrategy(most_at_work()),
    )
    if gpus:
        items = items.map_batches(
            _Encoder,
            batch_size=None,
            fn_constructor_args=(shared, "cuda"),
            compute=ActorPoolStrategy(min_size=1, max_size=_most_encoders()),
            num_cpus=0,
            num_gpus=gpus,
        )
    with explained():
        for batch in items.iter_batches(batch_size=None, batch_format="numpy"):
            yield from zip(batch["file"].tolist(), batch["item"])


def _per_task(files: int, plan: ExtractPlan) -> int:
    """Return how many files a task decodes.

    Of few files few, so that the first are seen early and all workers end at about the same time.
    """
    most = HEAVY_FILES_PER_TASK if plan.heavy else FILES_PER_TASK
    return max(1, min(most, files // int(TASKS_OF_EACH * max(1, capacity().get("CPU", 1)))))


def _decode(batch: Any, *, shared: ray.ObjectRef, first: int, apart: bool) -> Iterator[Any]:
    """Decode files, and encode what needs no weights; the rest, too, unless a GPU does it `apart`.

    Without a GPU, decoding and encoding in one process keeps every core busy, whichever takes
    longer.
    """
    sources, plan = _fetch(shared)
    files = [(file, sources[file]) for file in (batch["id"] + first).tolist()]
    encoders = _encoders(shared, with_weights=not apart)
    if _has_died():
        waiting = extract_files_apart(files, plan)
        waiting = _encoded(waiting, sources, plan, encoders)
    else:
        waiting = extract_files(files, plan, encoders, cpu_seconds=STUCK_SECONDS)
    while some := list(islice(waiting, CLIPS_PER_BLOCK)):
        yield _block(some)


def _encoded(
    items: Iterable[tuple[int, Item]],
    sources: Sequence[Source],
    plan: ExtractPlan,
    encoders: Encoders,
) -> Iterator[tuple[int, Item]]:
    """Yield items whose clips are encoded with a stage's encoders, too."""
    for file, item in items:
        is_clip = isinstance(item, EncodedClip)
        yield file, encode(item, sources[file].path, plan, encoders) if is_clip else item


def _has_died() -> bool:
    """Whether Ray retries this task: a file may have crashed FFmpeg and the task's process."""
    return ray.get_runtime_context().worker.core_worker.get_current_task_attempt_number() > 0


class _Encoder:
    def __init__(self, shared: ray.ObjectRef, device: str) -> None:
        self._sources, self._plan = _fetch(shared)
        self._encoders = make_encoders(self._plan.config, self._plan.heavy, device=device)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        items = zip(batch["file"].tolist(), batch["item"])
        return _block(list(_encoded(items, self._sources, self._plan, self._encoders)))


def _block(items: Sequence[tuple[int, Item]]) -> dict[str, np.ndarray]:
    column = np.empty(len(items), dtype=object)
    column[:] = [item for _, item in items]
    return {"file": np.array([file for file, _ in items]), "item": column}


@cache
def _fetch(shared: ray.ObjectRef) -> tuple[tuple[Source, ...], ExtractPlan]:
    """Return the job's sources and plan, fetched once per process."""
    return ray.get(shared)


@cache
def _encoders(shared: ray.ObjectRef, *, with_weights: bool) -> Encoders:
    _, plan = _fetch(shared)
    return make_encoders(plan.config, None if with_weights else plan.light)


def _most_encoders() -> int:
    return max(1, int(ray.cluster_resources().get("GPU", 0)))
