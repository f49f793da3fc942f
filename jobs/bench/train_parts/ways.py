"""Other ways to train what raymc trains: a bare loop, Lightning, Hugging Face's Trainer.

Imports neither Ray nor MLflow. As a program it is the whole command of a way:

    python -m jobs.bench.train_parts.ways WAY CONFIG.yaml [DEVICE]

which prints what came out as JSON.
"""

import json
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import count
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from jobs.bench.train_parts.task import ShardRows, Task, batch_of, collate
from raymc.config import load
from raymc.training.learner import Learner
from raymc.training.loop import Awaited

LOADER_WORKERS = 2


@dataclass
class Ran:
    """What came out of a run, epoch by epoch: seconds, the share of them spent waiting, losses."""

    seconds: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def add(self, *, seconds: float, waited: float, loss: float) -> None:
        """Append an epoch that waited so many seconds for data."""
        self.seconds.append(seconds)
        self.waiting.append(waited / seconds)
        self.losses.append(loss)

    @property
    def later(self) -> float:
        """The mean seconds of an epoch after the first; of that if it is the only one."""
        return statistics.mean(self.seconds[1:] or self.seconds)


def bare_loop(task: Task) -> Ran:
    """Train in the plainest loop, on batches that lie in memory: the limit."""
    learner, ran, steps = task.learner(), Ran(), zip(task.seeds, task.rates)
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
        ran.add(seconds=time.perf_counter() - began, waited=0.0, loss=loss)
    return ran


class Loader(DataLoader[Any]):
    """torch's loader over the shards, in raymc's order, that knows how long it was waited for."""

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
        """Note the seconds of an epoch whose last step is taken, and those waited."""
        self.epochs.append((time.perf_counter() - self._began, self._batches.seconds))


class _Epochs:
    """The rows of each batch, of another epoch every time it is gone through."""

    def __init__(self, epochs: Sequence[Sequence[list[int]]]) -> None:
        self._epochs, self._next = epochs, 0

    def __len__(self) -> int:
        return len(self._epochs[0])

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self._epochs[self._next]  # when first asked: the loader begins some in vain
        self._next += 1
        yield from epoch


class _Seeded(nn.Module):
    """raymc's model and loss on what the loader gives; each step starts its random numbers anew."""

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

    def ran(self, loader: Loader) -> Ran:
        """Return what came out of the loader's epochs."""
        ran = Ran()
        for total, (seconds, waited) in zip(self.totals, loader.epochs, strict=True):
            loss = total.item() / self._task.feed.steps
            ran.add(seconds=seconds, waited=waited, loss=loss)
        return ran


def _scheduled(task: Task, optimizer: torch.optim.Optimizer) -> LambdaLR:
    peak = task.config.optimizer.lr
    last = len(task.rates) - 1
    return LambdaLR(optimizer, lambda step: task.rates[min(step, last)] / peak)


def lightning(task: Task) -> Ran:
    """Train with Lightning's Trainer, nothing logged and nothing kept."""
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


def hugging_face(task: Task) -> Ran:
    """Train with the Trainer of transformers, nothing logged and nothing kept."""
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
WAYS: Mapping[str, Callable[[Task], Ran]] = {
    BARE: bare_loop,
    LIGHTNING: lightning,
    TRAINER: hugging_face,
}


@cache
def _task(file: str, device: str) -> Task:
    return Task(load(file), torch.device(device))


def train_way(way: str, file: str, device: str = "cpu") -> Ran:
    """Train as a configuration file says, in one of the `WAYS`."""
    task = _task(file, device)
    torch.set_num_threads(max(1, int(task.config.search.cpus_per_trial)))
    return WAYS[way](task)


if __name__ == "__main__":
    print(json.dumps(asdict(train_way(*sys.argv[1:]))))
