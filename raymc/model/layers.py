"""Transformer layers over several modalities: separate, joint, or through a bottleneck.

Every modality has its own weights in every layer; a layer's reach only decides which tokens its
attention sees. Positions are times in seconds, so that modalities of different rates line up.

Axes: B batch, T tokens, D width, H heads, d dimensions of a head, N bottleneck tokens,
M modalities, P tokens of a batch without padding; *P is P, or B T with padding.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn
from torch.nn import functional

# Positions take two forms: sines and cosines added to the tokens say when a token occurs; rotary
# positions on half of the attention heads say how far apart in time two tokens are.
Periods = tuple[float, float]  # the shortest and the longest, in seconds
# Cosines [H, T, d] of the angles by which queries and keys are rotated, for both halves of a head,
# and sines, negated for the first half.
Rotation = tuple[Tensor, Tensor]


def added_positions(
    length: int, rate_hz: float, periods: Periods, *, like: Tensor
) -> Float[Tensor, "T D"]:
    """Return sin(ω_i t) and cos(ω_i t) for the middle t of each token, in seconds.

    The form of Vaswani et al. 2017, section 3.5, https://arxiv.org/abs/1706.03762, with times in
    place of indices.
    """
    seconds = (torch.arange(length, device=like.device) + 0.5) / rate_hz
    angle = seconds[:, None] * _frequencies(like.shape[-1] // 2, periods, like.device)
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(like.dtype)


def time_rotation(
    length: int, rate_hz: float, periods: Periods, *, heads: int, size: int, like: Tensor
) -> Rotation:
    """Return the rotations of a readout token, at time 0, and of `length` tokens after it.

    Rotary positions, Su et al. 2021, section 3.4, https://arxiv.org/abs/2104.09864, with times t
    in seconds in place of indices. With R(t) the rotation of each pair of dimensions i by the
    angle ω_i t, R(t)q · R(t')k = q · R(t' − t)k: attention depends on the difference of two times
    only, at any rates. The first half of the heads is rotated; the others ignore time.
    """
    seconds = (torch.arange(length + 1, device=like.device) - 0.5).clamp(min=0) / rate_hz
    angle = seconds[:, None] * _frequencies(size // 2, periods, like.device)
    turned = torch.arange(heads, device=like.device) < turned_heads(heads)
    angle = angle * turned[:, None, None]
    cos, sin = angle.cos().to(like.dtype), angle.sin().to(like.dtype)
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def turned_heads(heads: int) -> int:
    """Return the number of heads, from the first, that see differences in time."""
    return (heads + 1) // 2


def without_time(turns: Rotation, count: int) -> Rotation:
    """Append `count` tokens that are not rotated."""
    cos, sin = turns
    shape = (cos.shape[0], count, cos.shape[2])
    return torch.cat([cos, cos.new_ones(shape)], dim=1), torch.cat([sin, sin.new_zeros(shape)], 1)


def rotate(x: Float[Tensor, "*B H T d"], turns: Rotation) -> Float[Tensor, "*B H T d"]:
    """Rotate pairs of dimensions: i of a head's first half with i of its second half."""
    cos, sin = turns
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


def _frequencies(count: int, periods: Periods, device: torch.device) -> Float[Tensor, " count"]:
    """Return angular frequencies ω_i = 2π / period, with periods in a geometric sequence."""
    shortest, longest = periods
    steps = torch.linspace(0, 1, count, device=device)
    return 2 * math.pi / (shortest * (longest / shortest) ** steps)


# Logit by which the rotated heads first prefer tokens of the same time, so that modalities meet
# there from the first step on. Without it a model needs several times the data to learn that time
# matters. It is the same for heads of any size: a larger one would saturate the softmax of large
# heads, and a smaller one let small heads look everywhere.
SAME_TIME_LOGIT = 9.8
Reach = Literal["self", "joint", "bottleneck"]
Masks = dict[str, Tensor] | None


def readout_mask(lengths: Int[Tensor, " B"], size: int) -> Bool[Tensor, "B T"]:
    """Return true for real tokens, false for padding; the readout token, at 0, is always real."""
    return torch.arange(size, device=lengths.device) <= lengths[:, None]


@dataclass(frozen=True)
class Layout:
    """How a modality's tokens lie in memory: [B, T, D] with padding, or [P, D] without.

    Attention needs the first form. The second spares what works on each token by itself the
    padding; the readout tokens of all clips come first in it, and then their real tokens.

    Attributes:
        at: [P], where each token is among B·T; None for the first form.
        rows: B.
        size: T.
    """

    at: Tensor | None = None
    rows: int = 0
    size: int = 0

    @staticmethod
    def packed(lengths: Int[Tensor, " B"], size: int) -> "Layout":
        """Return the form without padding, of clips with these numbers of real tokens.

        On a GPU this would wait, because memory is asked for by the number of all tokens.
        """
        at = readout_mask(lengths, size).flatten().nonzero()[:, 0]
        is_readout = at % size == 0
        return Layout(torch.cat([at[is_readout], at[~is_readout]]), len(lengths), size)

    def of_batch(self, tokens: Num[Tensor, "B T d"]) -> Num[Tensor, "*real d"]:
        """Take the real tokens of a batch, which has no readout tokens yet."""
        if self.at is None:
            return tokens
        at = self.at[self.rows :]
        before = at // self.size + 1  # places of readout tokens
        return tokens.flatten(0, 1).index_select(0, at - before)

    def of_moments(self, values: Float[Tensor, "T D"]) -> Float[Tensor, "*real D"]:
        """Take the value of each real token's moment; readout tokens have none."""
        if self.at is None:
            return values
        return values.index_select(0, self.at[self.rows :] % self.size - 1)

    def after_readouts(
        self, readout: Float[Tensor, " D"], tokens: Float[Tensor, "*real D"]
    ) -> Float[Tensor, "*P D"]:
        """Give each clip its readout token."""
        if self.at is None:
            return torch.cat([readout.expand(len(tokens), 1, -1), tokens], dim=1)
        return torch.cat([readout.expand(self.rows, -1), tokens])

    def readouts(self, x: Float[Tensor, "*P D"]) -> Float[Tensor, "B 1 D"]:
        """Take the readout tokens."""
        return x[:, :1] if self.at is None else x[: self.rows, None]

    def spread(self, x: Float[Tensor, "*P D"]) -> Float[Tensor, "B T D"]:
        """Put all tokens at their places, among zeros."""
        if self.at is None:
            return x
        among = x.new_zeros(self.rows * self.size, x.shape[-1])
        return among.index_copy_(0, self.at, x).unflatten(0, (self.rows, self.size))

    def pack(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "*P D"]:
        """Take all tokens from their places."""
        return x if self.at is None else x.flatten(0, 1).index_select(0, self.at)


PADDED = Layout()


@dataclass(frozen=True)
class Context:
    """What every layer needs to know about a batch.

    Attributes:
        layouts: per modality, how its tokens lie in memory.
        masks: per modality [B, 1, 1, T], what is added to logits of attention: 0 for real tokens,
            −∞ for padding. None if all tokens of the batch are real.
        visible: the same for the tokens that other modalities see.
        turns: per modality, the rotary positions of its tokens.
        presence: [B, M], the weight of each modality in averages over modalities.
    """

    layouts: dict[str, Layout]
    masks: Masks
    visible: Masks
    turns: dict[str, Rotation]
    presence: Tensor

    def mask(self, name: str) -> Tensor | None:
        """Return the mask of a modality's tokens."""
        return None if self.masks is None else self.masks[name]


class Block(nn.Module):
    """One modality's weights in one layer: pre-norm (Xiong et al. 2020, arXiv 2002.04745)."""

    def __init__(self, width: int, *, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self._prefer_same_time(width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def _prefer_same_time(self, width: int) -> None:
        """Give queries and keys of rotated heads a common bias: q · R(Δt)q peaks at Δt = 0.

        With b for each of the d/2 rotated pairs, that peak is b² · d/2 / √d in logits.
        """
        size = width // self.heads
        value = math.sqrt(2 * SAME_TIME_LOGIT / math.sqrt(size))
        bias = torch.zeros(3, self.heads, size)
        bias[:2, : turned_heads(self.heads), : size // 2] = value
        with torch.no_grad():
            self.qkv.bias.copy_(bias.flatten())

    def project(
        self, x: Float[Tensor, "*P D"], turns: Rotation, layout: Layout = PADDED
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys, rotated by their times, and values; each [B, H, T, d]."""
        turned, values = self._project(x, layout).split([2, 1])
        query, key = rotate(turned, turns)
        return query, key, values.squeeze(0)

    def query(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T d"]:
        """Return queries at time 0, where nothing is rotated."""
        return self._project(x, PADDED)[0]

    def _project(self, x: Float[Tensor, "*P D"], layout: Layout) -> Float[Tensor, "3 B H T d"]:
        qkv = layout.spread(self.qkv(self.norm_attention(x)))
        return qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def update(
        self,
        x: Float[Tensor, "*P D"],
        attended: Float[Tensor, "B H T d"],
        layout: Layout = PADDED,
    ) -> Float[Tensor, "*P D"]:
        """Add the output of attention, then that of the MLP."""
        x = x + self.dropout(self.out(layout.pack(attended.transpose(1, 2).flatten(2))))
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Float[Tensor, "B 1 1 T"] | None
) -> Tensor:
    """Scaled dot-product attention; `mask` is added to the logits of the keys.

    Without a mask PyTorch may choose FlashAttention (T. Dao 2023, arXiv 2307.08691).
    """
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class Layer(nn.Module):
    """One transformer layer over all modalities; `reach` says which tokens attend to which."""

    def __init__(self, blocks: Mapping[str, Block], reach: Reach) -> None:
        super().__init__()
        self.reach = reach
        self.blocks = nn.ModuleDict(blocks)

    def forward(
        self,
        streams: dict[str, Tensor],
        context: Context,
        bottleneck: Tensor,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the streams and the bottleneck tokens after this layer."""
        if self.reach == "bottleneck":
            return self._through_bottleneck(streams, context, bottleneck)
        turns, layouts = context.turns, context.layouts
        projected = {
            name: self._block(name).project(x, turns[name], layouts[name])
            for name, x in streams.items()
        }
        if self.reach == "joint":
            attended = self._attend_jointly(projected, context.visible)
        else:
            attended = {name: attend(*projected[name], context.mask(name)) for name in streams}
        updated = {
            name: self._block(name).update(x, attended[name], layouts[name])
            for name, x in streams.items()
        }
        return updated, bottleneck

    def _block(self, name: str) -> Block:
        block = self.blocks[name]
        assert isinstance(block, Block)
        return block

    def _attend_jointly(
        self, projected: dict[str, tuple[Tensor, Tensor, Tensor]], masks: Masks
    ) -> dict[str, Tensor]:
        query, key, value = (torch.cat(parts, dim=2) for parts in zip(*projected.values()))
        mask = None if masks is None else torch.cat([masks[n] for n in projected], dim=-1)
        lengths = [parts[0].shape[2] for parts in projected.values()]
        attended = attend(query, key, value, mask).split(lengths, dim=2)
        return dict(zip(projected, attended))

    def _through_bottleneck(
        self,
        streams: dict[str, Tensor],
        context: Context,
        bottleneck: Float[Tensor, "B N D"],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Let each modality attend to itself and the bottleneck; average the bottleneck's updates.

        Source: Nagrani et al., Attention Bottlenecks for Multimodal Fusion, NeurIPS 2021,
        eq. 8 and 9, https://arxiv.org/abs/2107.00135. As there, modalities see what the
        bottleneck learned in a layer only in the next one.
        """
        updated, views = {}, []
        for name, x in streams.items():
            block, layout, mask = self._block(name), context.layouts[name], context.mask(name)
            spread = layout.spread(x)  # because the bottleneck is appended to each clip
            joined, length = torch.cat([spread, bottleneck], dim=1), spread.shape[1]
            if mask is not None:  # all of the bottleneck is seen
                mask = functional.pad(mask, (0, bottleneck.shape[1]))
            turns = without_time(context.turns[name], bottleneck.shape[1])
            joined = block.update(joined, attend(*block.project(joined, turns), mask))
            updated[name] = layout.pack(joined[:, :length])
            views.append(joined[:, length:])
        # Not an einsum, which autocast would run in bfloat16.
        weighted = torch.stack(views) * context.presence.T[:, :, None, None]
        return updated, weighted.sum(dim=0)
