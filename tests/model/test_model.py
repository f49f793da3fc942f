"""The transformer against a slow reference, and what must not change its answers."""

import itertools
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from model_cases import (
    DEPTH,
    LENGTHS,
    MODALITIES,
    Clips,
    assert_same,
    embed,
    every_fusion,
    every_fusion_depth,
    make_clips,
    make_config,
    make_model,
)
from model_reference import embed_clip
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from raymc.config import ModelConfig
from raymc.data.shards import Modality
from raymc.errors import DataError
from raymc.model.layers import PADDED, Layout
from raymc.model.transformer import Embeddings, drop_modalities


def assert_is_the_reference(config: ModelConfig) -> None:
    """Every row of a batch, in the model and in plain NumPy."""
    model, clips = make_model(config), make_clips()
    made = embed(model, clips)
    weights = {name: x.numpy() for name, x in model.state_dict().items()}
    for row in range(len(LENGTHS)):
        fused, by_modality = embed_clip(weights, config, MODALITIES, clips.row(row))
        np.testing.assert_allclose(made.fused[row], fused, rtol=0, atol=1e-5)
        for name, expected in by_modality.items():
            np.testing.assert_allclose(made.by_modality[name][row], expected, rtol=0, atol=1e-5)
    assert made.fused.std() > 0.1


@pytest.mark.parametrize("fusion", ["joint", "bottleneck"])
@pytest.mark.parametrize(  # the number of heads does not depend on which layers fuse
    ("fusion_depth", "heads"), [(0, 3), (1, 1), (1, 3), (1, 4), (DEPTH, 3)]
)
def test_every_row_is_as_the_reference_says(fusion: Any, fusion_depth: int, heads: int) -> None:
    assert_is_the_reference(make_config(fusion=fusion, fusion_depth=fusion_depth, heads=heads))


def test_tokens_may_go_without_a_norm() -> None:
    assert_is_the_reference(make_config(token_norm="none"))


def test_queries_read_beside_the_readout_token() -> None:
    assert_is_the_reference(make_config(readout_queries=3))


@pytest.mark.parametrize("readout_queries", [0, 2])
def test_class_queries_read_for_a_group_alone(readout_queries: int) -> None:
    assert_is_the_reference(make_config(readout_queries=readout_queries, class_queries=3))


@pytest.mark.parametrize(
    ("queries", "chosen"),
    [
        (1, None),
        (2, None),
        (3, None),
        (5, None),
        (9, None),
        (2, (1, 1, 0, 1, 0)),
        (4, (3, 3, 0, 0, 2)),
    ],
)
@pytest.mark.parametrize("head", ["cosine", "linear"])
def test_a_class_is_scored_by_the_embedding_of_its_group(
    queries: int, chosen: tuple[int, ...] | None, head: str
) -> None:
    model, clips = make_model(make_config(class_queries=queries), head=head), make_clips()
    model, groups = model.float(), min(queries, 5)
    if chosen is not None:
        model.share_queries(torch.tensor(chosen))
    group_of = chosen or [k % groups for k in range(5)]
    fused = embed(model, clips).fused
    of_groups = fused.detach().numpy().reshape(len(LENGTHS), groups, 10)
    prototypes, bias = model.prototypes.detach().numpy(), model.bias.detach().numpy()
    for row, k in itertools.product(range(len(LENGTHS)), range(5)):
        own, prototype = of_groups[row, group_of[k]], prototypes[k]
        expected = own @ prototype + bias[k]
        if head == "cosine":
            expected = own @ prototype / np.linalg.norm(own) / np.linalg.norm(prototype)
        assert model.scores(fused)[row, k].item() == pytest.approx(expected, abs=1e-5)


def test_a_group_has_room_for_its_share_of_the_classes() -> None:
    model = make_model(make_config(class_queries=3))
    with pytest.raises(ValueError, match="a group has 3 classes, and room for 2"):
        model.share_queries(torch.tensor([0, 0, 1, 0, 2]))


def test_token_dropout_is_training_s_alone_and_leaves_the_mean() -> None:
    clips = make_clips()
    with_dropout, without = (make_model(make_config(token_dropout=rate)) for rate in (0.5, 0.0))
    assert_same(embed(with_dropout, clips), embed(without, clips))
    drop = with_dropout.get_submodule("embed.text.dropout").train()
    dropped = drop(torch.ones(100, 100))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert dropped.mean() == pytest.approx(1.0, abs=0.05)


@every_fusion
@every_fusion_depth
def test_a_clip_alone_is_the_clip_in_a_batch(fusion: Any, fusion_depth: int) -> None:
    model, clips = make_model(make_config(fusion=fusion, fusion_depth=fusion_depth)), make_clips()
    whole = embed(model, clips)
    for row, counts in enumerate(LENGTHS):
        alone = Clips(
            {n: x[row : row + 1, :c] for (n, x), c in zip(clips.tokens.items(), counts)},
            {n: x[row : row + 1] for n, x in clips.lengths.items()},
        )
        by_modality = {name: x[row : row + 1] for name, x in whole.by_modality.items()}
        present = {name: x[row : row + 1] for name, x in whole.present.items()}
        expected = Embeddings(whole.fused[row : row + 1], by_modality, present)
        assert_same(embed(model, alone), expected)


@every_fusion
@every_fusion_depth
def test_padding_does_not_matter(fusion: Any, fusion_depth: int) -> None:
    model, clips = make_model(make_config(fusion=fusion, fusion_depth=fusion_depth)), make_clips()
    garbage = {}
    for column, (name, tokens) in enumerate(clips.tokens.items()):
        longer = torch.cat([tokens, tokens[:, :2]], dim=1)
        padding = torch.arange(longer.shape[1]) >= clips.lengths[name][:, None]
        longer[padding] = torch.tensor(250 + column, dtype=tokens.dtype)
        longer[..., 0][padding] = 7
        garbage[name] = longer
    assert_same(embed(model, replace(clips, tokens=garbage)), embed(model, clips))


def test_stored_integers_are_what_they_stand_for() -> None:
    # so small that what the layer norm adds to the variance shows
    stored = Modality("text", 3, "uint8", rate_hz=2.5, scale=5e-5, offset=-0.25)
    real = replace(stored, dtype="float32", scale=1.0, offset=0.0)
    clips = make_clips([(4,), (2,), (0,)], [stored])
    values = clips.tokens["text"].double() * 5e-5 - 0.25
    model, of_real = (make_model(make_config(), [modality]) for modality in (stored, real))
    seen = []
    norm = model.get_submodule("embed.text.norm")
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    expected = embed(of_real, replace(clips, tokens={"text": values}))
    assert_same(embed(model, clips), expected)
    tokens = (values - model.get_buffer("embed.text.mean"))[[0, 0, 0, 0, 1, 1], [0, 1, 2, 3, 0, 1]]
    torch.testing.assert_close(seen, [tokens])
    assert (embed(of_real, clips).fused - expected.fused).abs().max() > 1e-2


@every_fusion
@every_fusion_depth
def test_clips_without_anything_have_finite_answers_and_gradients(
    fusion: Any, fusion_depth: int
) -> None:
    config = make_config(fusion=fusion, fusion_depth=fusion_depth)
    model, clips = make_model(config).float().train(), make_clips([(0, 0, 0), (0, 0, 0)])
    empty = replace(clips, tokens={name: x[:, :0] for name, x in clips.tokens.items()})
    for batch in (clips, empty):
        model.zero_grad()
        scores = model.scores(model(batch.tokens, batch.lengths).fused)
        scores.sum().backward()
        assert torch.isfinite(scores).all()
        gradients = [x.grad for x in model.parameters() if x.grad is not None]
        assert gradients
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_dropped_modalities_are_a_share_of_those_that_can_be_spared() -> None:
    torch.manual_seed(0)
    patterns, repeats, share = [(4, 9, 2), (0, 3, 5), (6, 0, 0), (0, 0, 0)], 3000, 0.3
    lengths = torch.tensor(patterns).repeat_interleave(repeats, dim=0)
    kept = drop_modalities(lengths, share)
    lost = kept != lengths
    assert (kept[lost] == 0).all()
    assert lost.sum(dim=1).max() == 1
    assert (kept.sum(dim=1) > 0).equal(lengths.sum(dim=1) > 0)
    by_pattern = lost.view(len(patterns), repeats, 3).sum(dim=1)
    expected = torch.tensor([[share / 3] * 3, [0.0, share / 2, share / 2], [0.0] * 3, [0.0] * 3])
    five_sigma = 5 * (repeats * expected * (1 - expected)).sqrt()
    assert ((by_pattern - repeats * expected).abs() <= five_sigma).all()


def test_modality_dropout_is_for_training_only() -> None:
    config = make_config(fusion_depth=0, dropout=0.0, modality_dropout=0.4)
    model = make_model(config, MODALITIES[:2])
    clips = make_clips([(3, 5)] * 400, MODALITIES[:2])
    expected = embed(model, clips)
    visual, audio = expected.by_modality.values()
    torch.testing.assert_close(expected.fused, (visual + audio) / 2)
    assert torch.equal(embed(model, clips).fused, expected.fused)
    torch.manual_seed(0)
    fused = embed(model.train(), clips).fused
    kept = [torch.isclose(fused, x).all(dim=1) for x in (expected.fused, visual, audio)]
    assert torch.stack(kept).sum(dim=0).eq(1).all()
    shares = torch.stack(kept).double().mean(dim=1)
    torch.testing.assert_close(
        shares, torch.tensor([0.6, 0.2, 0.2]).double(), rtol=0, atol=5 * (0.24 / 400) ** 0.5
    )


def test_without_dropout_training_is_evaluation() -> None:
    model, clips = make_model(make_config(dropout=0.0, modality_dropout=0.0)), make_clips()
    expected = embed(model, clips)
    assert_same(embed(model.train(), clips), expected, within=0)


@every_fusion
@every_fusion_depth
def test_clips_of_one_length_need_no_mask(
    fusion: Any, fusion_depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"dropout": 0.0, "modality_dropout": 0.5}
    config = make_config(fusion=fusion, fusion_depth=fusion_depth, **rates)
    model, clips = make_model(config), make_clips([(4, 6, 3)] * 8)
    masked: list[bool] = []
    attention = functional.scaled_dot_product_attention

    def watched(*arguments: Tensor, attn_mask: Tensor | None) -> Tensor:
        masked.append(attn_mask is not None)
        return attention(*arguments, attn_mask=attn_mask)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", watched)
    for is_training in (False, True):
        model.train(is_training)
        torch.manual_seed(0)
        expected = model(clips.tokens, clips.lengths).fused
        assert all(masked)
        masked.clear()
        torch.manual_seed(0)
        made = model(clips.tokens, clips.lengths, padded=False).fused
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-12)
        # modalities that a row loses in training are still hidden from the others
        jointly = fusion_depth if is_training and fusion == "joint" else 0
        assert sum(masked) == jointly
        masked.clear()


@every_fusion
@every_fusion_depth
def test_padding_costs_attention_alone(fusion: Any, fusion_depth: int) -> None:
    config = make_config(fusion=fusion, fusion_depth=fusion_depth, class_queries=3)
    model, clips = make_model(config), make_clips()
    computed: dict[str, int] = {}  # tokens that each projection has seen
    for name, module in model.named_modules():
        if name.endswith((".project", ".qkv", ".mlp.0")) and "readouts" not in name:
            module.register_forward_hook(
                lambda _, given, __, name=name: computed.update({name: given[0][..., 0].numel()})
            )

    def outcome() -> list[Tensor]:
        model.zero_grad()
        fused = model(clips.tokens, clips.lengths).fused
        fused.square().sum().backward()
        return [fused, *(p.grad for p in model.parameters() if p.grad is not None)]

    packed, seen = outcome(), computed.copy()
    with patch.object(Layout, "packed", lambda lengths, size: PADDED):
        for found, expected in zip(packed, outcome(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    for modality in MODALITIES:
        real = int(clips.lengths[modality.name].sum())
        size = clips.tokens[modality.name][..., 0].numel()
        rows = len(LENGTHS)
        for name, tokens in computed.items():
            if modality.name not in name.split("."):
                continue
            if name.startswith("embed"):
                assert (seen[name], tokens) == (real, size)
            elif tokens == size + rows:
                assert seen[name] == real + rows
            else:  # the bottleneck is appended to each clip
                assert (fusion, seen[name]) == ("bottleneck", tokens)
    assert len(computed) == len(MODALITIES) * (1 + 2 * config.depth)


def test_bfloat16_is_not_promoted_on_the_way_to_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[torch.dtype] = set()
    attention = functional.scaled_dot_product_attention

    def watched(*arguments: Tensor, attn_mask: Tensor) -> Tensor:
        seen.update(x.dtype for x in (*arguments, attn_mask))
        return attention(*arguments, attn_mask=attn_mask)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", watched)
    for fusion in ("joint", "bottleneck"):
        model, clips = make_model(make_config(fusion=fusion, fusion_depth=1)).float(), make_clips()
        with torch.autocast("cpu", torch.bfloat16):
            model(clips.tokens, clips.lengths)
    assert seen == {torch.bfloat16}


def test_dropout_is_for_training_only() -> None:
    model, clips = make_model(make_config(dropout=0.5, modality_dropout=0.0)), make_clips()
    assert torch.equal(embed(model, clips).fused, embed(model, clips).fused)
    model.train()
    assert not torch.equal(embed(model, clips).fused, embed(model, clips).fused)


def test_scores_are_cosines() -> None:
    model = make_model(make_config()).float()
    embedding = 10 * torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    embedding[:5] = model.prototypes.detach() * 3
    embedding[5:10] = -embedding[:5]
    scores = model.scores(embedding).detach()
    x, c = embedding.double().numpy(), model.prototypes.detach().double().numpy()
    expected = [[a @ b / np.sqrt((a @ a) * (b @ b)) for b in c] for a in x]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)
    assert scores.abs().max() <= 1 + 1e-6
    np.testing.assert_allclose(scores[:5].diag(), 1, atol=1e-6)
    np.testing.assert_allclose(scores[5:10].diag(), -1, atol=1e-6)
    assert (model.scores(torch.zeros(1, 10)) == 0).all()


def test_a_linear_head_gives_logits() -> None:
    model = make_model(make_config(), head="linear").float()
    embedding = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    weights = {name: x.detach().double().numpy() for name, x in model.named_parameters()}
    expected = embedding.double().numpy() @ weights["prototypes"].T + weights["bias"]
    np.testing.assert_allclose(model.scores(embedding).detach(), expected, atol=1e-5)


@every_fusion
@every_fusion_depth
def test_bfloat16_comes_close(fusion: Any, fusion_depth: int) -> None:
    config = make_config(fusion=fusion, fusion_depth=fusion_depth)
    model, clips = make_model(config).float(), make_clips()
    expected = embed(model, clips).fused
    with torch.autocast("cpu", torch.bfloat16):
        fused = model(clips.tokens, clips.lengths).fused
        scores = model.scores(fused)
    scores.sum().backward()
    assert fused.dtype == scores.dtype == torch.float32
    apart = torch.linalg.vector_norm(fused.detach() - expected) / torch.linalg.vector_norm(expected)
    assert 0 < apart < 0.03
    gradients = [x.grad for x in model.parameters() if x.requires_grad]
    assert all(x is not None and torch.isfinite(x).all() for x in gradients)


@pytest.mark.parametrize("head", ["cosine", "linear"])
def test_autocast_rounds_no_score(head: str) -> None:
    model = make_model(make_config(), head=head).float()
    embedding = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        scores = model.scores(embedding)
    assert torch.equal(scores, model.scores(embedding))


@pytest.mark.parametrize("name", ["video.rgb", "keys", "training", "forward"])
def test_modalities_that_torch_has_no_name_for(name: str) -> None:
    with pytest.raises(
        DataError, match=f"modality '{name}': .* rename the column .*no dots.* data.modalities"
    ):
        make_model(make_config(), [Modality(name, 3)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 2, "fusion_depth": 3}, "fusion_depth 3 is above depth 2"),
        ({"width": 20, "heads": 4}, r"width 20 is not a multiple of 2 × heads \(4\)"),
        ({"width": 12, "heads": 4}, r"width 12 is not a multiple of 2 × heads \(4\)"),
        ({"width": 4, "heads": 1}, "width\n.*greater than or equal to 8"),
        ({"depth": 0, "fusion_depth": 0}, "depth\n.*greater than or equal to 1"),
        ({"fusion_depth": -1}, "fusion_depth\n.*greater than or equal to 0"),
        ({"fusion": "late"}, "fusion\n.*'joint' or 'bottleneck'"),
        ({"bottleneck_tokens": 0}, "bottleneck_tokens\n.*greater than or equal to 1"),
        ({"heads": 0}, "heads\n.*greater than or equal to 1"),
        ({"mlp_ratio": 0}, "mlp_ratio\n.*greater than 0"),
        ({"mlp_ratio": float("inf")}, "mlp_ratio\n.*less than or equal to 32"),
        ({"embedding_dim": 1}, "embedding_dim\n.*greater than or equal to 2"),
        ({"dropout": 1}, "dropout\n.*less than 1"),
        ({"modality_dropout": -0.1}, "modality_dropout\n.*greater than or equal to 0"),
        ({"modality_dropout": 1.0}, "modality_dropout\n.*less than 1"),
        ({"layers": 3}, "layers\n.*Unexpected keyword argument"),
    ],
)
def test_shapes_that_can_not_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig(**settings)
