"""Writes datasets so that no reader ever sees half of one, and goes on after an interruption.

Pure: pyarrow only. A plan is written first, the shards next, `dataset.json` last, each file
under a temporary name that is then moved. The bytes depend on the rows and the plan alone.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raymc.errors import DataError
from raymc.labels import Vocabulary
from raymc.shards import storage
from raymc.shards.manifest import MANIFEST_FILE, PLAN_FILE, Manifest, Shard, to_text
from raymc.shards.read import read_json, read_manifest
from raymc.shards.rows import Rows, check_names, extra_fields_of, infer_extra_fields, write_shard
from raymc.shards.tokens import Modality


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
