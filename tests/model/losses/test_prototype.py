import math
from typing import Any

import numpy as np
import pytest
import torch
from loss_cases import Case, every_weighting, random_case

from raymc.model.losses import prototype_contrast, prototype_margin
from raymc.model.losses.prototype import ABSENT_WEIGHT


def contrast_term(
    scores: np.ndarray,
    positives: list[int],
    negatives: list[int],
    weights: np.ndarray,
    margin: float,
    temperature: float,
) -> float:
    rivals = math.fsum(math.exp(scores[j] / temperature) for j in negatives)
    if not positives:
        virtual = math.exp((0.0 - margin) / temperature)
        return -math.log(virtual / (virtual + rivals))
    total = 0.0
    for p in positives:
        own = math.exp((scores[p] - margin) / temperature)
        total += weights[p] * -math.log(own / (own + rivals))
    return total / math.fsum(weights[p] for p in positives)


def slow_contrast(
    case: Case,
    margin: float,
    temperature: float,
    weights: np.ndarray,
    *,
    two_way: bool = True,
    clip_weight: float,
    hard_clips: float = 1.0,
) -> float:
    rows, classes = case.scores.shape
    row_terms = []
    # of classes without a clip, and of those with one
    class_terms, class_factors = ([], []), ([], [])
    for i in range(rows):
        positives = [k for k in range(classes) if case.observed[i, k] and case.labels[i, k]]
        negatives = [k for k in range(classes) if case.observed[i, k] and not case.labels[i, k]]
        if positives or negatives:
            row_terms.append(
                contrast_term(case.scores[i], positives, negatives, weights, margin, temperature)
            )
    for k in range(classes):
        positives = [i for i in range(rows) if case.observed[i, k] and case.labels[i, k]]
        negatives = [i for i in range(rows) if case.observed[i, k] and not case.labels[i, k]]
        if positives or negatives:
            column = case.scores[:, k]
            hardest = sorted(negatives, key=lambda i: -column[i])
            negatives = hardest[: max(1, round(hard_clips * case.observed.any(axis=1).sum()))]
            ones = np.ones(rows)
            class_terms[bool(positives)].append(
                contrast_term(column, positives, negatives, ones, margin, temperature)
            )
            class_factors[bool(positives)].append(weights[k])
    loss = sum(row_terms) / len(row_terms)
    if two_way:
        loss *= clip_weight
        loss += float(np.average(class_terms[True], weights=class_factors[True]))
        pushes = math.fsum(w * c for w, c in zip(class_factors[False], class_terms[False]))
        loss += ABSENT_WEIGHT * pushes / math.fsum(class_factors[True] + class_factors[False])
    return loss


def slow_margin(case: Case, margin: float, temperature: float, weights: np.ndarray) -> float:
    terms = []
    for scores, labels, observed in zip(case.scores, case.labels, case.observed, strict=True):
        if not observed.any():
            continue
        term, pulled, total = 0.0, 0.0, 0.0
        for k, score in enumerate(scores):
            distance = 1.0 - score
            if observed[k] and labels[k]:
                pulled += weights[k] * distance
                total += weights[k]
            elif observed[k] and temperature == 0.0:
                term += max(0.0, margin - distance)
            elif observed[k]:
                term += temperature * math.log1p(math.exp((margin - distance) / temperature))
        terms.append(term + (pulled / total if total else 0.0))
    return sum(terms) / len(terms)


@every_weighting
@pytest.mark.parametrize(
    "ways",
    [
        {"two_way": False, "clip_weight": 0.2},
        {"clip_weight": 1.0},
        {"clip_weight": 0.2},
        {"clip_weight": 0.0},
        {"clip_weight": 0.2, "hard_clips": 0.5},
        {"clip_weight": 0.2, "hard_clips": 0.01},
    ],
)
@pytest.mark.parametrize(("margin", "temperature"), [(0.0, 1.0), (0.1, 0.1), (0.7, 0.03)])
def test_contrast_equals_the_slow_loop(
    seed: int, margin: float, temperature: float, ways: dict[str, Any], weighted: bool
) -> None:
    case = random_case(seed)
    loss = prototype_contrast(
        *case.batch(),
        margin=margin,
        temperature=temperature,
        class_weights=case.class_weights(weighted),
        **ways,
    )
    expected = slow_contrast(case, margin, temperature, case.factors(weighted), **ways)
    assert loss.item() == pytest.approx(expected, rel=1e-8)


def test_classes_without_a_clip_take_nothing_from_those_with_one() -> None:
    scores, labels, _ = random_case(0).batch()
    observed = torch.ones_like(labels)
    labels[0] = True  # so that no class is without a clip
    settings = {"margin": 0.1, "temperature": 0.1, "clip_weight": 0.0}

    def loss_beside(absent: int) -> tuple[float, torch.Tensor]:
        """The loss with more classes, none of them in a clip, and the gradients of all scores."""
        zeros = torch.zeros(len(scores), absent)
        wider = torch.cat([scores, zeros.double()], 1).requires_grad_()
        marked = torch.cat([labels, zeros.bool()], 1)
        known = torch.cat([observed, ~zeros.bool()], 1)
        loss = prototype_contrast(wider, marked, known, **settings)
        return loss.item(), torch.autograd.grad(loss, wider)[0]

    (alone, own), *others = (loss_beside(absent) for absent in (0, 20, 200))
    pushed = ABSENT_WEIGHT * math.log1p(len(scores) * math.exp(settings["margin"] / 0.1))
    for absent, (loss, gradients) in zip((20, 200), others):
        assert loss == pytest.approx(alone + pushed * absent / (absent + own.shape[1]))
        torch.testing.assert_close(gradients[:, : own.shape[1]], own)
        assert (gradients[:, own.shape[1] :] > 0).all()


@pytest.mark.parametrize("share", [0.28, 0.5])
def test_rows_that_pad_a_batch_change_no_negatives(share: float) -> None:
    generator = np.random.default_rng(0)
    scores, labels = generator.uniform(-1, 1, (23, 4)), generator.random((23, 4)) < 0.3
    settings = {"margin": 0.1, "temperature": 0.1, "hard_clips": share}
    losses = []
    for pad in (0, 1, 9):
        padded = (np.pad(x, [(0, pad), (0, 0)]) for x in (scores, labels, np.ones_like(labels)))
        losses.append(prototype_contrast(*map(torch.from_numpy, padded), **settings))
    torch.testing.assert_close(losses[1:], losses[:1] * 2)


@every_weighting
@pytest.mark.parametrize(("margin", "temperature"), [(0.0, 1.0), (0.6, 0.1), (1.3, 0.0)])
def test_margin_equals_the_slow_loop(
    seed: int, margin: float, temperature: float, weighted: bool
) -> None:
    case = random_case(seed)
    loss = prototype_margin(
        *case.batch(),
        margin=margin,
        temperature=temperature,
        class_weights=case.class_weights(weighted),
    )
    expected = slow_margin(case, margin, temperature, case.factors(weighted))
    assert loss.item() == pytest.approx(expected, rel=1e-8)


def test_margin_becomes_the_hinge_as_the_temperature_falls() -> None:
    batch = random_case(0).batch()
    hinge = prototype_margin(*batch, margin=0.9, temperature=0.0).item()
    gaps = [
        prototype_margin(*batch, margin=0.9, temperature=temperature).item() - hinge
        for temperature in (0.1, 0.01, 0.001, 1e-6)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert 0.0 <= gaps[-1] < 1e-5


def test_hinge_leaves_alone_what_is_outside_the_margin() -> None:
    scores = torch.tensor([[0.2, -0.5, 0.4]], requires_grad=True)
    labels = torch.tensor([[True, False, False]])
    loss = prototype_margin(scores, labels, torch.ones_like(labels), margin=0.7, temperature=0.0)
    loss.backward()
    assert loss.item() == pytest.approx((1.0 - 0.2) + (0.7 - (1.0 - 0.4)))
    assert scores.grad is not None
    assert scores.grad.tolist() == [[-1.0, 0.0, 1.0]]


def test_other_labels_of_a_clip_do_not_compete() -> None:
    labels = torch.tensor([[True, True, False]])
    observed = torch.ones_like(labels)
    scores = torch.tensor([[0.3, 0.9, -0.2]], requires_grad=True)
    only_first = observed & torch.tensor([[True, False, True]])
    only_second = observed & torch.tensor([[False, True, True]])

    def loss_of(known: torch.Tensor) -> float:
        return prototype_contrast(
            scores, labels, known, margin=0.1, temperature=0.2, two_way=False
        ).item()

    assert loss_of(observed) == pytest.approx((loss_of(only_first) + loss_of(only_second)) / 2)


def test_a_clip_with_every_class_as_label_costs_nothing_one_way() -> None:
    scores = torch.full((1, 4), -1.0, requires_grad=True)
    known = torch.ones(1, 4, dtype=torch.bool)
    loss = prototype_contrast(scores, known, known, margin=0.5, temperature=0.01, two_way=False)
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad is not None
    assert not scores.grad.any()
