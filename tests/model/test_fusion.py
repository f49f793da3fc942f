"""Who sees whom at each fusion depth, and that nothing else changes with it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from model_cases import (
    DEPTH,
    LENGTHS,
    MODALITIES,
    embed,
    every_fusion,
    every_fusion_depth,
    make_clips,
    make_config,
    make_model,
)
from torch import Tensor

from raymc.model.layers import Block, time_rotation
from raymc.model.transformer import MultimodalTransformer


def parameters_of(**settings: Any) -> dict[str, Tensor]:
    torch.manual_seed(3)
    model = MultimodalTransformer(make_config(**settings), MODALITIES, classes=5)
    return {name: weight.detach() for name, weight in model.named_parameters()}


@every_fusion
@pytest.mark.parametrize("fusion_depth", range(DEPTH + 1))
def test_fusion_changes_neither_the_parameters_nor_how_they_start(
    fusion: Any, fusion_depth: int
) -> None:
    expected = parameters_of(fusion="joint", fusion_depth=0)
    made = parameters_of(fusion=fusion, fusion_depth=fusion_depth)
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], weight) for name, weight in expected.items())


def test_the_number_of_parameters() -> None:
    width, hidden, out = 24, 48, 10
    block = 2 * 2 * width + (width + 1) * (3 * width + width + hidden) + (hidden + 1) * width
    tokens = sum(2 * m.dim + (m.dim + 1) * width + 2 * width + 1 for m in MODALITIES)
    readouts = len(MODALITIES) * (2 * width + (width + 1) * out)
    shared = 2 * width + 5 * out + 5
    expected = (DEPTH + 1) * len(MODALITIES) * block + tokens + readouts + shared
    assert sum(weight.numel() for weight in parameters_of().values()) == expected


@every_fusion
def test_late_fusion_is_the_mean_of_modalities_that_know_nothing_of_each_other(
    fusion: Any,
) -> None:
    model, clips = make_model(make_config(fusion=fusion, fusion_depth=0)), make_clips()
    whole = embed(model, clips)
    for row, counts in enumerate(LENGTHS):
        present = [m.name for m, count in zip(MODALITIES, counts) if count]
        # a clip that has one modality only is that modality
        alone = [embed(model, clips.only(name)).fused[row] for name in present]
        if present:
            torch.testing.assert_close(whole.fused[row], torch.stack(alone).mean(dim=0))
    for name in clips.tokens:
        assert torch.equal(
            embed(model, clips.only(name)).by_modality[name], whole.by_modality[name]
        )


@pytest.mark.parametrize(
    ("fusion", "fusion_depth", "sees"),
    [
        ("joint", 0, False),
        ("joint", 1, True),
        ("joint", DEPTH, True),
        ("bottleneck", 0, False),
        ("bottleneck", 1, False),  # what the bottleneck learns is first seen a layer later
        ("bottleneck", 2, True),
        ("bottleneck", DEPTH, True),
    ],
)
def test_whether_the_audio_changes_what_is_seen(fusion: Any, fusion_depth: int, sees: bool) -> None:
    model = make_model(make_config(fusion=fusion, fusion_depth=fusion_depth))
    clips, others = make_clips(), make_clips(seed=1)
    audio = replace(clips, tokens={**clips.tokens, "audio": others.tokens["audio"]})
    before, after = embed(model, clips).by_modality, embed(model, audio).by_modality
    has_audio = clips.lengths["audio"] > 0
    changed = (before["visual"] - after["visual"]).abs().amax(dim=1)
    assert bool((changed[has_audio] > 1e-6).all()) == sees
    assert bool((changed[has_audio] == 0).all()) != sees
    assert (changed[~has_audio] == 0).all()
    assert (before["audio"] != after["audio"])[has_audio].any(dim=1).all()


def test_the_readout_token_of_an_absent_modality_is_not_seen() -> None:
    clips = make_clips(((7, 9, 3), (5, 0, 2), (0, 4, 4)))
    model = make_model(make_config(fusion_depth=DEPTH))
    before = embed(model, clips).fused
    with torch.no_grad():
        model.get_parameter("embed.audio.readout").add_(3.0)
    after = embed(model, clips).fused
    assert [torch.equal(x, y) for x, y in zip(before, after)] == [False, True, False]
    as_in_0_1_0 = make_model(make_config(fusion_depth=DEPTH, absent="seen"))
    assert not torch.allclose(embed(as_in_0_1_0, clips).fused[1], before[1], atol=1e-3)


@every_fusion
@every_fusion_depth
@pytest.mark.parametrize("head", ["cosine", "linear"])
def test_gradients_reach_all_that_is_trained(fusion: Any, fusion_depth: int, head: Any) -> None:
    config = make_config(fusion=fusion, fusion_depth=fusion_depth)
    torch.manual_seed(0)
    model, clips = MultimodalTransformer(config, MODALITIES, classes=5, head=head), make_clips()
    (model.scores(model(clips.tokens, clips.lengths).fused) * torch.randn(6, 5)).sum().backward()
    frozen = {name for name, x in model.named_parameters() if not x.requires_grad}
    expected = {
        "bottleneck": fusion == "joint" or fusion_depth == 0,
        "bias": head == "cosine",
    }
    assert frozen == {name for name, unused in expected.items() if unused}
    for name, weight in model.named_parameters():
        if name not in frozen:
            assert weight.grad is not None, name
            assert torch.isfinite(weight.grad).all(), name
            assert weight.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("settings", "unused"),
    [
        ({"fusion": "joint", "fusion_depth": 2}, "bottleneck"),
        ({"fusion": "bottleneck", "fusion_depth": 0}, "bottleneck"),
        ({}, "bias"),
    ],
)
def test_what_is_frozen_changes_nothing(settings: dict[str, Any], unused: str) -> None:
    model, clips = make_model(make_config(**settings)), make_clips()
    before = model.scores(embed(model, clips).fused)
    with torch.no_grad():
        model.get_parameter(unused).add_(3.0)
    assert torch.equal(model.scores(embed(model, clips).fused), before)


def test_heads_that_see_time_start_with_their_own_moment() -> None:
    torch.manual_seed(0)
    heads, size, seconds = 4, 24, 6
    like = torch.empty(0)
    # the middle one of three sounds a second is at the time of the picture
    rates = {"visual": 1.0, "audio": 3.0}
    projected = {}
    for name, rate in rates.items():
        length = int(seconds * rate)
        turns = time_rotation(length, rate, (0.2, 200.0), heads=heads, size=size, like=like)
        block = Block(heads * size, heads=heads, hidden=8, dropout=0.0)
        projected[name] = block.project(torch.randn(200, length + 1, heads * size), turns)
    queries, keys = projected["visual"][0][:, :, 1:], projected["audio"][1][:, :, 1:]
    weights = (queries @ keys.mT / size**0.5).softmax(dim=-1).mean(dim=0)
    same_time = 3 * torch.arange(seconds) + 1
    assert (weights[:2].argmax(dim=-1) == same_time).all()
    assert weights[:2, torch.arange(seconds), same_time].min() > 3 / (3 * seconds)
    torch.testing.assert_close(
        weights[2:], torch.full_like(weights[2:], 1 / (3 * seconds)), rtol=0.2, atol=0
    )
