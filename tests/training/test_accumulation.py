"""Gradients of a batch that is embedded in passes are those of the batch at once."""

import typing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tiny import feeds_of
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from raymc.config import Config, LossName, from_dict, override, to_dict
from raymc.data.feed.batches import Batch
from raymc.data.shards import Dataset, open_dataset
from raymc.model.transformer import Embeddings
from raymc.training import learner as learning
from raymc.training.learner import Learner, Objective, Workers, backward_in_passes, parts_of

Gradients = dict[str, Tensor]
PLAIN = {"model.dropout": 0.0, "model.modality_dropout": 0.0}
RANDOM = {"model.dropout": 0.4, "model.modality_dropout": 0.5}


def make(config: Config, dataset: Dataset) -> tuple[Learner, Batch]:
    """A learner, and its share of the epoch's first batch."""
    workers = Workers.current()
    feeds = feeds_of(dataset, config, share=(workers.rank, workers.count))
    learner = learning.make_learner(config, dataset.manifest, feeds, device=torch.device("cpu"))
    learner.model.train()
    return learner, next(iter(feeds.train.training(1)))


def gradients_of(learner: Learner) -> Gradients:
    named = learner.model.named_parameters()
    found = {name: p.grad.clone() for name, p in named if p.grad is not None}
    learner.optimizer.zero_grad()
    return found


def assert_close(found: Gradients, expected: Gradients, *, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    size = max(float(x.abs().max()) for x in expected.values())
    assert size > 1e-3
    for name, gradient in found.items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=tolerance, atol=tolerance * size, msg=name
        )


@pytest.mark.parametrize("rows", [1, 3, 16, 44])
@pytest.mark.parametrize("name", typing.get_args(LossName))
def test_gradients_are_those_of_the_batch_at_once(
    tiny: Dataset, tiny_config: Config, name: str, rows: int
) -> None:
    settings = {**PLAIN, "loss.name": name, "loss.modality_weight": 0.5, "batch.size": 45}
    learner, batch = make(override(tiny_config, settings), tiny)
    learner.model.double()
    at_once = learning.add_gradients(learner, batch, 0)
    expected = gradients_of(learner)
    in_passes = learning.add_gradients(learner, batch, rows)
    torch.testing.assert_close(in_passes, at_once)
    assert_close(gradients_of(learner), expected, tolerance=1e-6)  # the loss is of float32


def test_bfloat16_in_passes(tiny: Dataset, tiny_config: Config) -> None:
    settings = {**PLAIN, "batch.size": 45, "train.precision": "bfloat16"}
    learner, batch = make(override(tiny_config, settings), tiny)
    assert learner.autocast
    at_once = learning.add_gradients(learner, batch, 0)
    expected = gradients_of(learner)
    torch.testing.assert_close(learning.add_gradients(learner, batch, 9), at_once)
    assert_close(gradients_of(learner), expected, tolerance=0.03)  # rounded to 8 bits on the way


def test_dropout_is_the_same_in_both_passes(tiny: Dataset, tiny_config: Config) -> None:
    learner, batch = make(override(tiny_config, {**RANDOM, "batch.size": 45}), tiny)
    objective = learner.objective
    assert isinstance(objective, Objective)
    torch.manual_seed(3)
    made = [objective.embed(part) for part in parts_of(batch, 8)]  # with a graph, all of them
    names = made[0].by_modality
    joined = Embeddings(
        fused=torch.cat([one.fused for one in made]),
        by_modality={n: torch.cat([one.by_modality[n] for one in made]) for n in names},
        present={n: torch.cat([one.present[n] for one in made]) for n in names},
    )
    loss = objective.loss(joined, batch)
    loss.backward()
    expected = gradients_of(learner)
    torch.manual_seed(3)
    torch.testing.assert_close(learning.add_gradients(learner, batch, 8), loss.detach())
    assert_close(gradients_of(learner), expected, tolerance=1e-5)
    torch.manual_seed(4)
    learning.add_gradients(learner, batch, 8)
    other = gradients_of(learner)
    assert not all(torch.allclose(x, other[name]) for name, x in expected.items())


def test_no_more_rows_are_embedded_at_a_time(tiny: Dataset, tiny_config: Config) -> None:
    learner, batch = make(override(tiny_config, {**PLAIN, "batch.size": 45}), tiny)
    objective = learner.objective
    assert isinstance(objective, Objective)
    sizes = []

    def embed(part: Batch) -> Embeddings:
        sizes.append((len(part.rows), torch.is_grad_enabled()))
        return objective.embed(part)

    backward_in_passes(embed, objective.loss, batch, 20)
    assert sizes == [(20, False), (20, False), (5, False), (20, True), (20, True), (5, True)]


def test_a_run_in_passes_ends_as_one_at_once(tiny: Dataset, tiny_config: Config) -> None:
    losses = []
    for rows in (0, 3):
        config = override(tiny_config, {**PLAIN, "batch.rows_per_pass": rows})
        learner, _ = make(config, tiny)
        feed = feeds_of(tiny, config).train
        for step, batch in enumerate(feed.training(1)):
            loss = learning.train_step(learner, config, batch, epoch=1, step=step, feed=feed)
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def work(rank: int, folder: str, values: dict[str, Any]) -> None:
    """What each of two workers computes."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    config = from_dict(values)
    learner, batch = make(config, open_dataset(config.data.path))
    found = []
    for rows in (0, 5):
        loss = learning.add_gradients(learner, batch, rows)
        found.append({"loss": loss, **gradients_of(learner)})
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_workers_in_passes(tiny: Dataset, tiny_config: Config, tmp_path: Path) -> None:
    config = override(tiny_config, {**PLAIN, "batch.size": 45, "loss.modality_weight": 0.5})
    spawn(work, (str(tmp_path), to_dict(config)), nprocs=2)
    learner, batch = make(config, tiny)
    loss = learning.add_gradients(learner, batch, 7)
    alone = {"loss": loss, **gradients_of(learner)}
    workers = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for at_once, in_passes in workers:
        assert_close(in_passes, at_once, tolerance=1e-5)
        assert_close(in_passes, alone, tolerance=1e-5)
    assert all(torch.equal(x, workers[1][1][name]) for name, x in workers[0][1].items())
