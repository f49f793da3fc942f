"""What the training benchmark trains: datasets of two kinds, and their batches in raymc's order.

Imports neither Ray nor MLflow. Every way of training sees the same rows in every batch, the same
learning rates and the same random numbers, so that all can be shown to train the same.

Axes: B rows of a batch, T tokens, C classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset as TorchDataset

from raymc.config import Config, from_dict, override
from raymc.data.feed.batches import Batch, Block, block_from_table
from raymc.data.feed.feed import Feed, Feeds
from raymc.data.labels import Vocabulary
from raymc.data.shards import Dataset, Modality, Row, open_dataset, read_shard, write_dataset
from raymc.formats.prepare import prepare_dataset
from raymc.training.learner import Learner, make_learner, step_seed
from raymc.training.optimizer import lr_at

# Settings of each kind of dataset; "digits" is what raymc trains when told nothing.
RAGGED = "ragged"
CASES: Mapping[str, Mapping[str, Any]] = {
    "digits": {},
    RAGGED: {
        "data": {"make": None},
        "batch": {"size": 8},
        "model": {"width": 192, "depth": 6, "fusion_depth": 3},
    },
}
RAGGED_ROWS = {"train": 32, "val": 8}
RAGGED_TOKENS = (24, 300)
RAGGED_MODALITIES = (
    Modality("visual", 1024, "float16", rate_hz=1.0),
    Modality("audio", 128, "float16", rate_hz=1.0),
)
RAGGED_LABELS = tuple(f"label-{number:02d}" for number in range(50))
LABELS_OF_A_CLIP = 3


class RaggedRows:
    """Clips of random tokens, as many in each modality, each clip a function of its number."""

    def __init__(self, rows: int, *, seed: int) -> None:
        self._rows, self._seed = rows, seed

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, i: int, /) -> Row:
        """Return row i."""
        generator = np.random.default_rng([self._seed, i])
        length = int(generator.integers(RAGGED_TOKENS[0], RAGGED_TOKENS[1] + 1))
        chosen = generator.choice(len(RAGGED_LABELS), LABELS_OF_A_CLIP, replace=False)
        return Row(
            id=f"{self._seed}-{i:06d}",
            labels=[RAGGED_LABELS[label] for label in sorted(chosen)],
            tokens={m.name: generator.normal(size=(length, m.dim)) for m in RAGGED_MODALITIES},
        )


def make_case(name: str, folder: Path, settings: Mapping[str, Any]) -> Config:
    """Return the settings of a case, its dataset written below `folder` if it isn't there yet.

    `settings` override the case's, by dotted path.
    """
    places = {"data.path": str(folder / name), "run.folder": str(folder / "runs")}
    config = override(from_dict(CASES[name]), {**places, **settings})
    if config.data.make is not None:
        prepare_dataset(config)
    else:
        write_dataset(
            config.data.path,
            {split: RaggedRows(n, seed=len(split)) for split, n in RAGGED_ROWS.items()},
            vocabulary=Vocabulary(RAGGED_LABELS),
            modalities=RAGGED_MODALITIES,
            shard_rows=32,
        )
    return config


@dataclass(frozen=True)
class Task:
    """A configuration to train, and where."""

    config: Config
    device: torch.device

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset."""
        return open_dataset(self.config.data.path)

    @cached_property
    def feed(self) -> Feed:
        """The training split in raymc's order, read from files."""
        shards = self.dataset.split(self.config.data.train)

        def read(wanted: Sequence[int]) -> Iterable[pa.Table]:
            return (read_shard(self.dataset, shards[shard]) for shard in wanted)

        return Feed(
            read,
            self.dataset.manifest,
            self.config.data.train,
            config=self.config.batch,
            seed=self.config.train.seed,
            keep=True,
        )

    @cached_property
    def epochs(self) -> list[list[Batch]]:
        """The batches of every epoch, in memory where they are computed with."""
        numbers = range(1, self.config.train.epochs + 1)
        return [[batch.to(self.device) for batch in self.feed.training(n)] for n in numbers]

    @property
    def rows(self) -> list[list[list[int]]]:
        """The rows of each batch of each epoch."""
        return [[batch.rows.tolist() for batch in epoch] for epoch in self.epochs]

    @cached_property
    def seeds(self) -> list[int]:
        """What random numbers start from, for each step of the run."""
        config, steps = self.config, range(self.feed.steps)
        epochs = range(1, config.train.epochs + 1)
        return [step_seed(config, epoch=e, step=s, rank=0) for e in epochs for s in steps]

    @cached_property
    def rates(self) -> list[float]:
        """The learning rate of each step of the run."""
        steps, epochs = self.feed.steps, self.config.train.epochs
        given = {"steps_per_epoch": steps, "epochs": epochs}
        return [lr_at(n, self.config.optimizer, **given) for n in range(steps * epochs)]

    def learner(self) -> Learner:
        """Return model, loss and optimizer, as raymc starts them."""
        classes = len(self.dataset.manifest.vocabulary.names)
        feeds = Feeds(train=self.feed, val=self.feed, class_counts=np.ones(classes, np.int64))
        return make_learner(self.config, self.dataset.manifest, feeds, device=self.device)


class ShardRows(TorchDataset[dict[str, Any]]):
    """Rows of Parquet shards by number, as a map-style dataset of torch.

    Shards are read when a row is first asked for, so in a loader's workers each for itself.
    """

    def __init__(self, dataset: Dataset, split: str) -> None:
        self._dataset, self._split = dataset, split
        self._starts = np.cumsum([0, *(shard.rows for shard in dataset.split(split))])
        self._blocks: list[Block] = []

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return tokens by modality, labels and observed entries of a row."""
        if not self._blocks:
            tables = (read_shard(self._dataset, s) for s in self._dataset.split(self._split))
            self._blocks = [
                block_from_table(t.combine_chunks(), self._dataset.manifest) for t in tables
            ]
        at = int(np.searchsorted(self._starts, row, side="right")) - 1
        block, local = self._blocks[at], row - int(self._starts[at])
        tokens = {n: torch.from_numpy(x.row(local).copy()) for n, x in block.tokens.items()}
        return {
            "tokens": tokens,
            "labels": torch.from_numpy(block.labels[local]),
            "observed": torch.from_numpy(block.observed[local]),
        }


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Pad rows to a batch: `tokens` and `lengths` by modality, `labels` and `observed` [B, C]."""
    names = rows[0]["tokens"]
    tokens = {n: pad_sequence([row["tokens"][n] for row in rows], batch_first=True) for n in names}
    lengths = {n: torch.tensor([len(row["tokens"][n]) for row in rows]) for n in names}
    stacked = {key: torch.stack([row[key] for row in rows]) for key in ("labels", "observed")}
    return {"tokens": tokens, "lengths": lengths, **stacked}


def batch_of(
    tokens: dict[str, Tensor], lengths: dict[str, Tensor], labels: Tensor, observed: Tensor
) -> Batch:
    """Return what `collate` made as raymc's model and loss take it."""
    return Batch(tokens, lengths, labels, observed, rows=torch.arange(len(labels)))
