"""The transformer once more, slowly: one clip, its real tokens only, NumPy in float64.

Written from the model's description and its weights by name; it shares no code with it.

Axes: T tokens, D width, H heads, d dimensions of a head, E embedding dim.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raymc.config import ModelConfig
from raymc.data.shards import Modality

Array = np.ndarray[Any, np.dtype[Any]]
Weights = Mapping[str, Array]


@dataclass(frozen=True)
class Projected:
    """What one modality asks, offers and says in a layer; each [T, H, d], the first two complex."""

    queries: Array
    keys: Array
    values: Array


def periods(count: int, shortest: float = 0.2, longest: float = 200.0) -> Array:
    """From the shortest to the longest, in seconds, in equal ratios."""
    ratio = longest / shortest
    return np.array([shortest * ratio ** (i / max(1, count - 1)) for i in range(count)])


def mid_times(length: int, rate_hz: float) -> Array:
    return np.array([(i + 0.5) / rate_hz for i in range(length)])


def positions(seconds: Array, width: int) -> Array:
    """Sines, then cosines, of every period; [T, D]."""
    angles = 2 * np.pi * seconds[:, None] / periods(width // 2)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def turned(x: Array, seconds: Array, turned_heads: int) -> Array:
    """Halves of [T, H, d] as real and imaginary parts, turned once every period."""
    pairs = x[:, :, : x.shape[2] // 2] + 1j * x[:, :, x.shape[2] // 2 :]
    turns = np.exp(2j * np.pi * seconds[:, None] / periods(pairs.shape[2]))
    for head in range(turned_heads):
        pairs[:, head] *= turns
    return pairs


def layer_norm(weights: Weights, path: str, x: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{path}.weight"] + weights[f"{path}.bias"]


def linear(weights: Weights, path: str, x: Array) -> Array:
    return x @ weights[f"{path}.weight"].T + weights[f"{path}.bias"]


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def embedded(weights: Weights, modality: Modality, stored: Array) -> Array:
    """The readout token, then the clip's tokens; [T + 1, D]."""
    path = f"embed.{modality.name}"
    readout = weights[f"{path}.readout"][None]
    if len(stored) == 0:
        return readout
    values = stored.astype(np.float64) * modality.scale + modality.offset - weights[f"{path}.mean"]
    if f"{path}.norm.weight" in weights:
        values = layer_norm(weights, f"{path}.norm", values)
    x = linear(weights, f"{path}.project", values)
    added = positions(mid_times(len(stored), modality.rate_hz), x.shape[1])
    x = x + weights[f"{path}.kind"] + weights[f"{path}.position_scale"] * added
    return np.concatenate([readout, x])


def project(weights: Weights, block: str, x: Array, seconds: Array, heads: int) -> Projected:
    normed = layer_norm(weights, f"{block}.norm_attention", x)
    three = linear(weights, f"{block}.qkv", normed).reshape(len(x), 3, heads, -1)
    seeing_time = math.ceil(heads / 2)
    return Projected(
        queries=turned(three[:, 0], seconds, seeing_time),
        keys=turned(three[:, 1], seconds, seeing_time),
        values=three[:, 2],
    )


def attended(queries: Array, seen: Sequence[Projected]) -> Array:
    """What each query finds among the tokens that it sees; [T, D]."""
    keys = np.concatenate([part.keys for part in seen])
    values = np.concatenate([part.values for part in seen])
    found = np.zeros((len(queries), *values.shape[1:]))
    for token in range(len(queries)):
        for head in range(values.shape[1]):
            agreement = (keys[:, head] * queries[token, head].conj()).sum(axis=1).real
            logits = agreement / math.sqrt(values.shape[2])
            weight = np.exp(logits - logits.max())
            found[token, head] = weight / weight.sum() @ values[:, head]
    return found.reshape(len(queries), -1)


def update(weights: Weights, block: str, x: Array, found: Array) -> Array:
    x = x + linear(weights, f"{block}.out", found)
    hidden = linear(weights, f"{block}.mlp.0", layer_norm(weights, f"{block}.norm_mlp", x))
    return x + linear(weights, f"{block}.mlp.2", gelu(hidden))


@dataclass(frozen=True)
class Clip:
    """What a layer must know of a clip.

    Attributes:
        times: per modality, the seconds of its readout token and of its tokens.
        present: the modalities that it has; all where it has none.
    """

    times: Mapping[str, Array]
    present: Sequence[str]


def attention_layer(
    weights: Weights,
    layer: int,
    streams: Mapping[str, Array],
    clip: Clip,
    *,
    heads: int,
    all_see: bool,
) -> dict[str, Array]:
    """Every modality attends to itself, or to all that the clip has."""
    blocks = {name: f"layers.{layer}.blocks.{name}" for name in streams}
    parts = {
        name: project(weights, blocks[name], x, clip.times[name], heads)
        for name, x in streams.items()
    }
    updated = {}
    for name, x in streams.items():
        seen = [parts[other] for other in clip.present] if all_see else [parts[name]]
        updated[name] = update(weights, blocks[name], x, attended(parts[name].queries, seen))
    return updated


def bottleneck_layer(
    weights: Weights,
    layer: int,
    streams: Mapping[str, Array],
    clip: Clip,
    shared: Array,
    *,
    heads: int,
) -> tuple[dict[str, Array], Array]:
    """Every modality attends to itself and to the shared tokens, which have no time."""
    updated, views = {}, {}
    for name, x in streams.items():
        block = f"layers.{layer}.blocks.{name}"
        both = np.concatenate([x, shared])
        seconds = np.concatenate([clip.times[name], np.zeros(len(shared))])
        part = project(weights, block, both, seconds, heads)
        both = update(weights, block, both, attended(part.queries, [part]))
        updated[name], views[name] = np.split(both, [len(x)])
    return updated, np.mean([views[name] for name in clip.present], axis=0)


def embed_clip(
    weights: Weights,
    config: ModelConfig,
    modalities: Sequence[Modality],
    tokens: Mapping[str, Array],
) -> tuple[Array, dict[str, Array]]:
    """Return the fused embedding [E], or [G · E] with class queries, and those of all modalities.

    Args:
        weights: the model's parameters by name.
        config: its shape.
        modalities: what the tokens are.
        tokens: per modality [T, dim] as stored, without padding; T is 0 where it is missing.
    """
    lengths = {m.name: len(tokens[m.name]) for m in modalities}
    clip = Clip(
        # a readout token has no time, and is turned as if it stood at 0
        times={m.name: np.append(0.0, mid_times(lengths[m.name], m.rate_hz)) for m in modalities},
        present=[name for name, length in lengths.items() if length] or list(lengths),
    )
    streams = {m.name: embedded(weights, m, tokens[m.name]) for m in modalities}
    shared = weights["bottleneck"]
    for layer in range(config.depth):
        fused = layer >= config.depth - config.fusion_depth
        if fused and config.fusion == "bottleneck":
            streams, shared = bottleneck_layer(
                weights, layer, streams, clip, shared, heads=config.heads
            )
        else:
            streams = attention_layer(
                weights, layer, streams, clip, heads=config.heads, all_see=fused
            )
    by_modality = {}
    for name, x in streams.items():
        block = f"readouts.{name}"
        part = project(weights, block, x, clip.times[name], config.heads)
        parts = []
        own_queries = weights.get(f"class_queries.{name}", ())
        for reader in [x[0], *weights.get(f"queries.{name}", ()), *own_queries]:
            asking = project(weights, block, reader[None], np.zeros(1), config.heads)
            read = update(weights, block, reader[None], attended(asking.queries, [part]))[0]
            parts.append(layer_norm(weights, f"norms.{name}", read))
        own = parts[len(parts) - len(own_queries) :]
        shared = np.concatenate(parts[: len(parts) - len(own_queries)])
        by_modality[name] = linear(weights, f"to_embedding.{name}", shared)
        if own:
            rows = [weights[f"to_group.{name}.weight"] @ part + by_modality[name] for part in own]
            by_modality[name] = np.concatenate(rows)
    return np.mean([by_modality[name] for name in clip.present], axis=0), by_modality
