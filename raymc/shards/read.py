"""Opens datasets and reads their shards, and says in one line what is wrong with a folder.

Pure: pyarrow only. Every reader (feed, evaluation, checks, statistics) comes through here.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raymc.errors import DataError, first_line
from raymc.shards import storage
from raymc.shards.manifest import MANIFEST_FILE, PLAN_FILE, Manifest, Shard
from raymc.shards.scan import scan


@dataclass(frozen=True)
class Dataset:
    """A dataset that was opened; it can be pickled and sent to other machines.

    Attributes:
        path: Its folder, as `filesystem` names it.
        filesystem: Where the folder is.
        manifest: What it holds.
    """

    path: str
    filesystem: fs.FileSystem
    manifest: Manifest

    def split(self, split: str) -> tuple[Shard, ...]:
        """Return the shards of a split, in order.

        Raises:
            DataError: There is no such split, or it has no rows.
        """
        shards = self.manifest.splits.get(split, ())
        if not any(shard.rows for shard in shards):
            known = [name for name in self.manifest.splits if self.manifest.rows(name)]
            found = "is empty" if split in self.manifest.splits else "does not exist"
            raise DataError(
                f"{self.path}: split '{split}' {found}; with rows: {', '.join(known) or 'none'}"
            )
        return shards

    def shard_paths(self, split: str) -> list[str]:
        """Return the paths of a split's shards inside `filesystem`, in order.

        Raises:
            DataError: There is no such split, or it has no rows.
        """
        return [f"{self.path}/{shard.file}" for shard in self.split(split)]


def open_dataset(path: str) -> Dataset:
    """Open a dataset.

    A folder of others without `dataset.json`, but with Parquet files in split folders, is
    scanned: modalities come from its columns, the vocabulary is the sorted union of its labels.

    Args:
        path: A local folder, or any address that pyarrow or fsspec knows, e.g. `s3://bucket/key`.

    Raises:
        DataError: Nothing is there, it is no dataset, it is unfinished, or can't be reached.
    """
    filesystem, root = storage.open_address(path)
    with storage.reaching(path):
        folder, manifest, plan = filesystem.get_file_info(
            [root, f"{root}/{MANIFEST_FILE}", f"{root}/{PLAN_FILE}"]
        )
        if manifest.is_file:
            return Dataset(root, filesystem, read_manifest(filesystem, root))
        if plan.is_file:
            raise DataError(
                f"{path} holds an unfinished dataset; to finish it run the same command again"
            )
        if folder.is_file:
            raise DataError(f"{path} is a file; expected the folder that holds the split folders")
        if folder.type == fs.FileType.NotFound:
            raise DataError(f"no dataset at {path}: there is no such folder; check the address")
        return Dataset(root, filesystem, scan(filesystem, root))


def read_manifest(filesystem: fs.FileSystem, root: str) -> Manifest:
    """Read the `dataset.json` of a folder.

    Raises:
        DataError: It is torn, of a newer version, or lacks a key.
    """
    file = f"{root}/{MANIFEST_FILE}"
    values = read_json(filesystem, file)
    try:
        return Manifest.from_json(values)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def read_json(filesystem: fs.FileSystem, file: str) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        DataError: It holds something else.
    """
    try:
        values = json.loads(storage.read_bytes(filesystem, file))
    except ValueError as error:
        raise DataError(f"{file} is not JSON ({error}); restore it from a copy") from error
    if not isinstance(values, dict):
        raise DataError(f"{file} is not a JSON object; restore it from a copy")
    return values


def read_shard(dataset: Dataset, shard: Shard, columns: Sequence[str] | None = None) -> pa.Table:
    """Read columns of a shard, all of them by default; labels that are null become empty lists.

    Raises:
        DataError: The file is missing, is torn or not the one the manifest knows, or lacks a
            column.
    """
    path = f"{dataset.path}/{shard.file}"
    try:
        with dataset.filesystem.open_input_file(path) as file:
            if file.size() != shard.bytes:
                raise DataError(
                    f"{path} has {file.size()} bytes, the manifest says {shard.bytes}; "
                    f"look at it with `raymc data check {dataset.path}`"
                )
            parquet = pq.ParquetFile(file, pre_buffer=True)
            missing = set(columns or ()) - set(parquet.schema_arrow.names)
            if missing:
                raise DataError(
                    f"{path} has no column '{min(missing)}'; "
                    f"it has {', '.join(parquet.schema_arrow.names)}"
                )
            table = parquet.read(columns=None if columns is None else list(columns))
            return _without_null_labels(table)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; restore it, or make the dataset again") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} can't be read ({first_line(error)}); "
            f"look at it with `raymc data check {dataset.path}`"
        ) from error


def _without_null_labels(table: pa.Table) -> pa.Table:
    if "labels" not in table.column_names or not table["labels"].null_count:
        return table
    names = [labels or [] for labels in table["labels"].to_pylist()]
    at = table.schema.get_field_index("labels")
    return table.set_column(at, "labels", pa.array(names, pa.list_(pa.string())))
