"""A run's splits as its processes read them: which columns, kept or read again, and their feeds.

Whether the rows come from the object store (`on_ray.py`) or from the files, a feed gets Arrow
tables in the order of the shards, so the batches are the same.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raymc.config import Config, DataConfig
from raymc.data.feed.feed import Feed, Feeds, mapped_ahead
from raymc.data.feed.looks import CLIPS, MOST_CLASSES, SHARDS, class_looks
from raymc.data.shards import (
    Dataset,
    Manifest,
    Means,
    count_classes,
    read_shard,
    token_means,
)
from raymc.data.shards.means import evenly_spread, sampled_shards
from raymc.errors import DataError

# With one at a time, the disk or bucket is idle while a shard is decoded and copied.
SHARDS_AT_ONCE = 3


@dataclass(frozen=True)
class SharedSplit:
    """A split that every process of a run can read; small enough to be sent to all.

    Attributes:
        dataset: The dataset, with only the modalities that are read.
        columns: The columns of its shards that are read.
        blocks: Returns the split's Arrow tables, which a feed keeps; None if it reads the shards
            again every epoch.
    """

    dataset: Dataset
    split: str
    columns: tuple[str, ...]
    blocks: Callable[[], Iterable[pa.Table]] | None = None

    @property
    def manifest(self) -> Manifest:
        """The manifest of the dataset, with the modalities that are read."""
        return self.dataset.manifest

    @property
    def bytes(self) -> int:
        """The size of its shards."""
        return sum(shard.bytes for shard in self.dataset.split(self.split))

    def read(self, shards: Sequence[int]) -> Iterable[pa.Table]:
        """Return the rows of `shards`, in that order; those in the object store are not copied."""
        return self.from_files(shards) if self.blocks is None else self.blocks()

    def from_files(self, shards: Sequence[int] | None = None) -> Iterable[pa.Table]:
        """Return the rows of `shards`, by default all, in that order, as the files have them."""
        files = self.dataset.split(self.split)
        return mapped_ahead(
            lambda shard: read_shard(self.dataset, files[shard], self.columns),
            range(len(files)) if shards is None else shards,
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
    means: Means
    looks: np.ndarray | None

    def feeds(self, config: Config, *, share: tuple[int, int] = (0, 1)) -> Feeds:
        """Return one worker's feeds."""
        return Feeds(
            train=self.train.feed(config, share=share),
            val=self.val.feed(config, share=share),
            class_counts=self.class_counts,
            means=self.means,
            looks=self.looks,
        )


def check_labelled(dataset: Dataset, config: DataConfig) -> None:
    """Check that epochs can be compared.

    Raises:
        DataError: The validation split has no labels.
    """
    if not count_classes(dataset, config.val).any():
        raise DataError(
            f"split {config.val!r} of {dataset.path} has no labelled rows, so nothing can be "
            "measured on it; choose another split with data.val, or check that its labels were "
            "read"
        )


def open_data(
    dataset: Dataset, config: Config, share: Callable[[SharedSplit], SharedSplit]
) -> SharedData:
    """Return a dataset's training and validation splits, each as `share` makes it readable.

    The looks of classes are found only if the run, or a trial of its search, needs them.

    Raises:
        DataError: A split or modality is not in the dataset, or the validation split has no
            labels, so that epochs could not be compared.
    """
    data = config.data
    check_labelled(dataset, data)
    train = share(open_split(dataset, data.train, data))
    counts = count_classes(dataset, data.train)
    return SharedData(
        manifest=train.manifest,
        train=train,
        val=share(open_split(dataset, data.val, data)),
        class_counts=counts,
        means=token_means(train.dataset, data.train),
        looks=_looks(train) if shares_queries(config, counts) else None,
    )


def shares_queries(config: Config, class_counts: np.ndarray) -> bool:
    """Whether classes may share class queries, in the run or in a trial of its search.

    With very many classes, or without labels, groups go by number.
    """
    classes, searched = len(class_counts), "model.class_queries" in config.search.space
    if classes > MOST_CLASSES or not class_counts.any():
        return False
    return searched or 0 < config.model.class_queries < classes


def _looks(train: SharedSplit) -> np.ndarray:
    """Return `class_looks` of a sample of the split, which depends on the shards alone."""
    shards = train.dataset.split(train.split)
    chosen = [shards.index(shard) for shard in sampled_shards(shards, SHARDS)]
    tables = (_sample(table, CLIPS // len(chosen)) for table in train.from_files(chosen))
    return class_looks(tables, train.manifest.modalities, train.manifest.vocabulary)


def _sample(table: pa.Table, most: int) -> pa.Table:
    """Return up to so many rows, evenly spread."""
    return table if len(table) <= most else table.take(evenly_spread(len(table), most))


def data_here(dataset: Dataset, config: Config) -> SharedData:
    """Return the splits for this process alone, which keeps their rows unless `cache` is off.

    Raises `DataError` as `open_data` does.
    """

    def share(split: SharedSplit) -> SharedSplit:
        kept = config.data.cache != "off"
        return replace(split, blocks=split.from_files) if kept else split

    return open_data(dataset, config, share)


def open_split(dataset: Dataset, split: str, config: DataConfig) -> SharedSplit:
    """Return a split that is read from its files.

    Raises `DataError` if the split or a modality is not in the dataset.
    """
    dataset = replace(dataset, manifest=with_modalities(dataset.manifest, config.modalities))
    names = [modality.name for modality in dataset.manifest.modalities]
    first = dataset.shard_paths(split)[0]
    return SharedSplit(dataset, split, tuple(row_columns(first, dataset.filesystem, names)))


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
