"""Supervised contrast against a slow loop over pairs, and what keeps its probe apart."""

import math
from importlib import import_module

import numpy as np
import pytest
import torch
from loss_cases import SEEDS, Case, random_case
from torch import Tensor

from raymc.model.losses import supcon


def embeddings(case: Case, seed: int) -> Tensor:
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.normal(size=(len(case.labels), 4))).requires_grad_()


def share(case: Case, i: int, j: int) -> bool | None:
    """Whether two clips share a label; None where what isn't known decides."""
    may_share = False
    for k in range(case.labels.shape[1]):
        one, other = (
            bool(case.labels[row, k]) if case.observed[row, k] else None for row in (i, j)
        )
        if one and other:
            return True
        may_share = may_share or (one is not False and other is not False)
    return None if may_share else False


def slow_supcon(z: np.ndarray, case: Case, temperature: float) -> float:
    unit = [row / math.sqrt(sum(x * x for x in row)) for row in z]
    terms = []
    for i in range(len(z)):
        known = {j: share(case, i, j) for j in range(len(z)) if j != i}
        powers = {
            j: math.exp(float(unit[i] @ unit[j]) / temperature)
            for j, shared in known.items()
            if shared is not None
        }
        positives = [j for j, shared in known.items() if shared]
        if positives:
            logs = [-math.log(powers[j] / sum(powers.values())) for j in positives]
            terms.append(sum(logs) / len(logs))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_equals_the_slow_loop(seed: int, temperature: float) -> None:
    case = random_case(seed, rows=12)
    z = embeddings(case, seed)
    _, labels, observed = case.batch()
    loss = supcon(z, labels, observed, temperature=temperature)
    expected = slow_supcon(z.detach().numpy(), case, temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-8)
    assert torch.autograd.gradcheck(
        lambda leaf: supcon(leaf, labels, observed, temperature=temperature), (z,)
    )


@pytest.mark.parametrize(
    ("labels", "observed"),
    [
        (torch.zeros(4, 3), torch.ones(4, 3)),  # no label
        (torch.ones(4, 3), torch.zeros(4, 3)),  # nothing known
        (torch.eye(3), torch.ones(3, 3)),  # no label shared
        (torch.ones(1, 3), torch.ones(1, 3)),  # one clip
        (torch.zeros(0, 3), torch.zeros(0, 3)),  # none
    ],
)
def test_without_clips_that_share_a_label_it_is_zero(labels: Tensor, observed: Tensor) -> None:
    z = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = supcon(z, labels.bool(), observed.bool(), temperature=0.1)
    loss.backward()
    assert loss == 0.0
    assert z.grad is not None
    assert not z.grad.any()


def test_unobserved_labels_enter_nothing() -> None:
    case = random_case(5, rows=12)
    z, (_, labels, observed) = embeddings(case, 5), case.batch()
    loss = supcon(z, labels, observed, temperature=0.2)
    assert torch.equal(supcon(z, labels ^ ~observed, observed, temperature=0.2), loss)


def test_classes_may_come_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(3, rows=12, classes=7)
    z, (_, labels, observed) = embeddings(case, 3), case.batch()
    loss = supcon(z, labels, observed, temperature=0.2)
    module = import_module(
        "raymc.model.losses.supcon"
    )  # the package's name for it is the function's
    monkeypatch.setattr(module, "CLASSES_AT_ONCE", 2)
    assert torch.equal(supcon(z, labels, observed, temperature=0.2), loss)


def test_half_precision_and_autocast_round_nothing() -> None:
    case = random_case(2, rows=32)
    z, (_, labels, observed) = embeddings(case, 2).detach(), case.batch()
    exact = supcon(z.bfloat16().double(), labels, observed, temperature=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = supcon(z.bfloat16(), labels, observed, temperature=0.1)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
