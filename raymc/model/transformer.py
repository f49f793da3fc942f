"""The multimodal transformer: tokens of several modalities in, one embedding per clip out.

In the lower layers each modality attends to itself; in the top `fusion_depth` layers modalities
attend to each other, jointly or through a few bottleneck tokens. Every modality has its own
weights in every layer, so `fusion_depth` changes only which tokens attend to which, and neither
the number nor the shapes of the parameters.

Axes: B batch, T tokens, d values of a token, D width, E embedding dim, C classes, M modalities,
G groups of classes; F is E, or G·E with an embedding for each group; *P as in `layers.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn
from torch.nn import functional

from raymc.config import ModelConfig
from raymc.data.feed.batches import Batch
from raymc.data.shards import Means, Modality
from raymc.errors import DataError
from raymc.model.layers import (
    PADDED,
    Block,
    Context,
    Layer,
    Layout,
    Masks,
    Periods,
    Rotation,
    added_positions,
    attend,
    readout_mask,
    time_rotation,
)

# Initial scale of the added positions; at 1 they would drown the tokens.
POSITION_SCALE = 0.3


@plain_dataclass(frozen=True)
class Embeddings:
    """Embeddings of a batch of clips, before normalisation.

    `by_modality` holds [B, F] per modality; `fused`, [B, F], is their mean over the modalities
    that a clip has. `present` says per modality, [B], which clips have it after modality dropout.
    """

    fused: Tensor
    by_modality: dict[str, Tensor]
    present: dict[str, Tensor]


class TokenEmbedding(nn.Module):
    """Projects tokens of one modality to width D; adds positions in time and a readout token.

    Attributes:
        mean: [d], subtracted from each token. What all tokens of a pretrained encoder have in
            common can be larger than what tells them apart, and a layer norm keeps it.
    """

    def __init__(self, modality: Modality, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.scale, self.offset = modality.scale, modality.offset
        self.rate_hz, self.periods = modality.rate_hz, periods_of(config)
        self.mean = nn.Buffer(torch.zeros(modality.dim))
        # Normalising one or two numbers would leave only their order.
        is_normed = config.token_norm == "layer" and modality.dim > 2
        self.norm = nn.LayerNorm(modality.dim) if is_normed else nn.Identity()
        self.dropout = nn.Dropout(config.token_dropout)
        self.project = nn.Linear(modality.dim, width)
        self.kind = nn.Parameter(torch.randn(width) * 0.02)
        self.position_scale = nn.Parameter(torch.tensor(POSITION_SCALE))
        self.readout = nn.Parameter(torch.randn(width) * 0.02)

    def forward(
        self, tokens: Num[Tensor, "B T d"], layout: Layout = PADDED
    ) -> Float[Tensor, "*P D"]:
        """Return the readout tokens and the embedded tokens, in this layout."""
        values = layout.of_batch(tokens).to(self.kind.dtype) * self.scale + self.offset - self.mean
        x = self.project(self.dropout(self.norm(values)))
        positions = added_positions(tokens.shape[1], self.rate_hz, self.periods, like=x)
        x = x + self.kind + self.position_scale * layout.of_moments(positions)
        return layout.after_readouts(self.readout.to(x.dtype), x)


class MultimodalTransformer(nn.Module):
    """Embeds clips, and scores embeddings against the classes.

    Args:
        config: the shape.
        modalities: kind of each modality's tokens; their order fixes the initialisation.
        classes: number C of prototypes.
        head: `cosine` scores by similarity to unit prototypes, `linear` by a linear layer, which
            is the head of binary cross-entropy.

    Attributes:
        places: [C], a place of its own for each class, of which place p belongs to group p mod G;
            only where classes share class queries.

    Raises:
        DataError: a modality has a name that PyTorch does not allow for a module.
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
        self.absent_are_seen = config.absent == "seen"
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
        self.groups = min(config.class_queries, classes)
        self.class_queries = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(self.groups, width)) for name in names if self.groups}
        )
        self.to_group = nn.ModuleDict(
            {
                name: nn.Linear(width, config.embedding_dim, bias=False)
                for name in self.class_queries
            }
        )
        if 0 < self.groups < classes:
            self.places = nn.Buffer(torch.arange(classes))
        self.prototypes = nn.Parameter(torch.empty(classes, config.embedding_dim))
        self.bias = nn.Parameter(torch.zeros(classes))
        nn.init.orthogonal_(self.prototypes)
        self.bottleneck.requires_grad_(config.fusion == "bottleneck" and config.fusion_depth > 0)
        self.bias.requires_grad_(head == "linear")

    def centre(self, means: Means) -> None:
        """Set what is subtracted from each token: the mean token of each modality."""
        for name, mean in means.items():
            embed = self.embed[name]
            assert isinstance(embed, TokenEmbedding)
            embed.mean.copy_(torch.tensor(mean))

    def share_queries(self, groups: Int[Tensor, " C"]) -> None:
        """Set which group each class is in; a new model has class k in group k mod G.

        Raises:
            ValueError: a group has more than ⌈C / G⌉ classes.
        """
        members = functional.one_hot(groups, self.groups)
        most, room = int(members.sum(dim=0).max()), -(-len(groups) // self.groups)
        if most > room:
            raise ValueError(f"a group has {most} classes, and room for {room}")
        earlier = (members.cumsum(dim=0) * members).sum(dim=1) - 1
        self.places.copy_(earlier * self.groups + groups)

    def forward(
        self,
        tokens: Mapping[str, Num[Tensor, "B _ _"]],
        lengths: Mapping[str, Int[Tensor, " B"]],
        *,
        padded: bool = True,
    ) -> Embeddings:
        """Embed a batch.

        Args:
            tokens: per modality [B, T, d] as stored, padded; T may differ between modalities.
            lengths: per modality [B], the number of real tokens of each row; 0 if missing.
            padded: whether any row has fewer than T tokens of a modality.
        """
        counts = stored = torch.stack([lengths[name] for name in self.names], dim=1)
        if drops := self.training and self.modality_dropout > 0:
            counts = drop_modalities(stored, self.modality_dropout)
        presence = presence_weights(counts)
        sizes = {name: tokens[name].shape[1] + 1 for name in self.names}  # with the readout token
        # A GPU would wait for the number of real tokens, and a graph would break there.
        is_packed = padded and stored.device.type == "cpu" and not torch.compiler.is_compiling()
        layouts = {
            name: Layout.packed(count, sizes[name]) if is_packed else PADDED
            for name, count in zip(self.names, stored.unbind(dim=1))
        }
        streams = {name: self.embed[name](tokens[name], layouts[name]) for name in self.names}
        like = self._product_like()
        context = Context(
            layouts=layouts,
            # What a dropped modality's own tokens learn from each other has no weight.
            masks=self._masks(stored, sizes, like) if padded else None,
            visible=self._masks(counts, sizes, like, presence) if padded or drops else None,
            turns={name: self._turns(name, tokens[name].shape[1], like) for name in self.names},
            presence=presence,
        )
        bottleneck = self.bottleneck.expand(len(counts), -1, -1)
        for layer in self.layers:
            streams, bottleneck = layer(streams, context, bottleneck)
        by_modality = {name: self._read(name, x, context) for name, x in streams.items()}
        # Not an einsum, which autocast would run in bfloat16.
        weighted = torch.stack(list(by_modality.values()), dim=1) * presence[:, :, None]
        present = {name: counts[:, index] > 0 for index, name in enumerate(self.names)}
        return Embeddings(weighted.sum(dim=1), by_modality, present)

    def _read(self, name: str, x: Float[Tensor, "*P D"], context: Context) -> Float[Tensor, "B F"]:
        """Return a modality's embedding, for which readers attend to it once more.

        What tokens learn from each other in the last layer can't reach the readout token within
        that layer; without this step a single fused layer would be useless. Learned queries, if
        any, attend beside it, and an embedding is made of all results together (pooling by
        attention: Lee et al., Set Transformer, ICML 2019, eq. 11,
        https://arxiv.org/abs/1810.00825).

        What a class query finds is added for the classes of its group alone, so that there is an
        embedding for each group. After S. Liu et al. 2021, *Query2Label*, arXiv 2107.10834, who
        have one query a class, and T. Ridnik et al. 2023, *ML-Decoder*, WACV, arXiv 2111.12933,
        who have one a group.
        """
        block, norm, turns = self.readouts[name], self.norms[name], context.turns[name]
        assert isinstance(block, Block)
        layout = context.layouts[name]
        readers = layout.readouts(x)
        learned = [of[name] for of in (self.queries, self.class_queries) if name in of]
        if learned:
            queries = (each.to(x.dtype).expand(len(readers), -1, -1) for each in learned)
            readers = torch.cat([readers, *queries], dim=1)
        _, key, value = block.project(x, turns, layout)
        found = attend(block.query(readers), key, value, context.mask(name))
        read = norm(block.update(readers, found))
        if not self.groups:
            return self.to_embedding[name](read.flatten(1))
        shared, own = read.tensor_split([-self.groups], dim=1)
        embedding = self.to_embedding[name](shared.flatten(1))
        return (embedding[:, None] + self.to_group[name](own)).flatten(1)

    def _masks(
        self,
        counts: Int[Tensor, "B M"],
        sizes: Mapping[str, int],
        like: Tensor,
        presence: Float[Tensor, "B M"] | None = None,
    ) -> Masks:
        """Return the masks of real tokens; with `presence`, of those that other modalities see."""
        masks = [
            readout_mask(count, sizes[name])
            for name, count in zip(self.names, counts.unbind(dim=1))
        ]
        if presence is not None and not self.absent_are_seen:
            masks = visible_masks(masks, presence)
        return {name: as_logits(mask, like) for name, mask in zip(self.names, masks)}

    def _product_like(self) -> Tensor:
        """Return an empty tensor of the type of matrix products: autocast's while that is on.

        What meets queries and keys in this type does not promote them to float32.
        """
        kind = self.prototypes.device.type
        is_cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if is_cast else self.prototypes.dtype
        return self.prototypes.new_empty(0, dtype=dtype)

    def _turns(self, name: str, length: int, like: Tensor) -> Rotation:
        embed = self.embed[name]
        assert isinstance(embed, TokenEmbedding)
        return time_rotation(
            length,
            embed.rate_hz,
            embed.periods,
            heads=self.heads,
            size=self.head_size,
            like=like,
        )

    def score_batch(self, batch: Batch) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B C"]]:
        """Return a batch's fused embeddings, before normalisation, and its scores.

        With class queries a clip's embedding is the mean over groups.
        """
        fused = self(batch.tokens, batch.lengths, padded=batch.padded).fused
        scores = self.scores(fused)
        return (self._by_group(fused).mean(dim=1) if self.groups else fused), scores

    def scores(self, embedding: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Return cosine similarities in [-1, 1], or logits if the head is linear; in float32."""
        with torch.autocast(embedding.device.type, enabled=False):  # would round the products
            embedding, prototypes = embedding.float(), self.prototypes.float()
            if self.groups:
                return self._scores_by_group(self._by_group(embedding), prototypes)
            if self.head == "linear":
                return functional.linear(embedding, prototypes, self.bias.float())
            unit = functional.normalize(embedding, dim=-1)
            return unit @ functional.normalize(prototypes, dim=-1).T

    def _by_group(self, embedding: Float[Tensor, "B F"]) -> Float[Tensor, "B G E"]:
        return embedding.unflatten(1, (self.groups, -1))

    def _scores_by_group(
        self, embedding: Float[Tensor, "B G E"], prototypes: Float[Tensor, "C E"]
    ) -> Float[Tensor, "B C"]:
        """Score each class by the embedding of its group."""
        if self.head == "cosine":
            embedding, prototypes = (
                functional.normalize(x, dim=-1) for x in (embedding, prototypes)
            )
        classes, size = prototypes.shape
        if self.groups == classes:
            scores = torch.einsum("bke,ke->bk", embedding, prototypes)
        else:
            rounds = -(-classes // self.groups)
            dealt = prototypes.new_zeros(rounds * self.groups, size)
            dealt = dealt.index_copy(0, self.places, prototypes).unflatten(0, (rounds, -1))
            scores = torch.einsum("bge,rge->brg", embedding, dealt).flatten(1)
            scores = scores.index_select(1, self.places)
        return scores if self.head == "cosine" else scores + self.bias.float()


def _checked(name: str) -> str:
    if "." in name or hasattr(nn.ModuleDict(), name):
        raise DataError(
            f"modality '{name}': PyTorch allows no module of this name; rename the column (no "
            "dots, no name of a torch.nn.ModuleDict method), or leave it out of data.modalities"
        )
    return name


def periods_of(config: ModelConfig) -> Periods:
    """Return the shortest and the longest period of positions, in seconds."""
    return config.shortest_period_seconds, config.longest_period_seconds


def _block(config: ModelConfig) -> Block:
    hidden = round(config.width * config.mlp_ratio)
    return Block(config.width, heads=config.heads, hidden=hidden, dropout=config.dropout)


def _readout_block(config: ModelConfig) -> Block:
    """Return a block whose initial attention ignores time."""
    block = _block(config)
    nn.init.zeros_(block.qkv.bias)
    return block


def as_logits(mask: Bool[Tensor, "B T"], like: Tensor) -> Float[Tensor, "B 1 1 T"]:
    """Return what is added to logits of attention: 0 where the mask is true, else −∞."""
    return like.new_zeros(mask.shape).masked_fill(~mask, -math.inf)[:, None, None]


def visible_masks(
    masks: Sequence[Bool[Tensor, "B _"]], presence: Float[Tensor, "B M"]
) -> list[Bool[Tensor, "B _"]]:
    """Return the masks without the readout tokens of modalities that a clip lacks.

    Such a token has nothing to tell, and models that rarely lose a modality never learn to ignore
    it. Clips without any modality keep all, so that there is something to attend to.
    """
    is_there = (presence > 0).unbind(dim=1)
    return [mask & there[:, None] for mask, there in zip(masks, is_there)]


def presence_weights(lengths: Int[Tensor, "B M"]) -> Float[Tensor, "B M"]:
    """Return equal weights for the modalities that a row has; for all if it has none."""
    present = (lengths > 0).float()
    present = torch.where(present.any(dim=1, keepdim=True), present, torch.ones_like(present))
    return present / present.sum(dim=1, keepdim=True)


def drop_modalities(lengths: Int[Tensor, "B M"], probability: float) -> Int[Tensor, "B M"]:
    """Set one modality's length to 0 in a share of the rows that have more than one."""
    present = lengths > 0
    draw = torch.rand(lengths.shape, device=lengths.device).masked_fill(~present, -1.0)
    chosen = torch.arange(lengths.shape[1], device=lengths.device) == draw.argmax(dim=1)[:, None]
    hit = torch.rand(len(lengths), device=lengths.device) < probability
    lose = hit & (present.sum(dim=1) > 1)
    return lengths.masked_fill(chosen & lose[:, None], 0)
