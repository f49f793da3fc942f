"""The losses chunk by chunk: equal to the plain ones, and never a whole matrix of scores."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from loss_cases import Case, every_weighting, random_case
from meter import Meter
from test_prototype import slow_contrast, slow_margin
from test_proxy_anchor import slow_proxy_anchor
from tiny import feeds_of
from torch import Tensor
from torch.nn.functional import linear, normalize

from jobs.bench.train_counts import Operations
from raymc.config import Config, LossConfig, LossName, override
from raymc.data.shards import Dataset
from raymc.model.losses import chunked, compute_loss, head_of
from raymc.model.losses.chunked import chunk_classes, chunked_loss
from raymc.training import learner

CPU = torch.device("cpu")
CONFIGS = [
    LossConfig(name="prototype_contrast", two_way=True),
    LossConfig(name="prototype_contrast", two_way=False),
    LossConfig(name="prototype_contrast", clip_weight=1.0),
    LossConfig(name="prototype_contrast", clip_weight=0.0),
    LossConfig(name="prototype_contrast", hard_clips=0.3),
    LossConfig(name="prototype_contrast", margin=0.0, temperature=1.0),
    LossConfig(name="prototype_contrast", margin=2.0, temperature=0.01),
    LossConfig(name="prototype_margin"),
    LossConfig(name="prototype_margin", temperature=0.0, margin=0.8),
    LossConfig(name="proxy_anchor"),
    LossConfig(name="proxy_anchor", margin=2.0, temperature=0.01),
    LossConfig(name="cosine_bce"),
    LossConfig(name="bce"),
    LossConfig(name="focal"),
    LossConfig(name="asl"),
]
every_loss = pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda config: f"{config.name}-{CONFIGS.index(config)}"
)
# Losses that take different ways through the code.
every_way = pytest.mark.parametrize(
    "config",
    [
        LossConfig(name="prototype_contrast", hard_clips=0.3),
        LossConfig(name="prototype_contrast", two_way=False),
        LossConfig(name="prototype_margin"),
        LossConfig(name="proxy_anchor"),
        LossConfig(name="cosine_bce"),
        LossConfig(name="bce"),
    ],
    ids=lambda config: f"{config.name}-{config.two_way}",
)
# one of each head
TRAINED: tuple[LossName, ...] = ("prototype_contrast", "bce")
Inputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def chunks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four classes a chunk, whatever the batch."""
    chunks_of(4, monkeypatch)


def chunks_of(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CPU_SCORES", 1)
    monkeypatch.setattr(chunked, "LEAST_CLASSES", classes)
    assert chunk_classes(7, CPU) == classes


def inputs_of(case: Case, dtype: torch.dtype = torch.float64, seed: int = 0) -> Inputs:
    """Embeddings, prototypes and biases whose scores are of any size and sign."""
    generator = torch.Generator().manual_seed(seed)
    rows, classes = case.labels.shape
    shapes = ((rows, 5), (classes, 5), (classes,))
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    embedding, prototypes, bias = (x.to(dtype).requires_grad_() for x in values)
    return embedding, prototypes, bias


def plain_loss(
    config: LossConfig,
    embedding: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    observed: Tensor,
    *,
    bias: Tensor,
    class_weights: Tensor | None = None,
) -> Tensor:
    scores = linear(embedding, prototypes, bias)
    if head_of(config.name) == "cosine":
        scores = normalize(embedding, dim=-1) @ normalize(prototypes, dim=-1).T
    return compute_loss(config, scores, labels, observed, class_weights)


def value_and_gradients(
    loss: Callable[..., Tensor],
    config: LossConfig,
    case: Case,
    inputs: Inputs,
    weights: Tensor | None = None,
) -> list[Tensor]:
    """The loss and what it asks of embeddings, prototypes and, if there are any, biases."""
    embedding, prototypes, bias = (x.detach().clone().requires_grad_() for x in inputs)
    _, labels, observed = case.batch()
    value = loss(config, embedding, prototypes, labels, observed, bias=bias, class_weights=weights)
    value.backward()
    gradients = [embedding.grad, prototypes.grad, torch.zeros_like(bias)]
    gradients[2] = gradients[2] if bias.grad is None else bias.grad
    assert (bias.grad is None) == (head_of(config.name) == "cosine")
    return [value.detach(), *(g for g in gradients if g is not None)]


def assert_equal(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    assert len(found) == len(expected) == 4
    for x, y in zip(found, expected):
        size = float(y.abs().max()) if y.numel() else 0.0
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance * size)


@every_loss
@pytest.mark.parametrize(
    ("rows", "classes", "weighted"), [(9, 8, False), (9, 11, True), (7, 4, True)]
)
def test_equals_the_plain_loss(config: LossConfig, rows: int, classes: int, weighted: bool) -> None:
    case = random_case(rows + classes, rows=rows, classes=classes)
    weights = case.class_weights(weighted)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        inputs = inputs_of(case, dtype)
        found = value_and_gradients(chunked_loss, config, case, inputs, weights)
        expected = value_and_gradients(plain_loss, config, case, inputs, weights)
        assert found[0].dtype == dtype
        assert found[0] > 0
        assert_equal(found, expected, tolerance)


@every_way
@pytest.mark.parametrize("rows", [9, 0])
def test_sparse_labels_and_expanded_entries_are_the_same(config: LossConfig, rows: int) -> None:
    case = random_case(4, rows=9, classes=11)
    known = np.arange(9)[:, None] % 4 > 0
    case = replace(case, labels=case.labels[:rows], observed=np.repeat(known, 11, axis=1)[:rows])

    def sparse_loss(
        config: LossConfig, x: Tensor, c: Tensor, labels: Tensor, observed: Tensor, **named: Any
    ) -> Tensor:
        column = observed[:, :1].clone().expand(observed.shape)
        return chunked_loss(config, x, c, labels.to_sparse_coo(), column, **named)

    inputs, weights = inputs_of(case), case.class_weights(True)
    expected = value_and_gradients(chunked_loss, config, case, inputs, weights)
    assert_equal(value_and_gradients(sparse_loss, config, case, inputs, weights), expected, 1e-12)


@every_way
@pytest.mark.parametrize("classes", [1, 10, 11])
def test_the_size_of_a_chunk_does_not_matter(
    config: LossConfig, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = random_case(3, rows=8, classes=11)
    expected = value_and_gradients(plain_loss, config, case, inputs_of(case))
    chunks_of(classes, monkeypatch)
    found = value_and_gradients(chunked_loss, config, case, inputs_of(case))
    assert_equal(found, expected, 1e-9)


@every_weighting
def test_equals_the_slow_loops(seed: int, weighted: bool) -> None:
    case = random_case(seed, rows=9, classes=7)
    embedding, prototypes, _ = inputs_of(case, seed=seed)
    x, c = embedding.detach().numpy(), prototypes.detach().numpy()
    lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(c, axis=1)
    case, factors = replace(case, scores=x @ c.T / lengths), case.factors(weighted)
    expected: dict[LossName, float] = {
        "prototype_contrast": slow_contrast(
            case, 0.1, 0.2, factors, clip_weight=0.3, hard_clips=0.4
        ),
        "prototype_margin": slow_margin(case, 0.1, 0.2, factors),
        "proxy_anchor": slow_proxy_anchor(case, 0.1, 5.0, factors),
    }
    _, labels, observed = case.batch()
    for name, value in expected.items():
        config = LossConfig(name=name, margin=0.1, temperature=0.2, clip_weight=0.3, hard_clips=0.4)
        weights = case.class_weights(weighted)
        loss = chunked_loss(config, embedding, prototypes, labels, observed, class_weights=weights)
        assert loss.item() == pytest.approx(value, rel=1e-8)


@every_way
def test_gradients_are_those_of_finite_differences(config: LossConfig) -> None:
    case = random_case(1, rows=5, classes=5)
    _, labels, observed = case.batch()
    milder = replace(config, temperature=max(config.temperature, 0.1 * (config.temperature > 0)))

    def loss(embedding: Tensor, prototypes: Tensor, bias: Tensor) -> Tensor:
        return chunked_loss(milder, embedding, prototypes, labels, observed, bias=bias)

    embedding, prototypes, bias = inputs_of(case)
    bias.requires_grad_(head_of(config.name) == "linear")
    inputs = (embedding, prototypes, bias)
    # the whole Jacobian in random directions, not each of its entries
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)


EMPTY_CASES = {
    "no label in the batch": (torch.zeros(4, 7), torch.ones(4, 7)),
    "nothing observed": (torch.ones(4, 7), torch.zeros(4, 7)),
    "every class positive": (torch.ones(4, 7), torch.ones(4, 7)),
    "one clip": (torch.eye(1, 7), torch.ones(1, 7)),
    "one class": (torch.tensor([[1], [0], [0]]), torch.ones(3, 1)),
    "one entry, a label": (torch.ones(1, 1), torch.ones(1, 1)),
    "no clip at all": (torch.zeros(0, 7), torch.zeros(0, 7)),
}


@every_way
@pytest.mark.parametrize("name", EMPTY_CASES)
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_batches_that_lack_something_have_finite_losses(
    config: LossConfig, name: str, scale: float
) -> None:
    labels, observed = (x.bool().numpy() for x in EMPTY_CASES[name])
    case = Case(scores=np.zeros(labels.shape), labels=labels, observed=observed, weights=np.ones(7))
    embedding, prototypes, bias = inputs_of(case, torch.float32)
    inputs = (embedding * scale, prototypes, bias)
    found = value_and_gradients(chunked_loss, config, case, inputs)
    assert all(x.isfinite().all() for x in found)
    assert_equal(found, value_and_gradients(plain_loss, config, case, inputs), 1e-5)
    if not observed.any():
        assert not any(x.any() for x in found)


def test_what_is_not_a_number_stays_none() -> None:
    case = random_case(0)
    embedding, prototypes, bias = inputs_of(case)
    with torch.no_grad():
        embedding[1] = torch.nan
    for config in CONFIGS:
        assert chunked_loss(config, embedding, prototypes, *case.batch()[1:], bias=bias).isnan()


@every_way
def test_half_precision_is_summed_in_float32(config: LossConfig) -> None:
    case = random_case(2, rows=32, classes=10)
    inputs = inputs_of(case, torch.bfloat16)
    found = value_and_gradients(chunked_loss, config, case, inputs)
    embedding, prototypes, bias = (x.double() for x in inputs)
    expected = value_and_gradients(plain_loss, config, case, (embedding, prototypes, bias))
    assert [x.dtype for x in found] == [torch.float32, *[torch.bfloat16] * 3]
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-5)
    assert_equal([x.double() for x in found], expected, 2e-2)


@every_way
def test_autocast_does_not_change_the_loss(config: LossConfig) -> None:
    case = random_case(2)
    inputs = inputs_of(case, torch.float32)

    def autocast_loss(*given: Any, **named: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return chunked_loss(*given, **named)

    expected = value_and_gradients(chunked_loss, config, case, inputs)
    found = value_and_gradients(autocast_loss, config, case, inputs)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@every_way
def test_gradients_may_be_taken_twice_and_for_two_batches(config: LossConfig) -> None:
    first, second = random_case(0), random_case(1)
    inputs = inputs_of(first)
    embedding, prototypes, bias = inputs
    losses = [
        chunked_loss(config, embedding, prototypes, *case.batch()[1:], bias=bias)
        for case in (first, second, first)
    ]
    (losses[0] + losses[1]).backward(retain_graph=True)
    losses[0].backward()
    losses[2].backward()
    once, other = (value_and_gradients(plain_loss, config, c, inputs)[2] for c in (first, second))
    assert prototypes.grad is not None
    torch.testing.assert_close(prototypes.grad, 3 * once + other)


def test_gradients_of_gradients_are_refused() -> None:
    case = random_case(0)
    embedding, prototypes, _ = inputs_of(case)
    loss = chunked_loss(LossConfig(), embedding, prototypes, *case.batch()[1:])
    (gradient,) = torch.autograd.grad(loss, prototypes, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_without_gradients_nothing_is_kept() -> None:
    case = random_case(0)
    embedding, prototypes, bias = inputs_of(case)
    for config in CONFIGS:
        _, labels, observed = case.batch()
        expected = chunked_loss(config, embedding, prototypes, labels, observed, bias=bias)
        with torch.no_grad():
            found = chunked_loss(config, embedding, prototypes, labels, observed, bias=bias)
        assert not found.requires_grad
        assert torch.equal(found, expected)


@every_way
def test_no_tensor_is_larger_than_a_chunk(
    config: LossConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, classes, chunk = 64, 5000, 320
    case = Case(
        scores=np.zeros((rows, classes)),
        labels=np.random.default_rng(0).random((rows, classes)) < 1e-3,
        observed=np.ones((rows, classes), dtype=bool),
        weights=np.ones(classes),
    )
    chunks_of(chunk, monkeypatch)
    inputs = tuple(x[..., :2] if x.dim() == 2 else x for x in inputs_of(case, torch.float32))
    metered = {}
    for loss in (plain_loss, chunked_loss):
        with Meter() as meter:
            value_and_gradients(loss, config, case, inputs)
        metered[loss] = meter
    assert metered[plain_loss].largest == rows * classes
    assert metered[chunked_loss].largest <= rows * chunk
    matrix = rows * classes * 4
    assert metered[plain_loss].peak_bytes > 2 * matrix
    assert metered[chunked_loss].peak_bytes < matrix


@pytest.mark.slow
@every_way
def test_with_sparse_labels_not_even_bools_are_a_matrix(
    config: LossConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, classes = 64, 20_000
    chunks_of(300, monkeypatch)
    entries = torch.stack([torch.arange(rows), torch.arange(rows) * 70])
    with Meter() as meter:
        embedding = torch.randn(rows, 2, requires_grad=True)
        prototypes = torch.randn(classes, 2, requires_grad=True)
        marks = torch.ones(rows, dtype=torch.bool)
        labels = torch.sparse_coo_tensor(entries, marks, (rows, classes), check_invariants=True)
        observed = torch.ones(rows, 1, dtype=torch.bool).expand(rows, classes)
        chunked_loss(config, embedding, prototypes, labels, observed).backward()
    assert meter.peak_bytes < rows * classes  # what one matrix of bools would take


@pytest.mark.parametrize("classes", [1, 4, 11])
@every_way
def test_a_step_waits_for_the_device_once_however_many_chunks(
    config: LossConfig, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks_of(classes, monkeypatch)
    lists = []  # a list of a tensor's numbers waits too, but is no operation on a CPU
    monkeypatch.setattr(Tensor, "tolist", lambda x, read=Tensor.tolist: lists.append(x) or read(x))
    case = random_case(0, rows=9, classes=11)
    with Operations() as seen:
        value_and_gradients(chunked_loss, config, case, inputs_of(case))
    assert seen.figures["waits"] == 0
    assert len(lists) == (config.name == "prototype_contrast")


def test_a_chunk_has_room_for_many_scores_but_not_too_few_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    assert chunk_classes(1024, CPU) == 1024
    assert chunk_classes(100, CPU) == 10485
    assert chunk_classes(10**6, CPU) == chunk_classes(10**5, CPU) == 256
    assert chunk_classes(0, CPU) > 10**6
    assert chunk_classes(1024, torch.device("cuda")) == 2**14


def steps_of(config: Config, dataset: Dataset) -> list[dict[str, Tensor]]:
    """The loss and the gradients of every step of an epoch, all from the same weights."""
    feeds = feeds_of(dataset, config)
    found = learner.make_learner(config, dataset.manifest, feeds, device=CPU)
    steps = []
    for batch in feeds.train.training(epoch=1):
        found.optimizer.zero_grad()
        loss = found.objective(batch)
        loss.backward()
        named = found.model.named_parameters()
        gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
        steps.append({"loss": loss.detach(), **gradients})
    return steps


def test_a_training_step_takes_sparse_labels(
    tiny: Dataset, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks_of(2, monkeypatch)
    config = configure(tiny_config, "prototype_contrast")
    feeds = feeds_of(tiny, config)
    found = learner.make_learner(config, tiny.manifest, feeds, device=CPU)
    for batch in feeds.train.training(epoch=1):
        sparse = replace(batch, labels=batch.labels.to_sparse_coo())
        assert torch.equal(found.objective(sparse), found.objective(batch))


def configure(base: Config, name: LossName) -> Config:
    quiet = {"batch.size": 15, "model.dropout": 0.0, "model.modality_dropout": 0.0}
    return override(base, {**quiet, "loss.name": name, "loss.balance": 0.5})


@pytest.mark.parametrize("name", TRAINED)
def test_training_takes_the_same_steps(
    tiny: Dataset, tiny_config: Config, name: LossName, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(tiny_config, name)
    with monkeypatch.context() as patch:
        patch.setattr(chunked, "LEAST_CLASSES", 256)
        plain = steps_of(config, tiny)
    chunks_of(2, monkeypatch)
    monkeypatch.setattr(learner, "compute_loss", None)
    assert len(plain) == 3
    for step, expected in zip(steps_of(config, tiny), plain, strict=True):
        assert step.keys() == expected.keys()
        size = max(float(x.abs().max()) for x in expected.values())
        for key, x in step.items():
            torch.testing.assert_close(x, expected[key], rtol=1e-5, atol=1e-5 * size)
