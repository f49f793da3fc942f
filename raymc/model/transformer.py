"""The multimodal transformer: tokens of several modalities in, one embedding a clip out.

Below the fusion point each modality attends to itself; above it they see each other, all
tokens at once or through a few bottleneck tokens. Every modality keeps its own weights at
every layer, so that `fusion_depth` changes who attends to whom and nothing else: not the
number of parameters, and none of their shapes. Pure torch: no Ray, no MLflow.

Axes: B batch, T tokens, d values of a token, D width, E embedding dim, C classes, M modalities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn
from torch.nn import functional

from raymc.config import ModelConfig
from raymc.data.feed.batches import Batch
from raymc.data.shards import Modality
from raymc.errors import DataError
from raymc.model.layers import (
    Block,
    Context,
    Layer,
    Rotation,
    added_positions,
    at_start,
    attend,
    time_rotation,
)

# What added positions are scaled by at first; at 1 they drown the tokens.
POSITION_SCALE = 0.3


@plain_dataclass(frozen=True)
class Embeddings:
    """What the transformer says about a batch of clips, before normalisation.

    `fused` is [B, E]; `by_modality` has one [B, E] a modality, of which `fused` is the mean
    over the modalities that the clip has. `present` says, [B] a modality, which have it; those
    that dropout took have not.
    """

    fused: Tensor
    by_modality: dict[str, Tensor]
    present: dict[str, Tensor]


class TokenEmbedding(nn.Module):
    """Tokens of one modality to the model's width, with positions in time and a readout token."""

    def __init__(self, modality: Modality, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.scale, self.offset = modality.scale, modality.offset
        self.rate_hz = modality.rate_hz
        # Of one or two numbers the norm would leave nothing but their order.
        is_normed = config.token_norm == "layer" and modality.dim > 2
        self.norm = nn.LayerNorm(modality.dim) if is_normed else nn.Identity()
        self.dropout = nn.Dropout(config.token_dropout)
        self.project = nn.Linear(modality.dim, width)
        self.kind = nn.Parameter(torch.randn(width) * 0.02)
        self.position_scale = nn.Parameter(torch.tensor(POSITION_SCALE))
        self.readout = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, tokens: Num[Tensor, "B T d"]) -> Float[Tensor, "B T+1 D"]:
        """Return the readout token followed by the embedded tokens."""
        values = tokens.to(self.kind.dtype) * self.scale + self.offset
        x = self.project(self.dropout(self.norm(values)))
        positions = added_positions(x.shape[1], self.rate_hz, like=x)
        x = x + self.kind + self.position_scale * positions
        return torch.cat([self.readout.expand(x.shape[0], 1, -1).to(x.dtype), x], dim=1)


class MultimodalTransformer(nn.Module):
    """Clips as bags of modality tokens to embeddings, and embeddings to class scores.

    Args:
        config: the shape.
        modalities: what each modality's tokens are; their order fixes the initialisation.
        classes: the number C of prototypes.
        head: `cosine` scores by similarity to unit prototypes, `linear` by a plain linear layer
            (the head of binary cross-entropy).

    Raises:
        DataError: A modality has a name that torch's modules can't have.
    """

    def __init__(
        self,
        config: ModelConfig,
        modalities: Sequence[Modality],
        *,
        classes: int,
        head: Literal["cosine", "linear"] = "cosine",
    ) -> None:
        super().__init__()
        names = [_checked(modality.name) for modality in modalities]
        self.names, self.head = names, head
        self.heads, self.head_size = config.heads, config.width // config.heads
        self.modality_dropout = config.modality_dropout
        self.embed = nn.ModuleDict({m.name: TokenEmbedding(m, config) for m in modalities})
        unfused = config.depth - config.fusion_depth
        self.layers = nn.ModuleList(
            Layer(
                {name: _block(config) for name in names},
                "self" if index < unfused else config.fusion,
            )
            for index in range(config.depth)
        )
        self.bottleneck = nn.Parameter(torch.randn(config.bottleneck_tokens, config.width) * 0.02)
        self.readouts = nn.ModuleDict({name: _readout_block(config) for name in names})
        count, width = config.readout_queries, config.width
        self.queries = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(count, width)) for name in names if count}
        )
        self.norms = nn.ModuleDict({name: nn.LayerNorm(config.width) for name in names})
        self.to_embedding = nn.ModuleDict(
            {name: nn.Linear((1 + count) * width, config.embedding_dim) for name in names}
        )
        self.prototypes = nn.Parameter(torch.empty(classes, config.embedding_dim))
        self.bias = nn.Parameter(torch.zeros(classes))
        nn.init.orthogonal_(self.prototypes)
        self.bottleneck.requires_grad_(config.fusion == "bottleneck" and config.fusion_depth > 0)
        self.bias.requires_grad_(head == "linear")

    def forward(
        self, tokens: Mapping[str, Num[Tensor, "B _ _"]], lengths: Mapping[str, Int[Tensor, " B"]]
    ) -> Embeddings:
        """Embed a batch.

        Args:
            tokens: per modality [B, T, dim] as stored, padded; T may differ between modalities.
            lengths: per modality [B], the real tokens of each row; 0 where it is missing.
        """
        counts = torch.stack([lengths[name] for name in self.names], dim=1)
        if self.training and self.modality_dropout:
            counts = drop_modalities(counts, self.modality_dropout)
        presence = presence_weights(counts)
        streams = {name: self.embed[name](tokens[name]) for name in self.names}
        context = Context(
            masks={
                name: readout_mask(counts[:, index], streams[name].shape[1])
                for index, name in enumerate(self.names)
            },
            turns={name: self._turns(name, tokens[name].shape[1]) for name in self.names},
            presence=presence,
        )
        bottleneck = self.bottleneck.expand(len(counts), -1, -1)
        for layer in self.layers:
            streams, bottleneck = layer(streams, context, bottleneck)
        by_modality = {
            name: self.to_embedding[name](self._read(name, x, context))
            for name, x in streams.items()
        }
        # no einsum, which autocast would round
        weighted = torch.stack(list(by_modality.values()), dim=1) * presence[:, :, None]
        present = {name: counts[:, index] > 0 for index, name in enumerate(self.names)}
        return Embeddings(weighted.sum(dim=1), by_modality, present)

    def _read(self, name: str, x: Float[Tensor, "B T D"], context: Context) -> Tensor:
        """Return the readout token, after it has looked at its modality once more, [B, D].

        What tokens find in each other in the last layer can't reach it within that layer;
        without this look a single fused layer would be worth nothing. Learned queries, if there
        are any, look beside it, and what all of them found is put end to end (pooling by
        attention, as in Lee et al., Set Transformer, ICML 2019, eq. 11,
        https://arxiv.org/abs/1810.00825): [B, (1 + queries) D].
        """
        block, norm, turns = self.readouts[name], self.norms[name], context.turns[name]
        assert isinstance(block, Block)
        readers = x[:, :1]
        if name in self.queries:
            queries = self.queries[name].to(x.dtype).expand(len(x), -1, -1)
            readers = torch.cat([readers, queries], dim=1)
        query, _, _ = block.project(readers, at_start(turns, readers.shape[1]))
        _, key, value = block.project(x, turns)
        found = attend(query, key, value, context.masks[name])
        return norm(block.update(readers, found)).flatten(1)

    def _turns(self, name: str, length: int) -> Rotation:
        embed = self.embed[name]
        assert isinstance(embed, TokenEmbedding)
        return time_rotation(
            length, embed.rate_hz, heads=self.heads, size=self.head_size, like=self.prototypes
        )

    def score_batch(self, batch: Batch) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B C"]]:
        """Return a batch's fused embeddings, before normalisation, and its scores."""
        fused = self(batch.tokens, batch.lengths).fused
        return fused, self.scores(fused)

    def scores(self, embedding: Float[Tensor, "B E"]) -> Float[Tensor, "B C"]:
        """Return cosine similarities in [-1, 1], or logits if the head is linear; in float32."""
        with torch.autocast(embedding.device.type, enabled=False):  # it would round the products
            embedding, prototypes = embedding.float(), self.prototypes.float()
            if self.head == "linear":
                return functional.linear(embedding, prototypes, self.bias.float())
            unit = functional.normalize(embedding, dim=-1)
            return unit @ functional.normalize(prototypes, dim=-1).T


def _checked(name: str) -> str:
    if "." in name or hasattr(nn.ModuleDict(), name):
        raise DataError(
            f"modality '{name}': a part of a model can't have this name; give the column one "
            "without dots that is no word of PyTorch's, or choose others in data.modalities"
        )
    return name


def _block(config: ModelConfig) -> Block:
    hidden = round(config.width * config.mlp_ratio)
    return Block(config.width, heads=config.heads, hidden=hidden, dropout=config.dropout)


def _readout_block(config: ModelConfig) -> Block:
    """Return a block that starts out looking at all times alike."""
    block = _block(config)
    nn.init.zeros_(block.qkv.bias)
    return block


def readout_mask(lengths: Int[Tensor, " B"], size: int) -> Bool[Tensor, "B T"]:
    """True where a token is real; the readout token at position 0 always is."""
    return torch.arange(size, device=lengths.device) <= lengths[:, None]


def presence_weights(lengths: Int[Tensor, "B M"]) -> Float[Tensor, "B M"]:
    """Equal weights over the modalities a row has; over all where it has none."""
    present = (lengths > 0).float()
    present = torch.where(present.any(dim=1, keepdim=True), present, torch.ones_like(present))
    return present / present.sum(dim=1, keepdim=True)


def drop_modalities(lengths: Int[Tensor, "B M"], probability: float) -> Int[Tensor, "B M"]:
    """Set one present modality's length to 0 in a share of the rows that have more than one."""
    present = lengths > 0
    draw = torch.rand(lengths.shape, device=lengths.device).masked_fill(~present, -1.0)
    chosen = functional.one_hot(draw.argmax(dim=1), lengths.shape[1]).bool()
    hit = torch.rand(len(lengths), device=lengths.device) < probability
    lose = hit & (present.sum(dim=1) > 1)
    return lengths.masked_fill(chosen & lose[:, None], 0)
