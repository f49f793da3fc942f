import dataclasses
from typing import Any, get_args

import numpy as np
import pytest
import torch
from loss_cases import random_case

from raymc.config import LossConfig, LossName
from raymc.model.losses import (
    asl,
    bce,
    class_weights,
    compute_loss,
    cosine_bce,
    focal,
    head_of,
    prototype_contrast,
    prototype_margin,
    proxy_anchor,
)

BATCH = random_case(3).batch()
WEIGHTS = random_case(3).class_weights(True)
MARGIN: dict[str, Any] = {"margin": 0.3, "temperature": 0.2, "class_weights": WEIGHTS}
EXPECTED = {
    "prototype_contrast": prototype_contrast(
        *BATCH, two_way=True, clip_weight=0.7, hard_clips=0.4, **MARGIN
    ),
    "prototype_margin": prototype_margin(*BATCH, **MARGIN),
    "proxy_anchor": proxy_anchor(*BATCH, **MARGIN),
    "cosine_bce": cosine_bce(*BATCH, temperature=0.2, class_weights=WEIGHTS),
    "bce": bce(*BATCH, class_weights=WEIGHTS),
    "focal": focal(*BATCH, gamma=1.5, class_weights=WEIGHTS),
    "asl": asl(*BATCH, gamma_negative=3.0, gamma_positive=0.5, clip=0.1, class_weights=WEIGHTS),
    "supcon": bce(*BATCH, class_weights=WEIGHTS),  # of its probe
}


@pytest.mark.parametrize("name", get_args(LossName))
def test_compute_loss_hands_every_constant_on(name: LossName) -> None:
    config = LossConfig(
        name=name,
        margin=0.3,
        temperature=0.2,
        two_way=True,
        clip_weight=0.7,
        hard_clips=0.4,
        gamma=1.5,
        gamma_negative=3.0,
        gamma_positive=0.5,
        clip=0.1,
    )
    assert torch.equal(compute_loss(config, *BATCH, WEIGHTS), EXPECTED[name])


def test_the_two_way_form_with_most_on_the_classes_is_the_default() -> None:
    config = LossConfig(margin=0.3, temperature=0.2)
    default = prototype_contrast(*BATCH, two_way=True, clip_weight=0.2, **MARGIN)
    assert config.name == "prototype_contrast"
    assert torch.equal(compute_loss(config, *BATCH, WEIGHTS), default)


def test_one_way_is_the_contrast_of_clips_alone() -> None:
    config = LossConfig(margin=0.3, temperature=0.2, two_way=False)
    one_way = prototype_contrast(*BATCH, two_way=False, **MARGIN)
    assert torch.equal(compute_loss(config, *BATCH, WEIGHTS), one_way)
    assert prototype_contrast(*BATCH, two_way=True, **MARGIN) > one_way


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("prototype_contrast", "cosine"),
        ("prototype_margin", "cosine"),
        ("proxy_anchor", "cosine"),
        ("cosine_bce", "cosine"),
        ("bce", "linear"),
        ("focal", "linear"),
        ("asl", "linear"),
        ("supcon", "linear"),
    ],
)
def test_head_of(name: LossName, head: str) -> None:
    assert head_of(name) == head


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": "hinge"}, "name"),
        ({"margin": -0.1}, "margin"),
        ({"margin": 2.1}, "margin"),
        ({"margin": float("nan")}, "margin"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 10.1}, "temperature"),
        ({"clip_weight": -0.1}, "clip_weight"),
        ({"hard_clips": 0.0}, "hard_clips"),
        ({"hard_clips": 1.1}, "hard_clips"),
        ({"gamma": -1.0}, "gamma"),
        ({"gamma_negative": -1.0}, "gamma_negative"),
        ({"gamma_positive": 11.0}, "gamma_positive"),
        ({"clip": 1.0}, "clip"),
        ({"balance": 1.1}, "balance"),
        ({"tau": 0.1}, "tau"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=rf"(?m)^{field}$"):
        LossConfig(**values)


@pytest.mark.parametrize("name", [n for n in get_args(LossName) if n != "prototype_margin"])
def test_a_temperature_of_zero_is_the_hinges_alone(name: LossName) -> None:
    with pytest.raises(ValueError, match=f"temperature is 0, .* the loss is {name}; set"):
        LossConfig(name=name, temperature=0.0)


def test_the_hinge_may_have_a_temperature_of_zero() -> None:
    config = LossConfig(name="prototype_margin", temperature=0.0, margin=1.0)
    expected = prototype_margin(*BATCH, margin=1.0, temperature=0.0)
    assert torch.equal(compute_loss(config, *BATCH), expected)


def test_the_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LossConfig().margin = 0.2


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_class_weights_follow_the_formula(balance: float) -> None:
    counts = np.array([400, 10, 0, 100, 1])
    weights = class_weights(counts, balance)
    raw = [(np.median([400, 10, 100, 1]) / n) ** balance for n in (400, 10, 100, 1)]
    expected = np.array(raw) / np.mean(raw)
    assert weights.dtype == torch.float32
    assert weights[[0, 1, 3, 4]].numpy() == pytest.approx(expected, rel=1e-6)
    assert weights[2] == 1.0
    assert weights.mean() == pytest.approx(1.0)


def test_class_weights_take_tensors_and_empty_classes() -> None:
    assert class_weights(torch.tensor([0, 0, 0]), 1.0).tolist() == [1.0, 1.0, 1.0]
    assert class_weights(torch.tensor([1, 3]), 1.0).tolist() == pytest.approx([1.5, 0.5])
