"""The tiny dataset of the tests: what its rows are, and how a process of one reads them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from raymc.config import Config
from raymc.data.feed.feed import Feed, Feeds
from raymc.data.feed.looks import class_looks
from raymc.data.feed.shared import shares_queries
from raymc.data.labels import Vocabulary, label_counts
from raymc.data.shards import Dataset, Modality, Row, read_shard, token_means
from raymc.events import EpochEnded
from raymc.training.bundle import save_bundle
from raymc.training.loop import fit

LABELS = ("add", "count", "rhyme", "spell", "other")
VOCABULARY = Vocabulary(
    LABELS, groups={"math": ("add", "count"), "literacy": ("rhyme", "spell")}, background="other"
)
MODALITIES = (
    Modality("visual", 6, "float16", rate_hz=2.0),
    Modality("audio", 4, "float32", rate_hz=4.0),
)
SPLIT_ROWS = {"train": 45, "val": 23, "test": 11}
SHARD_ROWS = 8


def tiny_row(split: str, index: int) -> Row:
    """Every 5th row lacks its sound, every 7th its labels, every 4th one group's annotation."""
    generator = np.random.default_rng([sorted(SPLIT_ROWS).index(split), index])
    hot = generator.random(len(LABELS)) < 0.35
    hot &= index % 7 != 3
    visual = generator.normal(size=(int(generator.integers(1, 9)), 6))
    audio = generator.normal(size=(int(generator.integers(1, 13)), 4))
    visual[:, :5] += 2.0 * hot
    audio[:, :2] += 2.0 * hot[2:4]
    return Row(
        id=f"{split}-{index:03d}",
        labels=[name for name, has in zip(LABELS, hot) if has],
        tokens={"visual": visual, "audio": None if index % 5 == 2 else audio},
        observed={1: ["math"], 2: []}.get(index % 8),
    )


def feed_of(
    dataset: Dataset,
    split: str,
    config: Config,
    *,
    keep: bool = True,
    share: tuple[int, int] = (0, 1),
) -> Feed:
    """A feed that reads the dataset's files."""
    shards = dataset.split(split)

    def read(wanted: Sequence[int]) -> Iterable[pa.Table]:
        return (read_shard(dataset, shards[shard]) for shard in wanted)

    return Feed(
        read,
        dataset.manifest,
        split,
        config=config.batch,
        seed=config.train.seed,
        keep=keep,
        share=share,
    )


def feeds_of(dataset: Dataset, config: Config, *, share: tuple[int, int] = (0, 1)) -> Feeds:
    """The feeds of a run; without a cache, rows are streamed."""
    keep = config.data.cache != "off"
    vocabulary, modalities = dataset.manifest.vocabulary, dataset.manifest.modalities
    tables = [read_shard(dataset, shard) for shard in dataset.split("train")]
    labels = [row for table in tables for row in table["labels"].to_pylist()]
    counts = label_counts(vocabulary.encode(labels))
    is_shared = shares_queries(config, counts)
    return Feeds(
        train=feed_of(dataset, "train", config, keep=keep, share=share),
        val=feed_of(dataset, "val", config, keep=keep, share=share),
        class_counts=counts,
        means=token_means(dataset, "train"),
        looks=class_looks(tables, modalities, vocabulary) if is_shared else None,
    )


def fit_here(
    dataset: Dataset, config: Config, report: Callable[[EpochEnded, Path | None], None]
) -> None:
    """Train in this process, without Ray and uninterrupted."""
    fit(
        config,
        dataset.manifest,
        feeds_of(dataset, config),
        device=torch.device("cpu"),
        emit=lambda event: None,
        report=report,
    )


def bundle_here(dataset: Dataset, config: Config, folder: Path) -> Path:
    """Train as `fit_here` does, and keep the best epoch as a bundle, whose folder is returned."""

    def keep(event: EpochEnded, made: Path | None) -> None:
        if event.is_best and made is not None:
            save_bundle(made, folder / "bundle")

    fit_here(dataset, config, keep)
    return folder / "bundle"
