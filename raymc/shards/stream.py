"""Writes datasets whose rows arrive one by one, their number unknown, and goes on where it stopped.

Pure: pyarrow only. After each shard stands in a journal how far its source had got, so that a
writer that was killed asks its source for the rest alone; the files are those of one that
wasn't. `write.py` is for rows that can be counted and asked for by number.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
from pyarrow import fs

from raymc.errors import DataError
from raymc.shards import storage
from raymc.shards.manifest import PLAN_FILE, Manifest, Shard, to_text
from raymc.shards.read import read_json
from raymc.shards.rows import Row, check_names, write_shard
from raymc.shards.write import start_dataset, write_manifest

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
