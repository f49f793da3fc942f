"""Writes datasets so that no reader ever sees half of one, and goes on after an interruption.

Pure: pyarrow only. A plan is written first, the shards next, `dataset.json` last, each file
under a temporary name that is then moved. The bytes depend on the rows and the plan alone.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
    """Write a dataset, go on with one that was interrupted, or return one that is finished.

    Rows are asked for by number, in order, once, and only for shards that aren't there yet; the
    files are the same as those of a write that was never interrupted.

    Args:
        path: Folder of the dataset: a local path or any address that pyarrow or fsspec knows.
        splits: Rows by split: lists, or anything that makes row i when asked for it.
        vocabulary: All labels. With groups, each shard has a column `observed`.
        modalities: Columns of tokens.
        provenance: Where the rows come from, as JSON values. Other provenance is another
            dataset, so the settings that made the rows belong here.
        license: Licence of the data.
        shard_rows: Rows per shard; the last one of a split has the rest.

    Raises:
        DataError: A row breaks the contract, the folder holds another dataset or other Parquet
            files, or it can't be written.
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
            if storage.exists(filesystem, f"{root}/{PLAN_FILE}"):  # not if a twin was faster
                filesystem.delete_file(f"{root}/{PLAN_FILE}")
    return finished


def write_manifest(filesystem: fs.FileSystem, root: str, manifest: Manifest) -> None:
    """Write `dataset.json` into a folder whose shards are all there: from now on it is a dataset.

    Raises:
        DataError: The provenance is not JSON, or the file can't be written.
    """
    text = to_text(manifest.to_json())
    with storage.reaching(root):
        storage.write_bytes(filesystem, f"{root}/{MANIFEST_FILE}", text.encode())


def _outline(split: str, rows: int, shard_rows: int) -> tuple[Shard, ...]:
    """Return the shards a split will have, sizes and checksums still open."""
    if not split.replace("-", "").replace("_", "").isalnum() or split.startswith("_"):
        raise DataError(f"split '{split}': expected letters, digits, - and _, such as 'train'")
    if shard_rows < 1:
        raise DataError(f"shard_rows is {shard_rows}; expected 1 or more")
    return tuple(
        Shard(f"{split}/{k:05d}.parquet", min(shard_rows, rows - start), bytes=0, sha256="")
        for k, start in enumerate(range(0, rows, shard_rows))
    )


def start_dataset(
    filesystem: fs.FileSystem, root: str, plan: Manifest, *, counted: bool = True
) -> Manifest | None:
    """Write or check the plan of a dataset; return the manifest if nothing is left to do.

    Args:
        filesystem: Where to write.
        root: The dataset's folder.
        plan: What it will hold.
        counted: Whether the plan knows the shards; else its splits are but named.

    Raises:
        DataError: The folder holds something else.
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
        raise DataError(f"{root} already holds {file}; choose another folder, or delete this one")
    storage.write_bytes(filesystem, plan_file, to_text(plan.to_json()).encode())
    return None


def _check_same(root: str, found: Mapping[str, Any], plan: Manifest) -> None:
    wanted = json.loads(to_text(plan.to_json()))
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        hint = " (number of rows, or shard_rows)" if "splits" in differing else ""
        raise DataError(
            f"{root} holds another dataset: other {', '.join(differing)}{hint}; choose another "
            "folder, or delete this one"
        )


def _write_splits(
    filesystem: fs.FileSystem, root: str, plan: Manifest, splits: Mapping[str, Rows]
) -> dict[str, tuple[Shard, ...]]:
    """Write the shards that aren't there yet; return all, sizes and checksums filled in."""
    with storage.reaching(root):
        present = set(storage.parquet_files(filesystem, root))
    extra_fields: Sequence[pa.Field] | None = None  # those of the first shard, for all
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
    """Return a shard that an earlier run wrote; None if a crash of the machine tore it."""
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


# Writes datasets whose rows arrive one by one, their number unknown, and goes on where it
# stopped. Pure: pyarrow only. After each shard stands in a journal how far its source had got, so
# that a writer that was killed asks its source for the rest alone; the files are those of one
# that wasn't. `write.py` is for rows that can be counted and asked for by number.


JOURNAL_FOLDER = ".journal"


@dataclass(frozen=True)
class Entry:
    """A shard that is written, and what its writer noted with it: any JSON values."""

    shard: Shard
    note: Mapping[str, Any]


class ShardStream:
    """Takes the rows of one split after the other, and writes them as shards.

    Args:
        address: Folder of the dataset: a local path, or any address pyarrow or fsspec knows.
        plan: What the dataset will be; its splits name those to come, and have no shards yet.
        extra_fields: Types of the extra columns.
        shard_rows: Rows per shard; the last one of a split has the rest.

    Attributes:
        finished: The manifest, if the dataset was complete before.
        journal: The shards that are written, in order, those of an earlier writer included.

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
        """Whether the rows taken since the last shard make a whole one."""
        return len(self._rows) >= self._shard_rows

    def add(self, row: Row) -> None:
        """Take a row."""
        self._rows.append(row)

    def flush(self, split: str, note: Mapping[str, Any]) -> None:
        """Write the rows taken since the last shard as the next one of `split`, if there are any.

        Args:
            split: One of the plan's.
            note: Kept beside the shard; what the writer needs to go on after it.

        Raises:
            DataError: A row breaks the contract, or the file can't be written.
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
        """Write `dataset.json` and clear the journal away; from now on the dataset is one."""
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
        """Write a further file into the dataset's folder, whole or not at all."""
        with storage.reaching(self._root):
            storage.write_bytes(self._filesystem, f"{self._root}/{name}", data)


def _entries(filesystem: fs.FileSystem, root: str) -> Iterator[Entry]:
    """Yield the journal as far as its shards are whole; a crash may have torn the last."""
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
