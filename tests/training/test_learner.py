"""The same global batch on one worker and on two: loss, gradients and predictions are the same."""

import shutil
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tiny import SPLIT_ROWS, feeds_of
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from raymc.config import Config, LossName, from_dict, override, to_dict
from raymc.data.shards import Dataset, open_dataset
from raymc.events import EpochEnded, Event, Stepped
from raymc.training import learner as learning
from raymc.training import loop, validation
from raymc.training.learner import Workers

CPU = torch.device("cpu")
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"loss.name": name} for name in typing.get_args(LossName)},
    "one way": {"loss.name": "prototype_contrast", "loss.two_way": False},
    "hinge": {"loss.name": "prototype_margin", "loss.temperature": 0.0, "loss.margin": 0.8},
    "balanced": {"loss.name": "prototype_contrast", "loss.balance": 0.7},
    "bottleneck": {"loss.name": "bce", "model.fusion": "bottleneck"},
    "modalities alone": {"loss.name": "prototype_contrast", "loss.modality_weight": 0.5},
    "late fusion": {"loss.name": "cosine_bce", "model.fusion_depth": 0},
}
Step = tuple[Tensor, dict[str, Tensor]]


def configure(base: Config, variant: str) -> Config:
    """Batches of 7 (so the last one of 45 rows has 3), and nothing random."""
    plain = {"batch.size": 7, "model.dropout": 0.0, "model.modality_dropout": 0.0}
    return override(base, {**plain, **VARIANTS[variant]})


def gradients_of_steps(config: Config, dataset: Dataset) -> list[Step]:
    """Every step of an epoch from the same weights, as `loop.train_step` takes it."""
    workers = Workers.current()
    feeds = feeds_of(dataset, config, share=(workers.rank, workers.count))
    learner = learning.make_learner(config, dataset.manifest, feeds, device=CPU)
    learner.model.train()
    steps = []
    for batch in feeds.train.training(epoch=1):
        learner.optimizer.zero_grad()
        loss = learner.objective(batch)
        loss.backward()
        named = learner.model.named_parameters()
        gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
        steps.append((loss.detach(), gradients))
    return steps


def predict(config: Config, dataset: Dataset) -> validation.Predictions:
    workers = Workers.current()
    feeds = feeds_of(dataset, config, share=(workers.rank, workers.count))
    model = learning.make_learner(config, dataset.manifest, feeds, device=CPU).model
    return validation.predict(model, feeds.val, device=CPU, workers=workers)


def fit(config: Config, dataset: Dataset, folder: Path, resume: Path | None = None) -> list[Any]:
    """Train; returns the metrics of every epoch, the kinds of events and who had a checkpoint."""
    workers = Workers.current()
    metrics, events, saved = [], [], []

    def report(event: EpochEnded, checkpoint: Path | None) -> None:
        metrics.append(dict(event.metrics))
        saved.append(checkpoint is not None)
        if checkpoint is not None:
            shutil.copytree(checkpoint, folder / f"epoch {event.epoch} of {workers.count}")

    loop.fit(
        config,
        dataset.manifest,
        feeds_of(dataset, config, share=(workers.rank, workers.count)),
        device=CPU,
        emit=lambda event: None if isinstance(event, Stepped) else events.append(_name(event)),
        report=report,
        resume=resume,
    )
    return [metrics, events, saved]


def _name(event: Event) -> str:
    """What the two processes can write to a file and the test can read without pickle."""
    return type(event).__name__


def work(rank: int, folder: str, values: dict[str, Any]) -> None:
    """What each of two processes does."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    base = from_dict(values)
    dataset = open_dataset(base.data.path)
    config = configure(base, "prototype_contrast")
    found = {
        "steps": {v: gradients_of_steps(configure(base, v), dataset) for v in VARIANTS},
        "predictions": [torch.from_numpy(x) for x in vars(predict(config, dataset)).values()],
        "gathered": gather_something(rank),
        "resumed": fit(config, dataset, Path(folder), Path(folder) / "epoch 1 of 1"),
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def gather_something(rank: int) -> list[Tensor]:
    """Gather a bool matrix, numbers, and numbers with a gradient, that of Σ k·x_k²."""
    workers = Workers.current()
    assert workers == Workers(rank=rank, count=2)
    numbers = torch.arange(3.0) + 3 * rank
    leaf = numbers.clone().requires_grad_()
    everything = workers.gather_with_gradients(leaf)
    (torch.arange(6.0) * everything**2).sum().backward()
    assert leaf.grad is not None
    return [
        workers.gather(torch.tensor([[rank == 0, True]])),
        workers.gather(numbers.to(torch.int64)),
        everything.detach(),
        leaf.grad,
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where checkpoints and results of this file lie."""
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def of_one(tiny: Dataset, tiny_config: Config, folder: Path) -> list[Any]:
    """A whole run on one worker."""
    return fit(configure(tiny_config, "prototype_contrast"), tiny, folder)


@pytest.fixture(scope="module")
def of_two(tiny_config: Config, folder: Path, of_one: list[Any]) -> list[dict[str, Any]]:
    """What each of two workers has seen; they start once for all tests."""
    spawn(work, (str(folder), to_dict(tiny_config)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradients_are_those_of_one_worker(
    tiny: Dataset, tiny_config: Config, of_two: list[dict[str, Any]], variant: str
) -> None:
    alone = gradients_of_steps(configure(tiny_config, variant), tiny)
    assert len(alone) == 7
    for found in of_two:
        for (loss, gradients), (expected, expected_gradients) in zip(
            found["steps"][variant], alone, strict=True
        ):
            torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
            assert gradients.keys() == expected_gradients.keys()
            size = max(float(g.abs().max()) for g in expected_gradients.values())
            assert size > 1e-3
            for name, gradient in gradients.items():
                torch.testing.assert_close(
                    gradient, expected_gradients[name], rtol=1e-5, atol=1e-5 * size
                )


def test_both_workers_hold_the_same_gradients(of_two: list[dict[str, Any]]) -> None:
    first, second = (found["steps"] for found in of_two)
    for variant in VARIANTS:
        for (loss, gradients), (other, other_gradients) in zip(first[variant], second[variant]):
            assert torch.equal(loss, other)
            assert all(torch.equal(g, other_gradients[name]) for name, g in gradients.items())


def test_both_workers_predict_every_row_once(
    tiny: Dataset, tiny_config: Config, of_two: list[dict[str, Any]]
) -> None:
    alone = predict(configure(tiny_config, "prototype_contrast"), tiny)
    assert alone.rows.tolist() == list(range(SPLIT_ROWS["val"]))
    for found in of_two:
        scores, labels, observed, rows = (x.numpy() for x in found["predictions"])
        np.testing.assert_allclose(scores, alone.scores, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(labels, alone.labels)
        np.testing.assert_array_equal(observed, alone.observed)
        np.testing.assert_array_equal(rows, alone.rows)


def test_a_run_goes_on_with_more_workers(of_one: list[Any], of_two: list[dict[str, Any]]) -> None:
    whole, events, saved = of_one
    assert events == ["Started", "Ended"]
    assert saved == [True] * 3
    (first, second), (events, nothing), (saved, unsaved) = zip(*(w["resumed"] for w in of_two))
    assert events == ["Started", "Ended"]
    assert saved == [True] * 2
    assert nothing == []
    assert unsaved == [False] * 2
    for metrics, other, expected in zip(first, second, whole[1:], strict=True):
        for name in ("train/loss", "val/loss", "train/lr"):
            assert metrics[name] == other[name] == pytest.approx(expected[name], rel=1e-3)


def test_gathered_tensors_and_their_gradients(of_two: list[dict[str, Any]]) -> None:
    by_rank = []
    for found in of_two:
        flags, numbers, everything, gradient = found["gathered"]
        assert flags.tolist() == [[True, True], [False, True]]
        assert numbers.tolist() == [0, 1, 2, 3, 4, 5]
        assert everything.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        by_rank.append(gradient)
    # averaged over workers, each row's gradient is that of the whole sum: 2·k·x_k
    mean = torch.cat(by_rank) / 2
    assert mean.tolist() == [2.0 * k * k for k in range(6)]


def test_one_worker_gathers_nothing() -> None:
    x = torch.ones(2, requires_grad=True)
    assert Workers.current() == Workers(rank=0, count=1)
    assert Workers().gather(x) is x
    assert Workers().gather_with_gradients(x) is x
