"""Writes datasets: no reader ever sees half of one, and an interrupted write can be resumed.

The plan is written first, then the shards, `dataset.json` last, each file atomically. The bytes
depend only on the rows and the plan. `write_dataset` takes rows that can be counted and asked for
by number; `ShardStream` takes rows that arrive one by one, and keeps a journal to resume.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import NoneType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raymc.data import storage
from raymc.data.labels import Vocabulary
from raymc.data.shards.manifest import MANIFEST_FILE, PLAN_FILE, Manifest, Shard, to_text
from raymc.data.shards.read import read_json, read_manifest
from raymc.data.shards.rows import (
    Row,
    Rows,
    check_names,
    extra_fields_of,
    infer_extra_fields,
    write_shard,
)
from raymc.data.shards.tokens import Modality
from raymc.errors import DataError


def write_dataset(
    path: str,
    splits: Mapping[str, Rows],
    *,
    vocabulary: Vocabulary,
    modalities: Sequence[Modality],
    provenance: Mapping[str, Any] | None = None,
    license: str = "",
    shard_rows: int = 512,
) -> Manifest:
    """Write a dataset, resume an interrupted write, or return a finished dataset.

    Each row is asked for once, by number and in order, and only for shards that do not exist yet.
    A resumed write leaves the same files as an uninterrupted one.

    Args:
        path: Folder of the dataset: a local path or any address that pyarrow or fsspec knows.
        splits: Rows by split: lists, or objects that make row i on demand.
        vocabulary: All labels. With groups, each shard has a column `observed`.
        modalities: Columns of tokens.
        provenance: Where the rows come from, as JSON values. Different provenance means a
            different dataset, so include the settings that made the rows.
        license: Licence of the data.
        shard_rows: Rows per shard; the last one of a split has the rest.

    Raises:
        DataError: A row is invalid, the folder holds another dataset or other Parquet files, or
            it can't be written.
    """
    filesystem, root = storage.open_address(path)
    shards = {split: _outline(split, len(rows), shard_rows) for split, rows in splits.items()}
    plan = Manifest(vocabulary, tuple(modalities), shards, dict(provenance or {}), license)
    with storage.reaching(path):
        finished = start_dataset(filesystem, root, plan)
    if finished is None:
        finished = replace(plan, splits=_write_splits(filesystem, root, plan, splits))
        write_manifest(filesystem, root, finished)
        with storage.reaching(path):
            storage.delete_partials(filesystem, root)
            # another writer of the same dataset may have finished first
            if storage.exists(filesystem, f"{root}/{PLAN_FILE}"):
                filesystem.delete_file(f"{root}/{PLAN_FILE}")
    return finished


def write_manifest(filesystem: fs.FileSystem, root: str, manifest: Manifest) -> None:
    """Write `dataset.json`, which makes a folder of finished shards a dataset.

    Raises `DataError` if the provenance is not JSON, or the file can't be written.
    """
    text = to_text(manifest.to_json())
    with storage.reaching(root):
        storage.write_bytes(filesystem, f"{root}/{MANIFEST_FILE}", text.encode())


def _outline(split: str, rows: int, shard_rows: int) -> tuple[Shard, ...]:
    """Return the shards a split will have, without sizes and checksums."""
    if not split.replace("-", "").replace("_", "").isalnum() or split.startswith("_"):
        raise DataError(
            f"split '{split}': expected a name of letters, digits, - and _, such as 'train'"
        )
    if shard_rows < 1:
        raise DataError(f"shard_rows is {shard_rows}; expected 1 or more")
    return tuple(
        Shard(f"{split}/{k:05d}.parquet", min(shard_rows, rows - start), bytes=0, sha256="")
        for k, start in enumerate(range(0, rows, shard_rows))
    )


def start_dataset(
    filesystem: fs.FileSystem, root: str, plan: Manifest, *, counted: bool = True
) -> Manifest | None:
    """Write or check the plan of a dataset; return its manifest if the dataset is finished.

    `counted`: whether the plan has the shards; else it only names the splits. Raises `DataError` if
    the folder holds something else.
    """
    if storage.exists(filesystem, f"{root}/{MANIFEST_FILE}"):
        finished = read_manifest(filesystem, root)
        outlines = {
            split: tuple(replace(shard, bytes=0, sha256="") for shard in shards) if counted else ()
            for split, shards in finished.splits.items()
        }
        _check_same(root, replace(finished, splits=outlines).to_json(), plan)
        return finished
    plan_file = f"{root}/{PLAN_FILE}"
    if storage.exists(filesystem, plan_file):
        _check_same(root, read_json(filesystem, plan_file), plan)
        return None
    for file in storage.parquet_files(filesystem, root):
        raise DataError(f"{root} already holds {file}; choose another folder")
    storage.write_bytes(filesystem, plan_file, to_text(plan.to_json()).encode())
    return None


def _check_same(root: str, found: Mapping[str, Any], plan: Manifest) -> None:
    wanted = json.loads(to_text(plan.to_json()))
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        hints = {"splits": "number of rows, or shard_rows"}
        if "provenance" in differing:
            hints["provenance"] = _changes(found.get("provenance") or {}, wanted["provenance"])
        told = [f"{key} ({hints[key]})" if hints.get(key) else key for key in differing]
        raise DataError(
            f"{root} holds another dataset: different {', '.join(told)}; choose another folder"
        )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say which entries differ, and how those that are one value each do."""
    told = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            told.append(_changes(old, new))
        else:
            is_short = all(isinstance(x, (bool, float, int, NoneType)) for x in (old, new))
            told.append(f"{key}: {old} → {new}" if is_short else key)
    return ", ".join(told)


def _write_splits(
    filesystem: fs.FileSystem, root: str, plan: Manifest, splits: Mapping[str, Rows]
) -> dict[str, tuple[Shard, ...]]:
    """Write the missing shards; return all, with sizes and checksums."""
    with storage.reaching(root):
        present = set(storage.parquet_files(filesystem, root))
    extra_fields: Sequence[pa.Field] | None = None  # those of the first shard hold for all
    written: dict[str, list[Shard]] = {split: [] for split in plan.splits}
    for split, shards in plan.splits.items():
        first_row = 0
        for shard in shards:
            path = f"{root}/{shard.file}"
            found = _finished(filesystem, path, shard) if shard.file in present else None
            if found:
                done, schema = found
                if extra_fields is None:
                    extra_fields = extra_fields_of(schema, plan.modalities)
            else:
                rows = [splits[split][i] for i in range(first_row, first_row + shard.rows)]
                check_names(rows, plan.vocabulary, path, first_row)
                if extra_fields is None:
                    extra_fields = infer_extra_fields(rows, path)
                _, size, digest = write_shard(
                    filesystem,
                    path,
                    rows,
                    modalities=plan.modalities,
                    extra_fields=extra_fields,
                    with_observed=bool(plan.vocabulary.groups),
                    first_row=first_row,
                )
                done = replace(shard, bytes=size, sha256=digest)
            written[split].append(done)
            first_row += shard.rows
    return {split: tuple(shards) for split, shards in written.items()}


def _finished(filesystem: fs.FileSystem, path: str, shard: Shard) -> tuple[Shard, pa.Schema] | None:
    """Return a shard written earlier; None if it is damaged, e.g. by a crash of the machine."""
    with storage.reaching(path):
        data = storage.read_bytes(filesystem, path)
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data))
    except pa.ArrowException:
        return None
    if parquet.metadata.num_rows != shard.rows:
        return None
    digest = hashlib.sha256(data).hexdigest()
    return replace(shard, bytes=len(data), sha256=digest), parquet.schema_arrow


JOURNAL_FOLDER = ".journal"  # one file per written shard: how far the source had got


@dataclass(frozen=True)
class Entry:
    """A journal entry: a written shard, and its writer's note as JSON values."""

    shard: Shard
    note: Mapping[str, Any]


class ShardStream:
    """Takes the rows of one split after the other, and writes them as shards.

    Args:
        address: Folder of the dataset: a local path, or any address pyarrow or fsspec knows.
        plan: What the dataset will be; its splits have names, but no shards yet.
        extra_fields: Types of the extra columns.
        shard_rows: Rows per shard; the last one of a split has the rest.

    Attributes:
        finished: The manifest, once the dataset is complete; else None.
        journal: The written shards, in order, including those of an interrupted writer.

    Raises:
        DataError: The folder holds another dataset or other Parquet files, or can't be reached.
    """

    def __init__(
        self,
        address: str,
        plan: Manifest,
        *,
        extra_fields: Sequence[pa.Field] = (),
        shard_rows: int = 512,
    ) -> None:
        self._filesystem, self._root = storage.open_address(address)
        self._plan, self._extra_fields, self._shard_rows = plan, extra_fields, shard_rows
        self._rows: list[Row] = []

        with storage.reaching(address):
            self.finished = start_dataset(self._filesystem, self._root, plan, counted=False)
            self.journal = [] if self.finished else list(_entries(self._filesystem, self._root))

    @property
    def is_full(self) -> bool:
        """Whether there are enough rows for the next shard."""
        return len(self._rows) >= self._shard_rows

    def add(self, row: Row) -> None:
        """Add a row to the next shard."""
        self._rows.append(row)

    def flush(self, split: str, note: Mapping[str, Any]) -> None:
        """Write the rows added since the last shard, if any, as the next shard of `split`.

        `note` is what the writer needs to resume after this shard, as JSON values. Raises
        `DataError` if a row is invalid, or the file can't be written.
        """
        if not self._rows:
            return
        before = [entry.shard for entry in self.journal if _split_of(entry.shard) == split]
        file = f"{split}/{len(before):05d}.parquet"
        path, first_row = f"{self._root}/{file}", sum(shard.rows for shard in before)
        check_names(self._rows, self._plan.vocabulary, path, first_row)
        written = write_shard(
            self._filesystem,
            path,
            self._rows,
            modalities=self._plan.modalities,
            extra_fields=self._extra_fields,
            with_observed=bool(self._plan.vocabulary.groups),
            first_row=first_row,
        )
        entry = Entry(Shard(file, *written), note)
        with storage.reaching(self._root):
            name = f"{self._root}/{JOURNAL_FOLDER}/{len(self.journal):06d}.json"
            storage.write_bytes(self._filesystem, name, to_text(asdict(entry)).encode())
        self.journal.append(entry)
        self._rows = []

    def finish(self) -> Manifest:
        """Write `dataset.json`, which completes the dataset, and delete the journal."""
        shards = [entry.shard for entry in self.journal]
        splits = {
            split: tuple(shard for shard in shards if _split_of(shard) == split)
            for split in self._plan.splits
        }
        manifest = replace(self._plan, splits=splits)
        write_manifest(self._filesystem, self._root, manifest)
        with storage.reaching(self._root):
            storage.delete_partials(self._filesystem, self._root)
            self._filesystem.delete_file(f"{self._root}/{PLAN_FILE}")
            if self.journal:
                self._filesystem.delete_dir(f"{self._root}/{JOURNAL_FOLDER}")
        self.finished = manifest
        return manifest

    def write_beside(self, name: str, data: pa.Buffer) -> None:
        """Write another file into the dataset's folder, atomically."""
        with storage.reaching(self._root):
            storage.write_bytes(self._filesystem, f"{self._root}/{name}", data)


def _entries(filesystem: fs.FileSystem, root: str) -> Iterator[Entry]:
    """Yield the journal up to the first damaged entry or shard: a crash may leave one."""
    for number in range(1 << 31):
        file = f"{root}/{JOURNAL_FOLDER}/{number:06d}.json"
        if not storage.exists(filesystem, file):
            return
        try:
            values = read_json(filesystem, file)
            entry = Entry(Shard(**values["shard"]), values["note"])
        except (DataError, KeyError, TypeError):
            return
        if filesystem.get_file_info(f"{root}/{entry.shard.file}").size != entry.shard.bytes:
            return
        yield entry


def _split_of(shard: Shard) -> str:
    return shard.file.partition("/")[0]
