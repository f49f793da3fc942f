"""A split for a whole cluster: cached in Ray's object store once, or read again every epoch.

Either way a feed gets Arrow tables in the order of the shards, so cached and streamed epochs have
the same batches. Workers stream splits that are too large for the object store with pyarrow: Ray
Data's read tasks take seconds to start an epoch and move each row through memory twice.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from pyarrow import fs

from raymc.config import Config, DataConfig
from raymc.data.feed.feed import Feed, Feeds, mapped_ahead
from raymc.data.shards import Dataset, Manifest, Shard, count_classes, read_shard
from raymc.errors import DataError
from raymc.runtime.connect import explained

# Up to this size the driver reads a split itself: Ray's read tasks take seconds to start, longer
# than the read itself, and each node fetches each block only once.
DIRECT_BYTES = 4 << 30
# With one at a time, the disk or bucket is idle while a shard is decoded and copied.
SHARDS_AT_ONCE = 3


@dataclass(frozen=True)
class SharedSplit:
    """A split that every process of the cluster can read; small enough to be sent to all.

    Attributes:
        dataset: The dataset, with only the modalities that are read.
        columns: The columns of its shards that are read.
        blocks: The split's Arrow tables in the object store; None if it is streamed.
    """

    dataset: Dataset
    split: str
    columns: tuple[str, ...]
    blocks: tuple[ray.ObjectRef, ...] | None

    @property
    def manifest(self) -> Manifest:
        """The manifest of the dataset, with the modalities that are read."""
        return self.dataset.manifest

    def read(self, shards: Sequence[int]) -> Iterable[pa.Table]:
        """Return the rows of `shards`, in that order; cached blocks are not copied."""
        if self.blocks is not None:
            return ray.get(list(self.blocks))
        files = self.dataset.split(self.split)
        return mapped_ahead(
            lambda shard: read_shard(self.dataset, files[shard], self.columns),
            shards,
            threads=SHARDS_AT_ONCE,
        )

    def feed(self, config: Config, *, share: tuple[int, int] = (0, 1)) -> Feed:
        """Return one worker's feed of this split."""
        return Feed(
            self.read,
            self.manifest,
            self.split,
            config=config.batch,
            seed=config.train.seed,
            keep=self.blocks is not None,
            share=share,
        )


@dataclass(frozen=True)
class SharedData:
    """The data that all workers and trials of a run share."""

    manifest: Manifest
    train: SharedSplit
    val: SharedSplit
    class_counts: np.ndarray

    def feeds(self, config: Config, *, share: tuple[int, int] = (0, 1)) -> Feeds:
        """Return one worker's feeds."""
        return Feeds(
            train=self.train.feed(config, share=share),
            val=self.val.feed(config, share=share),
            class_counts=self.class_counts,
        )


def share_data(dataset: Dataset, config: DataConfig) -> SharedData:
    """Make a dataset's training and validation splits available to the whole cluster.

    Raises:
        DataError: A split or modality is not in the dataset, or the validation split has no
            labels, so that epochs could not be compared.
    """
    if not count_classes(dataset, config.val).any():
        raise DataError(
            f"split {config.val!r} of {dataset.path} has no labelled rows, so nothing can be "
            "measured on it; choose another split with data.val, or check that its labels were "
            "read"
        )
    train = share_split(dataset, config.train, config)
    return SharedData(
        manifest=train.manifest,
        train=train,
        val=share_split(dataset, config.val, config),
        class_counts=count_classes(dataset, config.train),
    )


def share_split(dataset: Dataset, split: str, config: DataConfig) -> SharedSplit:
    """Read a split into the object store if it is to be cached; else only describe it.

    Raises `DataError` if the split or a modality is not in the dataset.
    """
    dataset = replace(dataset, manifest=with_modalities(dataset.manifest, config.modalities))
    names = [modality.name for modality in dataset.manifest.modalities]
    paths, filesystem = dataset.shard_paths(split), dataset.filesystem
    columns = tuple(row_columns(paths[0], filesystem, names))
    shared = SharedSplit(dataset, split, columns, blocks=None)
    size = sum(shard.bytes for shard in dataset.split(split))
    if config.cache == "off" or (config.cache == "auto" and not _fits(size, config.cache_share)):
        return shared
    if size <= DIRECT_BYTES:
        tables = shared.read(range(len(paths)))
        return replace(shared, blocks=tuple(ray.put(table) for table in tables))
    # Not by Ray Data: its reader packs row groups into tasks by size, so that blocks come in
    # another order than the shards.
    read: Any = ray.remote(num_cpus=1, num_returns=2)(_read_shard)
    blocks, rows = zip(*(read.remote(dataset, shard, columns) for shard in dataset.split(split)))
    with explained():
        ray.get(list(rows))
    return replace(shared, blocks=blocks)


def _read_shard(dataset: Dataset, shard: Shard, columns: Sequence[str]) -> tuple[pa.Table, int]:
    """Return the rows, and their number, whose arrival says that the rows could be read."""
    table = read_shard(dataset, shard, columns)
    return table, len(table)


def with_modalities(manifest: Manifest, names: Sequence[str]) -> Manifest:
    """Return the manifest with only the named modalities, which must exist; with all if no name."""
    if not names:
        return manifest
    return replace(manifest, modalities=tuple(manifest.modality(name) for name in names))


def row_columns(path: str, filesystem: fs.FileSystem, modalities: Sequence[str]) -> list[str]:
    """Return those of a shard's columns that models need."""
    try:
        there = pq.read_schema(path, filesystem=filesystem).names
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"shard {path} can't be read ({error}); run `raymc data check` to check them all"
        ) from error
    return [name for name in ("id", "labels", "observed", *modalities) if name in there]


def _fits(size: int, share: float) -> bool:
    return size <= share * ray.cluster_resources().get("object_store_memory", 0)
