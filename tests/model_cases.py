"""Small models with weights of any value, and ragged clips that lack this or that modality."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raymc.config import ModelConfig
from raymc.data.shards import Modality
from raymc.model.transformer import Embeddings, MultimodalTransformer

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
    generator = np.random.default_rng(1)
    model.centre({m.name: generator.normal(size=m.dim).tolist() for m in modalities})
    return model.eval().double()


def embed(model: MultimodalTransformer, clips: Clips) -> Embeddings:
    with torch.no_grad():
        return model(clips.tokens, clips.lengths)


def assert_same(made: Embeddings, expected: Embeddings, *, within: float = 1e-10) -> None:
    torch.testing.assert_close(made.fused, expected.fused, rtol=0, atol=within)
    torch.testing.assert_close(made.by_modality, expected.by_modality, rtol=0, atol=within)
