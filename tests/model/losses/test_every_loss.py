"""What holds for every loss: gradients, empty batches, precision, order, unobserved entries."""

import math
from dataclasses import replace

import pytest
import torch
from loss_cases import random_case
from torch import Tensor

from raymc.config import LossConfig
from raymc.model.losses import compute_loss

CONFIGS = [
    LossConfig(name="prototype_contrast", two_way=True),
    LossConfig(name="prototype_contrast", two_way=False),
    LossConfig(name="prototype_contrast", clip_weight=1.0),
    LossConfig(name="prototype_contrast", clip_weight=0.0),
    LossConfig(name="prototype_contrast", hard_clips=0.4),
    LossConfig(name="prototype_margin"),
    LossConfig(name="prototype_margin", temperature=0.0, margin=0.8),
    LossConfig(name="proxy_anchor"),
    LossConfig(name="cosine_bce"),
    LossConfig(name="bce"),
    LossConfig(name="focal"),
    LossConfig(name="asl"),
    LossConfig(name="asl", gamma_positive=1.0, clip=0.0),
]
every_loss = pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda config: f"{config.name}-{CONFIGS.index(config)}"
)


def value_and_gradient(
    config: LossConfig,
    scores: Tensor,
    labels: Tensor,
    observed: Tensor,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    leaf = scores.detach().clone().requires_grad_()
    loss = compute_loss(config, leaf, labels, observed, class_weights)
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


@every_loss
def test_gradients_are_those_of_finite_differences(config: LossConfig) -> None:
    case = random_case(0, rows=6, classes=5)
    scores, labels, observed = case.batch()
    for weights in (None, case.class_weights(True)):
        assert torch.autograd.gradcheck(
            lambda leaf, w=weights: compute_loss(config, leaf, labels, observed, w),
            (scores,),
            fast_mode=True,  # the whole Jacobian in random directions, not each of its entries
        )


EMPTY_CASES = {
    "no label in the batch": (torch.zeros(4, 3), torch.ones(4, 3)),
    "nothing observed": (torch.ones(4, 3), torch.zeros(4, 3)),
    "every class positive": (torch.ones(4, 3), torch.ones(4, 3)),
    "a class without a clip": (torch.tensor([[1, 0, 1], [0, 0, 1]]), torch.ones(2, 3)),
    "a class of all clips": (torch.tensor([[1, 1, 0], [0, 1, 1]]), torch.ones(2, 3)),
    "one clip": (torch.tensor([[1, 0, 0]]), torch.ones(1, 3)),
    "one class": (torch.tensor([[1], [0], [0]]), torch.ones(3, 1)),
    "one entry, a label": (torch.ones(1, 1), torch.ones(1, 1)),
    "one entry, no label": (torch.zeros(1, 1), torch.ones(1, 1)),
    "no clip at all": (torch.zeros(0, 3), torch.zeros(0, 3)),
}


@every_loss
@pytest.mark.parametrize("size", [0.0, -1.0, 1e4])
def test_batches_that_lack_something_have_finite_losses(config: LossConfig, size: float) -> None:
    for name, batch in EMPTY_CASES.items():
        labels, observed = (array.bool() for array in batch)
        scores = torch.full(labels.shape, size)
        loss, gradient = value_and_gradient(config, scores, labels, observed)
        assert loss.isfinite(), name
        assert gradient.isfinite().all(), name
        assert loss >= 0.0 or size > 1.0, name
        if not observed.any():
            assert loss == 0.0, name
            assert not gradient.any(), name


@every_loss
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_cold_temperatures_and_huge_scores_stay_finite(config: LossConfig, scale: float) -> None:
    case = random_case(1)
    cold = replace(config, temperature=0.01)
    scores, labels, observed = case.batch(torch.float32)
    loss, gradient = value_and_gradient(cold, scores * scale, labels, observed)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@every_loss
def test_half_precision_is_summed_in_float32(config: LossConfig) -> None:
    case = random_case(2, rows=64, classes=24)
    scores, labels, observed = case.batch(torch.bfloat16)
    loss, gradient = value_and_gradient(config, scores, labels, observed)
    exact, exact_gradient = value_and_gradient(config, scores.double(), labels, observed)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    assert gradient.dtype == torch.bfloat16
    assert torch.allclose(gradient.double(), exact_gradient, rtol=1e-2, atol=1e-5)


@every_loss
def test_autocast_does_not_change_the_loss(config: LossConfig) -> None:
    scores, labels, observed = random_case(2).batch(torch.bfloat16)
    loss, gradient = value_and_gradient(config, scores, labels, observed)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        other, other_gradient = value_and_gradient(config, scores, labels, observed)
    assert torch.equal(other, loss)
    assert torch.equal(other_gradient, gradient)


@every_loss
def test_the_order_of_clips_and_classes_does_not_matter(config: LossConfig) -> None:
    case = random_case(4)
    scores, labels, observed = case.batch()
    weights = torch.from_numpy(case.weights)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(scores.shape[0], generator=generator)
    columns = torch.randperm(scores.shape[1], generator=generator)
    shuffled = [array[rows][:, columns] for array in (scores, labels, observed)]
    loss, gradient = value_and_gradient(config, scores, labels, observed, weights)
    other, other_gradient = value_and_gradient(
        config, shuffled[0], shuffled[1], shuffled[2], weights[columns]
    )
    assert other.item() == pytest.approx(loss.item(), rel=1e-12)
    assert torch.allclose(other_gradient, gradient[rows][:, columns], rtol=1e-10, atol=1e-15)


@every_loss
@pytest.mark.parametrize("noise", [math.nan, 7.0])
def test_unobserved_entries_enter_neither_loss_nor_gradient(
    config: LossConfig, noise: float
) -> None:
    scores, labels, observed = random_case(5).batch()
    loss, gradient = value_and_gradient(config, scores, labels, observed)
    noisy = torch.where(observed, scores, noise)
    other, other_gradient = value_and_gradient(config, noisy, labels ^ ~observed, observed)
    assert torch.equal(other, loss)
    assert torch.equal(other_gradient, gradient)
    assert not gradient[~observed].any()


@every_loss
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_that_only_make_shares_equal_change_nothing(
    config: LossConfig, weighted: bool
) -> None:
    """Several workers get as many rows each; one worker's batch has no such rows."""
    for rows in (1, 2, 3, 5, 8, 13, 23):
        generator = torch.Generator().manual_seed(rows)
        scores = torch.rand(rows, 6, generator=generator, dtype=torch.float64) * 2 - 1
        labels = torch.rand(rows, 6, generator=generator) < 0.35
        observed = torch.rand(rows, 6, generator=generator) < 0.8
        weights = torch.linspace(0.3, 3.0, 6, dtype=torch.float64) if weighted else None
        loss, gradient = value_and_gradient(config, scores, labels, observed, weights)
        for more in (1, 2, 7):
            nothing = torch.zeros(more, 6, dtype=torch.bool)
            padded, padded_gradient = value_and_gradient(
                config,
                torch.cat([scores, nothing]),
                torch.cat([labels, nothing]),
                torch.cat([observed, nothing]),
                weights,
            )
            torch.testing.assert_close(padded, loss, rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(padded_gradient[:rows], gradient, rtol=1e-9, atol=1e-14)
            assert not padded_gradient[rows:].any()


@every_loss
def test_equal_weights_are_no_weights(config: LossConfig) -> None:
    batch = random_case(0).batch()
    ones = torch.ones(batch[0].shape[1])
    assert torch.equal(compute_loss(config, *batch, ones), compute_loss(config, *batch))


@every_loss
def test_heavier_positives_pull_harder(config: LossConfig) -> None:
    labels = torch.tensor([[True, True, False], [False, True, True], [True, False, False]])
    scores = torch.tensor([[0.1, 0.2, 0.0], [0.3, -0.2, 0.1], [0.0, 0.2, -0.1]]).double()
    known = torch.ones_like(labels)
    even = value_and_gradient(config, scores, labels, known)[1]
    heavy = value_and_gradient(config, scores, labels, known, torch.tensor([4.0, 1.0, 1.0]))[1]
    assert heavy[0, 0] < even[0, 0] < 0.0


@every_loss
def test_gradients_point_to_better_scores(config: LossConfig) -> None:
    scores, labels, observed = random_case(3, rows=12).batch()
    loss, gradient = value_and_gradient(config, scores, labels, observed)
    better, _ = value_and_gradient(config, scores - 0.01 * gradient, labels, observed)
    assert better < loss
    assert (gradient[labels & observed] <= 0.0).all()
    assert (gradient[~labels & observed] >= 0.0).all()
