"""Positions in time, in seconds, so that modalities of different rates line up.

Two forms side by side: sines and cosines added to the tokens say when a token is; rotary
positions on half of the attention heads say how far apart two tokens are. Pure torch.

Axes: T tokens, D width, H heads, d dimensions of a head.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

SHORTEST_PERIOD_SECONDS = 0.2
LONGEST_PERIOD_SECONDS = 200.0

# Cosines and sines [H, T, d/2] that queries and keys are turned by.
Rotation = tuple[Tensor, Tensor]


def added_positions(length: int, rate_hz: float, *, like: Tensor) -> Float[Tensor, "T D"]:
    """Sines and cosines of the tokens' mid-times.

    The form of Vaswani et al. 2017, section 3.5, https://arxiv.org/abs/1706.03762, over seconds
    rather than indices.
    """
    seconds = (torch.arange(length, device=like.device) + 0.5) / rate_hz
    angle = seconds[:, None] * _frequencies(like.shape[-1] // 2, like.device)
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(like.dtype)


def time_rotation(length: int, rate_hz: float, *, heads: int, size: int, like: Tensor) -> Rotation:
    """The turns of a readout token, at time 0, and of `length` tokens after it.

    The form of Su et al. 2021, section 3.4, https://arxiv.org/abs/2104.09864, over seconds: what
    attention sees of two tokens' times is their difference, whatever the rates of their
    modalities. The first half of the heads is turned, the other half knows nothing of time.
    """
    seconds = (torch.arange(length + 1, device=like.device) - 0.5).clamp(min=0) / rate_hz
    angle = seconds[:, None] * _frequencies(size // 2, like.device)
    turned = torch.arange(heads, device=like.device) < turned_heads(heads)
    angle = angle * turned[:, None, None]
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def turned_heads(heads: int) -> int:
    """The number of heads, from the first, that see differences in time."""
    return (heads + 1) // 2


def without_time(turns: Rotation, count: int) -> Rotation:
    """Append `count` tokens that are not turned."""
    cos, sin = turns
    shape = (cos.shape[0], count, cos.shape[2])
    return torch.cat([cos, cos.new_ones(shape)], dim=1), torch.cat([sin, sin.new_zeros(shape)], 1)


def at_start(turns: Rotation, count: int) -> Rotation:
    """The turns of `count` tokens that stand at time 0, as the first does."""
    cos, sin = turns
    return cos[:, :1].expand(-1, count, -1), sin[:, :1].expand(-1, count, -1)


def rotate(x: Float[Tensor, "B H T d"], turns: Rotation) -> Float[Tensor, "B H T d"]:
    """Turn the first half of each head's dimensions against the second."""
    cos, sin = turns
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _frequencies(count: int, device: torch.device) -> Float[Tensor, " count"]:
    """Angular frequencies whose periods run geometrically from the shortest to the longest."""
    ratio = LONGEST_PERIOD_SECONDS / SHORTEST_PERIOD_SECONDS
    steps = torch.linspace(0, 1, count, device=device)
    return 2 * math.pi / (SHORTEST_PERIOD_SECONDS * ratio**steps)
