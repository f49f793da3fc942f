"""The transformer against a slow reference, and what must not change its answers.

Axes: B batch, T tokens, E embedding dim, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from model_reference import embed_clip
from pydantic import ValidationError
from torch import Tensor

from raymc.errors import DataError
from raymc.model import Embeddings, ModelConfig, MultimodalTransformer, drop_modalities
from raymc.shards import Modality

MODALITIES = (
    Modality("visual", 6, "float16", rate_hz=4.0),
    Modality("audio", 4, "float32", rate_hz=8.0),
    Modality("text", 3, "uint8", rate_hz=2.5, scale=0.02, offset=-2.0),
)
# tokens of visual, audio and text: ragged, one or two missing, all missing
LENGTHS = ((7, 9, 3), (0, 4, 4), (1, 0, 0), (5, 2, 0), (0, 0, 0), (3, 1, 1))
DEPTH = 3

every_fusion = pytest.mark.parametrize("fusion", ["joint", "bottleneck"])
every_fusion_depth = pytest.mark.parametrize("fusion_depth", [0, 1, DEPTH])
TORCH_DTYPES = {"float16": torch.float16, "float32": torch.float32, "uint8": torch.uint8}


@dataclass(frozen=True)
class Clips:
    """A padded batch of clips."""

    tokens: dict[str, Tensor]
    lengths: dict[str, Tensor]

    def row(self, index: int) -> dict[str, np.ndarray]:
        """The real tokens of one clip."""
        return {
            name: tokens[index, : int(self.lengths[name][index])].numpy()
            for name, tokens in self.tokens.items()
        }

    def only(self, *names: str) -> "Clips":
        """The clips without any but some modalities."""
        lengths = {n: x if n in names else torch.zeros_like(x) for n, x in self.lengths.items()}
        return replace(self, lengths=lengths)


def values_of(modality: Modality, count: int, generator: np.random.Generator) -> Tensor:
    shape = (count, modality.dim)
    if modality.dtype == "uint8":
        return torch.from_numpy(generator.integers(0, 256, shape, dtype=np.uint8))
    return torch.from_numpy(generator.normal(size=shape).astype(modality.dtype))


def make_clips(
    lengths: Sequence[Sequence[int]] = LENGTHS,
    modalities: Sequence[Modality] = MODALITIES,
    *,
    seed: int = 0,
) -> Clips:
    """Random clips, padded with zeros to the longest."""
    generator = np.random.default_rng(seed)
    tokens = {}
    for column, modality in enumerate(modalities):
        longest = max(1, *(row[column] for row in lengths))
        padded = torch.zeros((len(lengths), longest, modality.dim))
        tokens[modality.name] = padded.to(TORCH_DTYPES[modality.dtype])
        for row, counts in enumerate(lengths):
            real = values_of(modality, counts[column], generator)
            tokens[modality.name][row, : counts[column]] = real
    return Clips(
        tokens=tokens,
        lengths={
            m.name: torch.tensor([row[c] for row in lengths]) for c, m in enumerate(modalities)
        },
    )


def make_config(**settings: Any) -> ModelConfig:
    small = {"width": 24, "depth": DEPTH, "heads": 3, "embedding_dim": 10, "bottleneck_tokens": 2}
    return ModelConfig(**{**small, **settings})


def make_model(
    config: ModelConfig, modalities: Sequence[Modality] = MODALITIES, **settings: Any
) -> MultimodalTransformer:
    """A model in which no weight is at the value it starts with, for evaluation in float64."""
    torch.manual_seed(0)
    model = MultimodalTransformer(config, modalities, **{"classes": 5, **settings})
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return model.eval().double()


def embed(model: MultimodalTransformer, clips: Clips) -> Embeddings:
    with torch.no_grad():
        return model(clips.tokens, clips.lengths)


def assert_same(made: Embeddings, expected: Embeddings, *, within: float = 1e-10) -> None:
    torch.testing.assert_close(made.fused, expected.fused, rtol=0, atol=within)
    torch.testing.assert_close(made.by_modality, expected.by_modality, rtol=0, atol=within)


@every_fusion
@every_fusion_depth
@pytest.mark.parametrize("heads", [1, 3, 4])
def test_every_row_is_as_the_reference_says(fusion: Any, fusion_depth: int, heads: int) -> None:
    config = make_config(fusion=fusion, fusion_depth=fusion_depth, heads=heads)
    model, clips = make_model(config), make_clips()
    made = embed(model, clips)
    weights = {name: x.detach().numpy() for name, x in model.named_parameters()}
    for row in range(len(LENGTHS)):
        fused, by_modality = embed_clip(weights, config, MODALITIES, clips.row(row))
        np.testing.assert_allclose(made.fused[row], fused, rtol=0, atol=1e-5)
        for name, expected in by_modality.items():
            np.testing.assert_allclose(made.by_modality[name][row], expected, rtol=0, atol=1e-5)
    assert made.fused.std() > 0.1


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
        assert_same(embed(model, alone), Embeddings(whole.fused[row : row + 1], by_modality))


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


def parameters_of(**settings: Any) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return MultimodalTransformer(make_config(**settings), MODALITIES, classes=5).state_dict()


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
    expected = DEPTH * len(MODALITIES) * block + tokens + readouts + shared
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


def test_stored_integers_are_what_they_stand_for() -> None:
    stored = Modality("text", 3, "uint8", rate_hz=2.5, scale=0.02, offset=-2.0)
    real = replace(stored, dtype="float32", scale=1.0, offset=0.0)
    clips = make_clips([(4,), (2,), (0,)], [stored])
    values = clips.tokens["text"].double().mul(0.02).sub(2.0)
    config = make_config()
    expected = embed(make_model(config, [real]), replace(clips, tokens={"text": values}))
    assert_same(embed(make_model(config, [stored]), clips), expected)
    plain = embed(make_model(config, [real]), clips)
    assert (plain.fused - expected.fused).abs().max() > 1e-3


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
@pytest.mark.parametrize("head", ["cosine", "linear"])
def test_gradients_reach_all_that_is_trained(fusion: Any, fusion_depth: int, head: str) -> None:
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
def test_what_is_frozen_changes_nothing(settings: Mapping[str, Any], unused: str) -> None:
    model, clips = make_model(make_config(**settings)), make_clips()
    before = model.scores(embed(model, clips).fused)
    with torch.no_grad():
        model.get_parameter(unused).add_(3.0)
    assert torch.equal(model.scores(embed(model, clips).fused), before)


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
    with pytest.raises(DataError, match=f"modality '{name}': .* without dots .* data.modalities"):
        make_model(make_config(), [Modality(name, 3)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 2, "fusion_depth": 3}, "fusion_depth 3 is above depth 2"),
        ({"width": 20, "heads": 4}, r"width 20 is no multiple of 2 × heads \(4\)"),
        ({"width": 12, "heads": 4}, r"width 12 is no multiple of 2 × heads \(4\)"),
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
