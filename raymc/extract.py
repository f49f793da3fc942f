"""Videos to a dataset of shards: what comes out of the stages is written by the driver, in order.

Ray layer. The driver writes a shard as soon as its rows are there, and beside it how far it has
come: an interrupted job does only what is missing, and its files are those of one that never
stopped.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymc.cluster import connect, gpus_to_use
from raymc.errors import ConfigError, ExtractionError
from raymc.events import ExtractProgress
from raymc.features.apart import END, Item
from raymc.features.clips import Failure
from raymc.features.extraction import Extract, ExtractPlan, plan_extraction
from raymc.features.settings import ExtractConfig
from raymc.features.sources import Source, list_sources
from raymc.labels import Vocabulary
from raymc.shards import FAILURES_FILE, Manifest, Modality, Row, ShardStream
from raymc.shards.storage import open_address, read_bytes
from raymc.stages import extract_items

_FAILURE_SCHEMA = pa.schema([(name, pa.string()) for name in ("path", "id", "stage", "error")])


@dataclass(frozen=True)
class ExtractSummary:
    """What became of a job's files.

    Attributes:
        manifest: The dataset.
        files: All files that were asked for.
        failures: Every line of `failures.parquet`.
    """

    manifest: Manifest
    files: int
    failures: tuple[Failure, ...]

    @property
    def failed_files(self) -> int:
        """Files of which something couldn't be read."""
        return len({failure.path for failure in self.failures})


def extract(
    config: ExtractConfig, out: str, *, listener: Callable[[ExtractProgress], None]
) -> ExtractSummary:
    """Make a dataset of the features of videos, or go on with one that was interrupted.

    Args:
        config: Which media, and how they are encoded.
        out: Folder of the dataset: a local path, or any address pyarrow or fsspec knows.
        listener: Is told how far the job is, after each file.

    Raises:
        ConfigError: An encoder is unknown, or none is asked for.
        DataError: The media can't be listed, or `out` holds another dataset.
        ExtractionError: Nothing could be read at all.
        ResourceError: Weights, a package or a GPU that was asked for isn't there.
    """
    if not config.source:
        raise ConfigError("no media are named; give a folder, a glob or a table of videos")
    plan = plan_extraction(config)
    sources = _by_split(list_sources(config.source))
    stream = ShardStream(
        out,
        _manifest(plan, sources),
        extra_fields=_extra_fields(sources),
        shard_rows=config.shard_rows,
    )
    if stream.finished is None:
        connect()  # only now: what can be wrong with the request is found without Ray
        gpus = 1 if plan.heavy and gpus_to_use(config.device) else 0
        _Job(sources, plan, stream, listener).run(gpus)
    assert stream.finished is not None
    return ExtractSummary(stream.finished, len(sources), _read_failures(out))


class _Job:
    """Takes what comes out of the stages, in order, and writes it."""

    def __init__(
        self,
        sources: Sequence[Source],
        plan: ExtractPlan,
        stream: ShardStream,
        listener: Callable[[ExtractProgress], None],
    ) -> None:
        self._sources, self._plan, self._stream, self._listener = sources, plan, stream, listener
        self._failures = [Failure(**x) for entry in stream.journal for x in entry.note["failures"]]
        self._noted = len(self._failures)  # failures that stand in the journal
        self._clips, self._seconds = 0, 0.0  # what this process went through

    def run(self, gpus: int) -> None:
        """Do what is missing."""
        last = self._stream.journal[-1].note if self._stream.journal else {"file": 0, "clips": 0}
        first, clips = int(last["file"]), int(last["clips"])
        for file, item in _unwritten(extract_items(self._sources, self._plan, first, gpus), clips):
            clips = clips + 1 if isinstance(item, Extract) else clips
            self._take(file, item, clips)
            clips = 0 if item is END else clips
        if not self._stream.journal:
            raise ExtractionError(self._nothing())
        table = pa.Table.from_pylist([asdict(x) for x in self._failures], _FAILURE_SCHEMA)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="none")
        self._stream.write_beside(FAILURES_FILE, sink.getvalue())
        self._stream.finish()

    def _take(self, file: int, item: Item, clips: int) -> None:
        split = self._sources[file].split
        if isinstance(item, Extract):
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

    def _nothing(self) -> str:
        first = self._failures[0]
        return (
            f"none of the {len(self._sources)} files gave a clip; the first, {first.path}: "
            f"{first.error}"
        )


def _unwritten(items: Iterator[tuple[int, Item]], clips: int) -> Iterator[tuple[int, Item]]:
    """Leave out what the first file gave up to its clip number `clips`: an earlier job has it."""
    seen = 0
    for file, item in items:
        if seen >= clips:
            yield file, item
        seen += isinstance(item, Extract)


def _by_split(sources: Sequence[Source]) -> list[Source]:
    """Put the files of a split next to each other, the usual splits first."""
    usual = {"train": 0, "val": 1, "test": 2}
    return sorted(sources, key=lambda source: (usual.get(source.split, 3), source.split))


def _manifest(plan: ExtractPlan, sources: Sequence[Source]) -> Manifest:
    """Return what the dataset will be; its provenance tells it from that of other settings."""
    names = sorted({label for source in sources for label in source.labels})
    told = json.dumps([asdict(source) for source in sources], sort_keys=True, default=str)
    settings = {k: v for k, v in asdict(plan.config).items() if k not in _NOT_IN_RESULTS}
    return Manifest(
        Vocabulary(tuple(names)),
        plan.modalities,
        splits={source.split: () for source in sources},
        provenance={
            "made_by": "raymc extract",
            **settings,
            "files": len(sources),
            "sources_sha256": hashlib.sha256(told.encode()).hexdigest(),
        },
        license=plan.config.license,
    )


_NOT_IN_RESULTS = ("weights", "max_failures", "device", "license")


def _extra_fields(sources: Sequence[Source]) -> list[pa.Field]:
    kinds = {"path": pa.string(), "start_seconds": pa.float64(), "end_seconds": pa.float64()}
    for name in dict.fromkeys(name for source in sources for name in source.extra):
        kind = pa.array([source.extra.get(name) for source in sources]).type
        kinds[name] = pa.string() if kind == pa.null() else kind
    return [pa.field(name, kind) for name, kind in kinds.items()]


def _row(source: Source, item: Extract, plan: ExtractPlan) -> Row:
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
