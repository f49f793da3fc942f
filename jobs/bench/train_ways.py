"""Ways to train what raymc trains: a bare loop, Lightning, Hugging Face's Trainer.

Every way sees the same rows in every batch, the same learning rates and the same random numbers,
so that all can be shown to train the same. As a program it is the whole command of a way, which
prints its figures as JSON:

    python -m jobs.bench.train_ways WAY CONFIG.yaml [DEVICE]

Axes: B rows of a batch, T tokens, C classes.
"""

import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import count
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from jobs.bench.batches import pad_tokens
from jobs.bench.ragged import RaggedRows, write_ragged
from raymc.config import Config, from_dict, load, override
from raymc.data.feed.batches import Batch, Block, block_from_table
from raymc.data.feed.feed import Feed, Feeds
from raymc.data.shards import Dataset, Modality, open_dataset, read_shard, token_means
from raymc.formats.prepare import prepare_dataset
from raymc.training.learner import Learner, make_learner, step_seed
from raymc.training.loop import Awaited
from raymc.training.optimizer import lr_at

LOADER_WORKERS = 2
# The settings of each dataset; raymc's defaults train "digits".
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


def make_case(name: str, folder: Path, settings: Mapping[str, Any]) -> Config:
    """Return the settings of a case, its dataset written below `folder` if it isn't there yet.

    `settings` override the case's, by dotted path.
    """
    places = {"data.path": str(folder / name), "run.folder": str(folder / "runs")}
    config = override(from_dict(CASES[name]), {**places, **settings})
    if config.data.make is not None:
        prepare_dataset(config)
    else:
        splits = {
            split: RaggedRows(rows, RAGGED_MODALITIES, RAGGED_LABELS, RAGGED_TOKENS, seed=seed)
            for seed, (split, rows) in enumerate(RAGGED_ROWS.items())
        }
        write_ragged(Path(config.data.path), splits, shard_rows=32)
    return config


def feed_from_files(dataset: Dataset, split: str, config: Config) -> Feed:
    """Return a split in raymc's order, read from files once and kept in memory, without Ray."""
    shards = dataset.split(split)

    def read(wanted: Sequence[int]) -> Iterable[pa.Table]:
        return (read_shard(dataset, shards[shard]) for shard in wanted)

    return Feed(
        read, dataset.manifest, split, config=config.batch, seed=config.train.seed, keep=True
    )


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
        """The training split, read from files."""
        return feed_from_files(self.dataset, self.config.data.train, self.config)

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
        feeds = Feeds(
            train=self.feed,
            val=self.feed,
            class_counts=np.ones(classes, np.int64),
            means=token_means(self.dataset, self.config.data.train),
        )
        return make_learner(self.config, self.dataset.manifest, feeds, device=self.device)


class ShardRows(TorchDataset[dict[str, Any]]):
    """Rows of Parquet shards by number, as a map-style dataset of torch.

    Shards are read when the first row is asked for, so each worker of a loader reads its own.
    """

    def __init__(self, dataset: Dataset, split: str) -> None:
        self._dataset, self._split = dataset, split
        self._starts = np.cumsum([0, *(shard.rows for shard in dataset.split(split))])
        self._blocks: list[Block] = []

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return the tokens by modality, the labels and the observed entries of a row."""
        if not self._blocks:
            tables = (read_shard(self._dataset, s) for s in self._dataset.split(self._split))
            self._blocks = [
                block_from_table(t.combine_chunks(), self._dataset.manifest) for t in tables
            ]
        at = int(np.searchsorted(self._starts, row, side="right")) - 1
        block, local = self._blocks[at], row - int(self._starts[at])
        tokens = {name: ragged.row(local) for name, ragged in block.tokens.items()}
        return {"tokens": tokens, "labels": block.labels[local], "observed": block.observed[local]}


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Pad rows to a batch: `tokens` and `lengths` by modality, `labels` and `observed` [B, C]."""
    padded = {n: pad_tokens([row["tokens"][n] for row in rows]) for n in rows[0]["tokens"]}
    stacked = {
        key: torch.from_numpy(np.stack([row[key] for row in rows]))
        for key in ("labels", "observed")
    }
    tokens = {name: tokens for name, (tokens, _) in padded.items()}
    return {"tokens": tokens, "lengths": {n: sizes for n, (_, sizes) in padded.items()}, **stacked}


def batch_of(
    tokens: dict[str, Tensor], lengths: dict[str, Tensor], labels: Tensor, observed: Tensor
) -> Batch:
    """Return what `collate` made as raymc's model and loss take it."""
    return Batch(tokens, lengths, labels, observed, rows=torch.arange(len(labels)))


Figures = dict[str, list[float]]


def figures_of(epochs: Sequence[tuple[float, float, float]]) -> Figures:
    """Return a run's seconds, share of them spent waiting, and losses, by epoch.

    Args:
        epochs: The seconds, those spent waiting for data, and the mean loss of each.
    """
    return {
        "seconds": [seconds for seconds, _, _ in epochs],
        "waiting": [waited / seconds for seconds, waited, _ in epochs],
        "losses": [loss for _, _, loss in epochs],
    }


def bare_loop(task: Task) -> Figures:
    """Train in the plainest loop, on batches in memory: the limit."""
    learner, ended, steps = task.learner(), [], zip(task.seeds, task.rates)
    learner.model.train()
    epochs = task.epochs
    for batches in epochs:
        total = torch.zeros((), device=task.device)
        began = time.perf_counter()
        for batch, (seed, rate) in zip(batches, steps):
            torch.manual_seed(seed)
            for group in learner.optimizer.param_groups:
                group["lr"] = rate
            learner.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(task.device.type, torch.bfloat16, enabled=learner.autocast):
                loss = learner.objective(batch)
            loss.backward()
            clip_grad_norm_(learner.model.parameters(), task.config.optimizer.clip_norm)
            learner.optimizer.step()
            total += loss.detach()
        loss = total.item() / len(batches)
        ended.append((time.perf_counter() - began, 0.0, loss))
    return figures_of(ended)


def later_seconds(epochs: Sequence[float]) -> float:
    """Return the mean of the epochs after the first; of that if it is the only one."""
    return mean(epochs[1:] or epochs)


class Loader(DataLoader[Any]):
    """torch's loader over the shards, in raymc's order, that times how long it was waited for."""

    def __init__(self, task: Task) -> None:
        super().__init__(
            ShardRows(task.dataset, task.config.data.train),
            batch_sampler=_Epochs(task.rows),
            collate_fn=collate,
            num_workers=LOADER_WORKERS,
            persistent_workers=True,
            pin_memory=task.device.type == "cuda",
        )
        self.epochs: list[tuple[float, float]] = []

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return an epoch's batches."""
        self._began = time.perf_counter()
        self._batches = Awaited(super().__iter__())
        return iter(self._batches)

    def end_epoch(self) -> None:
        """Record the seconds of an epoch after its last step, and those spent waiting."""
        self.epochs.append((time.perf_counter() - self._began, self._batches.seconds))


class _Epochs:
    """The rows of each batch; each iteration is another epoch."""

    def __init__(self, epochs: Sequence[Sequence[list[int]]]) -> None:
        self._epochs, self._next = epochs, 0

    def __len__(self) -> int:
        return len(self._epochs[0])

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self._epochs[
            self._next
        ]  # not before the first row: the loader starts iterations that it never uses
        self._next += 1
        yield from epoch


class _Seeded(nn.Module):
    """raymc's model and loss on the loader's batches; each step is seeded as raymc's are."""

    def __init__(self, task: Task, learner: Learner) -> None:
        super().__init__()
        self.objective, self._task, self._steps = learner.objective, task, count()
        self.totals: list[Tensor] = []

    def forward(
        self,
        tokens: dict[str, Tensor],
        lengths: dict[str, Tensor],
        labels: Tensor,
        observed: Tensor,
    ) -> dict[str, Tensor]:
        """Return the loss under the name that Trainer looks for."""
        step = next(self._steps)
        torch.manual_seed(self._task.seeds[step])
        loss = self.objective(batch_of(tokens, lengths, labels, observed))
        if step % self._task.feed.steps == 0:
            self.totals.append(torch.zeros_like(loss, requires_grad=False))
        self.totals[-1] += loss.detach()
        return {"loss": loss}

    def ran(self, loader: Loader) -> Figures:
        """Return the loader's epochs."""
        steps = self._task.feed.steps
        pairs = zip(self.totals, loader.epochs, strict=True)
        return figures_of(
            [(seconds, waited, total.item() / steps) for total, (seconds, waited) in pairs]
        )


def _scheduled(task: Task, optimizer: torch.optim.Optimizer) -> LambdaLR:
    peak = task.config.optimizer.lr
    last = len(task.rates) - 1
    return LambdaLR(optimizer, lambda step: task.rates[min(step, last)] / peak)


def lightning(task: Task) -> Figures:
    """Train with Lightning's Trainer, without logs or checkpoints."""
    from lightning.pytorch import LightningModule, Trainer

    learner, loader = task.learner(), Loader(task)
    model = _Seeded(task, learner)

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: dict[str, Any]) -> Tensor:
            return self.model(**batch)["loss"]

        def configure_optimizers(self) -> Any:
            scheduler = _scheduled(task, learner.optimizer)
            return [learner.optimizer], [{"scheduler": scheduler, "interval": "step"}]

        def on_train_epoch_end(self) -> None:
            loader.end_epoch()

    _quieten()
    Trainer(
        accelerator="gpu" if task.device.type == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if learner.autocast else "32-true",
        max_epochs=task.config.train.epochs,
        gradient_clip_val=task.config.optimizer.clip_norm,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Module(), loader)
    return model.ran(loader)


def hugging_face(task: Task) -> Figures:
    """Train with the Trainer of transformers, without logs or checkpoints."""
    from raymc.features.torchaudio_compat import load_torchaudio

    load_torchaudio()  # transformers imports it
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    learner, loader = task.learner(), Loader(task)
    model = _Seeded(task, learner)

    class WithLoader(Trainer):
        def get_train_dataloader(self) -> DataLoader[Any]:
            return loader

    class Ends(TrainerCallback):
        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            loader.end_epoch()

    _quieten()
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=task.device.type == "cpu",
            bf16=learner.autocast,
            num_train_epochs=task.config.train.epochs,
            per_device_train_batch_size=task.config.batch.size,
            max_grad_norm=task.config.optimizer.clip_norm,
            remove_unused_columns=False,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = WithLoader(
            model=model,
            args=arguments,
            train_dataset=loader.dataset,
            optimizers=(learner.optimizer, _scheduled(task, learner.optimizer)),
            callbacks=[Ends()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return model.ran(loader)


def _quieten() -> None:
    warnings.filterwarnings("ignore")
    for name in ("lightning", "lightning.pytorch", "transformers", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)


BARE, LIGHTNING, TRAINER = "bare loop", "Lightning", "Hugging Face Trainer"
WAYS: Mapping[str, Callable[[Task], Figures]] = {
    BARE: bare_loop,
    LIGHTNING: lightning,
    TRAINER: hugging_face,
}


@cache
def _task(file: str, device: str) -> Task:
    return Task(load(file), torch.device(device))


def train_way(way: str, file: str, device: str = "cpu") -> Figures:
    """Train as a configuration file says, in one of the `WAYS`."""
    task = _task(file, device)
    torch.set_num_threads(max(1, int(task.config.search.cpus_per_trial)))
    return WAYS[way](task)


if __name__ == "__main__":
    print(json.dumps(train_way(*sys.argv[1:])))
