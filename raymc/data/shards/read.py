"""Opens datasets and reads their shards; every reader of a dataset comes through here.

`scan` describes folders of Parquet files of other tools, which have no `dataset.json`.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raymc.addresses import keep_password
from raymc.data import storage
from raymc.data.labels import Vocabulary
from raymc.data.shards.manifest import MANIFEST_FILE, PLAN_FILE, Manifest, Shard
from raymc.data.shards.ragged import is_list, is_token_value, label_entries, unnest
from raymc.data.shards.tokens import RESERVED_COLUMNS, Modality
from raymc.errors import DataError, first_line

_STORED_AS = {"halffloat": "float16", "int8": "float16", "uint8": "uint8"}


@dataclass(frozen=True, repr=False)
class Dataset:
    """An open dataset, which can be sent to other machines.

    Attributes:
        path: Its folder in `filesystem`.
        filesystem: Where it is.
        manifest: What it holds. Every shard has a checksum.
        checked: The shards whose checksums were computed when it was opened, because
            `dataset.json` has none.
        counts: The clips with each class, by split, of splits that were read before.
        means: The mean token of each modality, by split, of splits that were read before.
    """

    path: str
    filesystem: fs.FileSystem
    manifest: Manifest
    checked: frozenset[str] = frozenset()
    counts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    means: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return where it is, and how many rows its splits have."""
        labels = f"{len(self.manifest.vocabulary):,} labels"
        return f"Dataset({self.path!r}: {self.manifest.rows_text()}; {labels})"

    def split(self, split: str) -> tuple[Shard, ...]:
        """Return the shards of a split, in order; raises `DataError` if it has no rows."""
        shards = self.manifest.splits.get(split, ())
        if not any(shard.rows for shard in shards):
            known = [name for name in self.manifest.splits if self.manifest.rows(name)]
            found = "is empty" if split in self.manifest.splits else "does not exist"
            raise DataError(
                f"{self.path}: split '{split}' {found}; splits with rows: "
                f"{', '.join(known) or 'none'}"
            )
        return shards

    def shard_paths(self, split: str) -> list[str]:
        """Return the paths of a split's shards inside `filesystem`, in order; see `split`."""
        return [f"{self.path}/{shard.file}" for shard in self.split(split)]

    def verify(self, *splits: str) -> None:
        """Read the files of splits, and compare them with their checksums.

        A file may have changed after `dataset.json` was written, and the dataset's digest would
        then say that it is still the same.

        Raises:
            DataError: A file is missing, or is not the one that was written.
        """
        shards = [shard for split in splits for shard in self.manifest.splits.get(split, ())]
        shards = [shard for shard in shards if shard.file not in self.checked]
        for shard, found in zip(shards, _digests(self.filesystem, self.path, shards)):
            self.compare(shard, found)

    def compare(self, shard: Shard, found: str) -> None:
        """Raise `DataError` if the SHA-256 that was found is not that of a shard."""
        if found != shard.sha256:
            raise DataError(
                f"{self.path}/{shard.file} is not the file that was written: its SHA-256 "
                "differs; restore it, or make the dataset again in another folder"
            )


def open_dataset(path: str) -> Dataset:
    """Open a dataset.

    A folder without `dataset.json`, but with Parquet files in split folders, is scanned:
    modalities come from its columns, and the vocabulary is all its labels, sorted. Shards without
    a checksum are read as a whole to compute it: the digest of a dataset is that of its content.

    Args:
        path: A local folder, or any address that pyarrow or fsspec knows, e.g. `s3://bucket/key`.

    Raises:
        DataError: It does not exist, is not a dataset, is unfinished, has a file or link that leads
            out of its folder, or can't be reached.
    """
    path = keep_password(path)
    filesystem, root = storage.open_address(path)
    with storage.reaching(path):
        folder, manifest, plan = filesystem.get_file_info(
            [root, f"{root}/{MANIFEST_FILE}", f"{root}/{PLAN_FILE}"]
        )
        if manifest.is_file:
            return _opened(root, filesystem, read_manifest(filesystem, root))
        if plan.is_file:
            raise DataError(
                f"{path} holds an unfinished dataset; run the same command again to finish it"
            )
        if folder.is_file:
            raise DataError(f"{path} is a file; expected the folder that holds the split folders")
        if folder.type == fs.FileType.NotFound:
            hint = storage.near_name(path) or "; check the path"
            raise DataError(f"no dataset at {path}: there is no such folder{hint}")
        return _opened(root, filesystem, scan(filesystem, root))


def is_dataset(path: str) -> bool:
    """Return whether a folder holds a dataset, even an unfinished one, or `SPLIT/*.parquet` files.

    Parquet files in deeper folders make none: videos may lie beside datasets and runs.

    Raises:
        DataError: It can't be reached.
    """
    filesystem, root = storage.open_address(keep_password(path))
    with storage.reaching(path):
        folder, *files = filesystem.get_file_info(
            [root, f"{root}/{MANIFEST_FILE}", f"{root}/{PLAN_FILE}"]
        )
        if any(file.is_file for file in files):
            return True
        is_folder = folder.type == fs.FileType.Directory
    files = storage.parquet_files(filesystem, root) if is_folder else ()
    return any(file.count("/") == 1 for file in files)


def _opened(root: str, filesystem: fs.FileSystem, manifest: Manifest) -> Dataset:
    """Return the dataset of a manifest, with the checksums that this lacks."""
    shards = [shard for shards in manifest.splits.values() for shard in shards]
    _check_links(filesystem, root, [MANIFEST_FILE, *(shard.file for shard in shards)])
    unknown = [shard for shard in shards if not shard.sha256]
    if not unknown:
        return Dataset(root, filesystem, manifest)
    files = [shard.file for shard in unknown]
    sums = dict(zip(files, _digests(filesystem, root, unknown)))
    splits = {
        split: tuple(replace(one, sha256=sums.get(one.file, one.sha256)) for one in each)
        for split, each in manifest.splits.items()
    }
    return Dataset(root, filesystem, replace(manifest, splits=splits), frozenset(files))


def _check_links(filesystem: fs.FileSystem, root: str, files: Iterable[str]) -> None:
    """Check that no link leads out of a dataset's folder; the folder itself may be a link."""
    if not isinstance(filesystem, fs.LocalFileSystem):
        return
    home = os.path.realpath(root)
    for file in files:
        target = os.path.realpath(f"{root}/{file}")
        if os.path.commonpath([home, target]) != home:
            raise DataError(
                f"{root}/{file} is a link out of the dataset's folder, to {target}; put the file "
                "itself there"
            )


def _digests(filesystem: fs.FileSystem, root: str, shards: Sequence[Shard]) -> Iterator[str]:
    """Yield the SHA-256 of shards, a few of which are read at a time."""

    def digest(shard: Shard) -> str:
        _check_file(filesystem, root, shard)
        return storage.digest(filesystem, f"{root}/{shard.file}")

    with ThreadPoolExecutor() as pool:  # hashing releases Python's lock
        yield from pool.map(digest, shards)


def _check_file(filesystem: fs.FileSystem, root: str, shard: Shard) -> None:
    path = f"{root}/{shard.file}"
    with storage.reaching(path):
        info = filesystem.get_file_info(path)
    if not info.is_file:
        raise DataError(f"{path} is missing; restore it or make the dataset again")
    _check_size(root, shard, info.size)


def read_manifest(filesystem: fs.FileSystem, root: str) -> Manifest:
    """Read the `dataset.json` of a folder; raises `DataError` if this raymc can't read it."""
    file = f"{root}/{MANIFEST_FILE}"
    values = read_json(filesystem, file)
    try:
        return Manifest.from_json(values)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def read_json(filesystem: fs.FileSystem, file: str) -> dict[str, Any]:
    """Read a file that holds a JSON object; raises `DataError` if it holds something else."""
    try:
        values = json.loads(storage.read_bytes(filesystem, file))
    except ValueError as error:
        raise DataError(f"{file} is not JSON ({error}); restore it from a copy") from error
    if not isinstance(values, dict):
        raise DataError(f"{file} is not a JSON object; restore it from a copy")
    return values


def read_shard(
    dataset: Dataset,
    shard: Shard,
    columns: Sequence[str] | None = None,
    *,
    optional: Sequence[str] = (),
    verify: bool = False,
) -> pa.Table:
    """Read columns of a shard, all by default; null labels become empty lists.

    The columns in `optional` are read, too, if the shard has them. With `verify`, the whole file is
    read, once, and compared with its checksum, as `Dataset.verify` does.

    Raises:
        DataError: The file is missing or damaged, differs from the manifest, or lacks a column.
    """
    path = f"{dataset.path}/{shard.file}"
    try:
        with dataset.filesystem.open_input_file(path) as file:
            _check_size(dataset.path, shard, file.size())
            source = _verified(dataset, shard, file) if verify else file
            parquet = pq.ParquetFile(source, pre_buffer=True)
            missing = set(columns or ()) - set(parquet.schema_arrow.names)
            if missing:
                raise DataError(
                    f"{path} has no column '{min(missing)}'; "
                    f"it has {', '.join(parquet.schema_arrow.names)}"
                )
            there = [name for name in optional if name in parquet.schema_arrow.names]
            wanted = None if columns is None else list(dict.fromkeys([*columns, *there]))
            table = parquet.read(columns=wanted)
            return _without_null_labels(table)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; restore it or make the dataset again") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} can't be read ({first_line(error)}); "
            f"check it with `raymc data check {dataset.path}`"
        ) from error


def _verified(dataset: Dataset, shard: Shard, file: pa.NativeFile) -> pa.NativeFile:
    """Return the file of a shard, read as a whole and compared, unless that was done before."""
    if shard.file in dataset.checked:
        return file
    content = file.read_buffer()
    dataset.compare(shard, hashlib.sha256(content).hexdigest())
    return pa.BufferReader(content)


def count_classes(dataset: Dataset, split: str) -> np.ndarray:
    """Count each class in a split, [C] int64; only the column `labels` is read."""
    if split in dataset.counts:
        return np.array(dataset.counts[split], dtype=np.int64)
    counts = np.zeros(len(dataset.manifest.vocabulary), dtype=np.int64)
    for shard in dataset.split(split):
        counts += count_labels(dataset, shard, read_shard(dataset, shard, columns=["labels"]))
    return counts


def count_labels(dataset: Dataset, shard: Shard, table: pa.Table) -> np.ndarray:
    """Count each class in a table of a shard's rows, [C] int64."""
    vocabulary = dataset.manifest.vocabulary
    try:
        classes = label_entries(table["labels"], vocabulary)[1]
    except DataError as error:
        raise DataError(f"{dataset.path}/{shard.file}, {error}") from error
    return np.bincount(classes, minlength=len(vocabulary))


def _check_size(root: str, shard: Shard, size: int) -> None:
    if size != shard.bytes:
        raise DataError(
            f"{root}/{shard.file} has {size} bytes, the manifest says {shard.bytes}; "
            f"check it with `raymc data check {root}`"
        )


def _without_null_labels(table: pa.Table) -> pa.Table:
    if "labels" not in table.column_names or not table["labels"].null_count:
        return table
    names = [labels or [] for labels in table["labels"].to_pylist()]
    at = table.schema.get_field_index("labels")
    return table.set_column(at, "labels", pa.array(names, pa.list_(pa.string())))


def scan(filesystem: fs.FileSystem, root: str) -> Manifest:
    """Describe a folder of `SPLIT/*.parquet` files that has no `dataset.json`.

    Modalities are the columns with raymc's metadata, tensors, and lists of floating, int8 or
    uint8 numbers; other columns are extra. It reads the footers and labels of all files, and
    tokens only if a column's type doesn't have the dim. Checksums stay empty; `open_dataset` adds
    them.

    Raises:
        DataError: There are no Parquet files in split folders, or they lack the column `id` or
            `labels`, a modality, or any label.
    """
    files = list(storage.parquet_files(filesystem, root))
    if not files:
        raise DataError(
            f"{root} is no dataset: it has neither dataset.json nor Parquet files; if it holds "
            f"videos, make one of them: raymc extract {root} --out FOLDER"
        )
    splits: dict[str, tuple[Shard, ...]] = {}
    labels: set[str] = set()
    modalities: tuple[Modality, ...] = ()
    for file in files:
        split, *rest = file.split("/")
        if len(rest) != 1:
            raise DataError(
                f"{root}/{file}: expected Parquet files in split folders, {root}/train/*.parquet"
            )
        with filesystem.open_input_file(f"{root}/{file}") as source:
            try:
                parquet = pq.ParquetFile(source, pre_buffer=True)
                modalities = modalities or _modalities(parquet)
                required = ["id", "labels", *(modality.name for modality in modalities)]
                for fault in column_faults(parquet.schema_arrow, required):
                    raise DataError(fault)
                labels |= _labels(parquet)
            except DataError as error:
                raise DataError(f"{root}/{file}: {error}") from error
            except pa.ArrowException as error:
                raise DataError(
                    f"{root}/{file} can't be read as Parquet ({first_line(error)}); "
                    "copy it again, or move it out of the folder"
                ) from error
            shard = Shard(file, parquet.metadata.num_rows, source.size(), sha256="")
        splits[split] = (*splits.get(split, ()), shard)
    if not labels:
        raise DataError(f"{root}: no row has labels; expected names in the column 'labels'")
    return Manifest(Vocabulary(tuple(sorted(labels))), modalities, splits)


def column_faults(schema: pa.Schema, required: Sequence[str]) -> Iterator[str]:
    """Yield the faults of a shard's columns: one is missing, or names are not text."""
    for name in required:
        if name not in schema.names:
            yield f"no column '{name}'; there are {', '.join(schema.names)}"
    for name, nested in (("id", False), ("labels", True), ("observed", True)):
        kind = schema.field(name).type if name in schema.names else None
        if kind is None:
            continue
        item = cast(Any, kind).value_type if nested and is_list(kind) else kind
        if is_list(kind) != nested or not _is_text(item):
            yield f"column '{name}' is {kind}; expected {'list<string>' if nested else 'string'}"


def _labels(parquet: pq.ParquetFile) -> set[str]:
    names: set[str | None] = set()
    for chunk in parquet.read(columns=["labels"])["labels"].chunks:
        names.update(unnest(chunk)[1].unique().to_pylist())
    return {name for name in names if name}


def _modalities(parquet: pq.ParquetFile) -> tuple[Modality, ...]:
    fields = [field for field in parquet.schema_arrow if field.name not in RESERVED_COLUMNS]
    found = (Modality.from_field(field) or infer_modality(field, parquet) for field in fields)
    modalities = tuple(modality for modality in found if modality)
    if modalities:
        return modalities
    bare = [field.name for field in fields if "binary" in str(field.type)]
    hint = f"; the metadata of '{bare[0]}' lacks raymc.dtype and raymc.dim" if bare else ""
    raise DataError(f"no column of tokens (bytes, tensors or lists of floats){hint}")


def infer_modality(field: pa.Field, parquet: pq.ParquetFile) -> Modality | None:
    """Describe a column of tokens by its type; None if its type is not one of tokens.

    Raises `DataError` if the type does not have the dim, and no row has a token.
    """
    kind = field.type
    if isinstance(kind, pa.FixedShapeTensorType):
        known = is_token_value(kind.value_type)
        return _modality(field.name, kind.shape[-1], kind.value_type) if known else None
    if not is_list(kind):
        return None
    item = cast(Any, kind).value_type
    inner = item if is_list(item) else kind
    value = cast(Any, inner).value_type
    if not is_token_value(value):
        return None
    dim = cast(Any, inner).list_size if pa.types.is_fixed_size_list(inner) else 0
    return _modality(field.name, dim or _first_dim(parquet, field.name), value)


def _modality(name: str, dim: int, value: pa.DataType) -> Modality:
    return Modality(name, dim, cast(Any, _STORED_AS.get(str(value), "float32")))


def _first_dim(parquet: pq.ParquetFile, name: str) -> int:
    """Return the number of values of the first token that is not empty."""
    for batch in parquet.iter_batches(columns=[name], batch_size=64):
        column = batch.column(0)
        if is_list(cast(Any, column.type).value_type):
            _, column = unnest(column)
        lengths, _ = unnest(column)
        for length in lengths[np.flatnonzero(lengths)][:1]:
            return int(length)
    raise DataError(
        f"column '{name}' is empty in every row of the first file, so its dim is unknown"
    )


def _is_text(kind: pa.DataType) -> bool:
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return text or pa.types.is_null(kind)  # null: all rows of the file are empty
