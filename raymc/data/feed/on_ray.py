"""A split for a whole cluster: cached in Ray's object store once, or read again every epoch.

Workers stream splits that are too large for the object store with pyarrow: Ray Data's read tasks
take seconds to start an epoch and move each row through memory twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from raymc.config import Config, DataConfig
from raymc.data.feed.shared import SharedData, SharedSplit, open_data, open_split
from raymc.data.shards import Dataset, Shard, read_shard
from raymc.runtime.connect import explained

# Up to this size the driver reads a split itself: Ray's read tasks take seconds to start, longer
# than the read itself, and each node fetches each block only once.
DIRECT_BYTES = 4 << 30


@dataclass(frozen=True)
class _Stored:
    """Returns Arrow tables from the object store, without copying them."""

    blocks: tuple[ray.ObjectRef, ...]

    def __call__(self) -> list[pa.Table]:
        return ray.get(list(self.blocks))


def share_data(dataset: Dataset, config: Config) -> SharedData:
    """Make a dataset's training and validation splits available to the whole cluster.

    Raises:
        DataError: A split or modality is not in the dataset, or the validation split has no
            labels, so that epochs could not be compared.
    """
    return open_data(dataset, config, partial(_store, config=config.data))


def share_split(dataset: Dataset, split: str, config: DataConfig) -> SharedSplit:
    """Read a split into the object store if it is to be cached; else only describe it.

    Raises `DataError` if the split or a modality is not in the dataset.
    """
    return _store(open_split(dataset, split, config), config=config)


def _store(split: SharedSplit, *, config: DataConfig) -> SharedSplit:
    is_cached = config.cache == "object_store"
    if not is_cached and (config.cache == "off" or not _fits(split.bytes, config.cache_share)):
        return split
    if split.bytes <= DIRECT_BYTES:
        stored = _Stored(tuple(ray.put(table) for table in split.from_files()))
        return replace(split, blocks=stored)
    # Not by Ray Data: its reader packs row groups into tasks by size, so that blocks come in
    # another order than the shards.
    read: Any = ray.remote(num_cpus=1, num_returns=2)(_read_shard)
    shards = split.dataset.split(split.split)
    blocks, rows = zip(*(read.remote(split.dataset, shard, split.columns) for shard in shards))
    with explained():
        ray.get(list(rows))
    return replace(split, blocks=_Stored(blocks))


def _read_shard(dataset: Dataset, shard: Shard, columns: Sequence[str]) -> tuple[pa.Table, int]:
    """Return the rows, and their number, whose arrival says that the rows could be read."""
    table = read_shard(dataset, shard, columns)
    return table, len(table)


def _fits(size: int, share: float) -> bool:
    return size <= share * ray.cluster_resources().get("object_store_memory", 0)
