import math

import numpy as np
import pytest
import torch
from loss_cases import Case, every_weighting, random_case

from raymc.model.losses import proxy_anchor


def slow_proxy_anchor(case: Case, margin: float, alpha: float, weights: np.ndarray) -> float:
    pulls, pull_weights, pushes = [], [], []
    for k in range(case.scores.shape[1]):
        pull, push, has_clip, is_observed = 0.0, 0.0, False, False
        for score, label, known in zip(
            case.scores[:, k], case.labels[:, k], case.observed[:, k], strict=True
        ):
            is_observed = is_observed or bool(known)
            if known and label:
                has_clip = True
                pull += math.exp(-alpha * (score - margin))
            elif known:
                push += math.exp(alpha * (score + margin))
        if has_clip:
            pulls.append(math.log(1.0 + pull))
            pull_weights.append(weights[k])
        if is_observed:
            pushes.append(math.log(1.0 + push))
    return float(np.average(pulls, weights=pull_weights)) + sum(pushes) / len(pushes)


@every_weighting
@pytest.mark.parametrize(("margin", "alpha"), [(0.0, 1.0), (0.1, 32.0), (0.5, 10.0)])
def test_equals_the_slow_loop(seed: int, margin: float, alpha: float, weighted: bool) -> None:
    case = random_case(seed)
    loss = proxy_anchor(
        *case.batch(),
        margin=margin,
        temperature=1.0 / alpha,
        class_weights=case.class_weights(weighted),
    )
    expected = slow_proxy_anchor(case, margin, alpha, case.factors(weighted))
    assert loss.item() == pytest.approx(expected, rel=1e-8)


def test_one_clip_and_its_prototype_by_hand() -> None:
    labels = torch.tensor([[True, False]])
    scores = torch.tensor([[0.5, 0.25]], dtype=torch.float64)
    loss = proxy_anchor(scores, labels, torch.ones_like(labels), margin=0.1, temperature=0.5)
    pull = math.log(1.0 + math.exp(-2.0 * (0.5 - 0.1)))
    push = (math.log(1.0) + math.log(1.0 + math.exp(2.0 * (0.25 + 0.1)))) / 2.0
    assert loss.item() == pytest.approx(pull + push, rel=1e-12)
