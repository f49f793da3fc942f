"""A batch has the same gradients on one worker and on two; at once, in passes and in chunks."""

import itertools
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
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from two_workers import run_as_two

from raymc.config import Config, LossName, from_dict, override, to_dict
from raymc.data.feed.batches import Batch
from raymc.data.shards import Dataset, open_dataset
from raymc.events import EpochEnded, Event, Stepped
from raymc.model.losses import chunked
from raymc.model.transformer import Embeddings
from raymc.training import learner as learning
from raymc.training import loop, validation
from raymc.training.learner import Learner, Objective, Workers, backward_in_passes, parts_of

CPU = torch.device("cpu")
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"loss.name": name} for name in typing.get_args(LossName)},
    "balanced": {"loss.name": "prototype_contrast", "loss.balance": 0.7},
    # 0.28 of 23 rows are 6, and of the 24 of two workers' shares 7
    "hardest clips": {"loss.name": "prototype_contrast", "loss.hard_clips": 0.28},
    "bottleneck": {"loss.name": "bce", "model.fusion": "bottleneck"},
    "each reads some shards": {"data.cache": "off", "batch.window_rows": 16},
    "modalities alone": {"loss.name": "prototype_contrast", "loss.modality_weight": 0.5},
    "class queries": {"loss.modality_weight": 0.5, "model.class_queries": 2},
}
Gradients = dict[str, Tensor]
Step = tuple[Tensor, Gradients]
PLAIN = {"model.dropout": 0.0, "model.modality_dropout": 0.0}
ONE_BATCH = {**PLAIN, "batch.size": 45, "loss.modality_weight": 0.5}
RANDOM = {"model.dropout": 0.4, "model.modality_dropout": 0.5}


def configure(base: Config, variant: str) -> Config:
    """Batches of 23 and 22 of the 45 rows, so that one share is padded, and nothing random."""
    return override(base, {**PLAIN, "batch.size": 23, **VARIANTS[variant]})


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


def make(config: Config, dataset: Dataset) -> tuple[Learner, Batch]:
    """A learner, and its share of the epoch's first batch."""
    workers = Workers.current()
    feeds = feeds_of(dataset, config, share=(workers.rank, workers.count))
    learner = learning.make_learner(config, dataset.manifest, feeds, device=CPU)
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
    torch.set_num_threads(1)  # more threads than cores only wait for each other
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    base = from_dict(values)
    dataset = open_dataset(base.data.path)
    config = configure(base, "prototype_contrast")
    found = {
        "steps": {v: gradients_of_steps(configure(base, v), dataset) for v in VARIANTS},
        "predictions": [
            [torch.from_numpy(x) for x in vars(predict(one, dataset)).values()]
            for one in (config, override(config, {"data.cache": "off"}))
        ],
        "gathered": gather_something(rank),
        "resumed": fit(config, dataset, Path(folder), Path(folder) / "epoch 1 of 1"),
        "passes": at_once_and_in_passes(override(base, ONE_BATCH), dataset),
        "exchanges": count_exchanges(override(base, ONE_BATCH), dataset),
    }
    chunked.CPU_SCORES, chunked.LEAST_CLASSES = 1, 2  # from here on, two classes a chunk
    found["chunks"] = gradients_of_steps(config, dataset)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def count_exchanges(config: Config, dataset: Dataset) -> list[int]:
    """Gathers of a step, and averages of buckets of gradients; at once, then in passes."""
    learner, batch = make(config, dataset)
    gather, shared, asked = dist.all_gather, learner.objective, []
    assert isinstance(shared, DistributedDataParallel)

    group = dist.group.WORLD
    assert group is not None

    def gathered(whole: list[Tensor], part: Tensor) -> None:
        asked.append("gather")
        gather(whole, part)

    def averaged(state, bucket):  # no types: DDP and pyright want different ones
        asked.append("average")
        return allreduce_hook(group, bucket)

    shared.register_comm_hook(None, averaged)
    dist.all_gather = gathered
    counts = []
    for rows in (0, 5):
        learning.add_gradients(learner, batch, rows)
        counts += [asked.count("gather"), asked.count("average")]
        asked.clear()
    dist.all_gather = gather
    return counts


def gather_something(rank: int) -> list[Tensor]:
    """Gather a bool matrix, numbers, and numbers with a gradient, that of Σ k·x_k²."""
    workers = Workers.current()
    assert workers == Workers(rank=rank, count=2)
    numbers = torch.arange(3.0) + 3 * rank
    leaf, flag = numbers.clone().requires_grad_(), torch.tensor([[rank == 0, True]] * 3)
    both = [leaf[:, None], 2 * leaf[:, None].detach()]
    (everything, twice), (flags, others) = workers.gather_step(both, [flag, ~flag[:, :1]])
    assert torch.equal(twice, 2 * everything)
    assert torch.equal(others, ~flags[:, :1])
    everything = everything[:, 0]
    (torch.arange(6.0) * everything**2).sum().backward()
    assert leaf.grad is not None
    return [
        flags[::3],
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
    run_as_two(work, str(folder), to_dict(tiny_config))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradients_are_those_of_one_worker(
    tiny: Dataset, tiny_config: Config, of_two: list[dict[str, Any]], variant: str
) -> None:
    alone = gradients_of_steps(configure(tiny_config, variant), tiny)
    assert len(alone) == 2
    for found in of_two:
        for (loss, gradients), (expected, expected_gradients) in zip(
            found["steps"][variant], alone, strict=True
        ):
            torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
            assert_close(gradients, expected_gradients, tolerance=1e-5)


@pytest.mark.slow
def test_both_workers_hold_the_same_gradients(of_two: list[dict[str, Any]]) -> None:
    first, second = (found["steps"] for found in of_two)
    for variant in VARIANTS:
        for (loss, gradients), (other, other_gradients) in zip(first[variant], second[variant]):
            assert torch.equal(loss, other)
            assert all(torch.equal(g, other_gradients[name]) for name, g in gradients.items())


@pytest.mark.slow
def test_both_workers_predict_every_row_once(
    tiny: Dataset, tiny_config: Config, of_two: list[dict[str, Any]]
) -> None:
    alone = predict(configure(tiny_config, "prototype_contrast"), tiny)
    assert alone.rows.tolist() == list(range(SPLIT_ROWS["val"]))
    for found in itertools.chain.from_iterable(each["predictions"] for each in of_two):
        scores, labels, observed, rows = (x.numpy() for x in found)
        np.testing.assert_allclose(scores, alone.scores, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(labels, alone.labels)
        np.testing.assert_array_equal(observed, alone.observed)
        np.testing.assert_array_equal(rows, alone.rows)


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert Workers().gather_step([x], [x > 0])[0][0] is x


@pytest.mark.parametrize(
    ("name", "rows"),
    [*((name, 16) for name in typing.get_args(LossName)), ("bce", 1), ("bce", 44)],
)
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


def test_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(learning, "_has_compiler", lambda: True)
    for value, device, steps, compiled in [
        ("auto", gpu, 5000, True),
        ("auto", gpu, 4999, False),
        ("auto", CPU, 5000, False),
        (True, CPU, 1, True),
        (False, gpu, 5000, False),
    ]:
        config = override(from_dict({}), {"train.compile": value}).train
        assert learning.wants_compiled(config, device, steps=steps) == compiled
    monkeypatch.setattr(learning, "_has_compiler", lambda: False)
    assert not learning.wants_compiled(from_dict({}).train, gpu, steps=5000)


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


@pytest.mark.slow
def test_a_run_in_passes_ends_as_one_at_once(tiny: Dataset, tiny_config: Config) -> None:
    losses = []
    for rows in (0, 6):
        config = override(tiny_config, {**PLAIN, "batch.size": 15, "batch.rows_per_pass": rows})
        learner, _ = make(config, tiny)
        feed = feeds_of(tiny, config).train
        for step, batch in enumerate(feed.training(1)):
            loss = learning.train_step(learner, config, batch, epoch=1, step=step, feed=feed)
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def at_once_and_in_passes(config: Config, dataset: Dataset) -> list[Gradients]:
    """The loss and gradients of one batch, embedded at once and in passes of 5 rows."""
    learner, batch = make(config, dataset)
    found = []
    for rows in (0, 5):
        loss = learning.add_gradients(learner, batch, rows)
        found.append({"loss": loss, **gradients_of(learner)})
    return found


@pytest.mark.slow
def test_two_workers_in_passes(
    tiny: Dataset, tiny_config: Config, of_two: list[dict[str, Any]]
) -> None:
    _, alone = at_once_and_in_passes(override(tiny_config, ONE_BATCH), tiny)
    for found in of_two:
        at_once, in_passes = found["passes"]
        assert_close(in_passes, at_once, tolerance=1e-5)
        assert_close(in_passes, alone, tolerance=1e-5)
    first, second = (found["passes"][1] for found in of_two)
    assert all(torch.equal(x, second[name]) for name, x in first.items())


@pytest.mark.slow
def test_two_workers_exchange_once_a_step(of_two: list[dict[str, Any]]) -> None:
    for found in of_two:
        assert found["exchanges"] == [1, 1, 1, 1]


@pytest.mark.slow
def test_two_workers_with_scores_in_chunks(of_two: list[dict[str, Any]]) -> None:
    for found in of_two:
        plain = found["steps"]["prototype_contrast"]
        for (loss, gradients), (expected, expected_gradients) in zip(
            found["chunks"], plain, strict=True
        ):
            torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
            assert_close(gradients, expected_gradients, tolerance=1e-5)
