import math

import numpy as np
import pytest
import torch
from loss_cases import Case, every_weighting, random_case

from raymc.model.losses import bce, cosine_bce


def slow_bce(case: Case, scale: float, weights: np.ndarray) -> float:
    losses = []
    for i, k in zip(*np.nonzero(case.observed), strict=True):
        probability = 1.0 / (1.0 + math.exp(-case.scores[i, k] * scale))
        if case.labels[i, k]:
            losses.append(-weights[k] * math.log(probability))
        else:
            losses.append(-math.log(1.0 - probability))
    return sum(losses) / len(losses)


@every_weighting
def test_bce_equals_the_slow_loop(seed: int, weighted: bool) -> None:
    case = random_case(seed)
    loss = bce(*case.batch(), class_weights=case.class_weights(weighted))
    assert loss.item() == pytest.approx(slow_bce(case, 1.0, case.factors(weighted)), rel=1e-9)


@every_weighting
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_cosine_bce_equals_the_slow_loop(seed: int, temperature: float, weighted: bool) -> None:
    case = random_case(seed)
    loss = cosine_bce(
        *case.batch(), temperature=temperature, class_weights=case.class_weights(weighted)
    )
    expected = slow_bce(case, 1.0 / temperature, case.factors(weighted))
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_undecided_logits_cost_the_logarithm_of_two() -> None:
    labels = torch.tensor([[True, False, False], [True, True, False]])
    loss = bce(torch.zeros(2, 3), labels, torch.ones_like(labels))
    assert loss.item() == pytest.approx(math.log(2.0))
