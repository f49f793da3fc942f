import math

import numpy as np
import pytest
import torch
from loss_cases import SEEDS, Case, every_weighting, random_case

from raymc.model.losses import asl, bce, focal


def slow_asl(
    case: Case, gamma_negative: float, gamma_positive: float, clip: float, weights: np.ndarray
) -> float:
    """The formula of the paper, entry by entry; focal loss is its symmetric case."""
    losses = []
    for i, k in zip(*np.nonzero(case.observed), strict=True):
        p = 1.0 / (1.0 + math.exp(-case.scores[i, k]))
        if case.labels[i, k]:
            losses.append(-weights[k] * (1.0 - p) ** gamma_positive * math.log(p))
        else:
            shifted = max(p - clip, 0.0)
            losses.append(-(shifted**gamma_negative) * math.log(1.0 - shifted))
    return sum(losses) / len(losses)


def logits_case(seed: int) -> Case:
    """Logits in [-6, 6], so that the clip of asl has something to drop."""
    case = random_case(seed)
    return Case(case.scores * 6.0, case.labels, case.observed, case.weights)


@every_weighting
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_equals_the_slow_loop(seed: int, gamma: float, weighted: bool) -> None:
    case = logits_case(seed)
    loss = focal(*case.batch(), gamma=gamma, class_weights=case.class_weights(weighted))
    expected = slow_asl(case, gamma, gamma, 0.0, case.factors(weighted))
    assert loss.item() == pytest.approx(expected, rel=1e-9)


@every_weighting
@pytest.mark.parametrize(
    ("gamma_negative", "gamma_positive", "clip"),
    [(4.0, 0.0, 0.05), (4.0, 1.0, 0.05), (0.5, 2.0, 0.3), (2.0, 2.0, 0.0), (0.0, 0.0, 0.2)],
)
def test_asl_equals_the_slow_loop(
    seed: int, gamma_negative: float, gamma_positive: float, clip: float, weighted: bool
) -> None:
    case = logits_case(seed)
    loss = asl(
        *case.batch(),
        gamma_negative=gamma_negative,
        gamma_positive=gamma_positive,
        clip=clip,
        class_weights=case.class_weights(weighted),
    )
    expected = slow_asl(case, gamma_negative, gamma_positive, clip, case.factors(weighted))
    assert loss.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_without_focus_and_clip_both_are_bce(seed: int) -> None:
    case = logits_case(seed)
    batch, weights = case.batch(), case.class_weights(True)
    expected = bce(*batch, class_weights=weights).item()
    unfocused = asl(*batch, gamma_negative=0.0, gamma_positive=0.0, clip=0.0, class_weights=weights)
    assert focal(*batch, gamma=0.0, class_weights=weights).item() == pytest.approx(expected)
    assert unfocused.item() == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_gradients_stay_finite_at_any_logit(clip: float, gamma: float) -> None:
    logits = torch.tensor([-1e4, -200.0, -3.0, 0.0, 3.0, 200.0, 1e4])
    scores = logits[:, None].repeat(1, 2).requires_grad_()
    labels = torch.tensor([[True, False]]).repeat(7, 1)
    known = torch.ones_like(labels)
    total = asl(scores, labels, known, gamma_negative=gamma, gamma_positive=gamma, clip=clip)
    total = total + focal(scores, labels, known, gamma=gamma)
    total.backward()
    assert scores.grad is not None
    assert total.isfinite()
    assert scores.grad.isfinite().all()


def test_asl_drops_easy_negatives_altogether() -> None:
    scores = torch.tensor([[-4.0, -2.0]], requires_grad=True)
    labels = torch.zeros(1, 2, dtype=torch.bool)
    asl(scores, labels, ~labels, clip=0.05).backward()
    assert scores.grad is not None
    assert scores.grad[0, 0] == 0.0
    assert scores.grad[0, 1] > 0.0
