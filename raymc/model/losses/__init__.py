"""The losses under one configuration key: what to train with, and on which head.

Pure torch. Every loss is a function of (scores, labels, observed); the scores are cosine
similarities of clips and prototypes, or logits, as `head_of` says. `supcon` alone is one of the
embeddings, and its scores are a probe's.
Axes: B batch (global), C classes.
"""

from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from raymc.config import LossConfig, LossName
from raymc.model.losses.binary import bce, cosine_bce
from raymc.model.losses.focal import asl, focal
from raymc.model.losses.masked import class_weights
from raymc.model.losses.prototype import prototype_contrast, prototype_margin
from raymc.model.losses.proxy_anchor import proxy_anchor
from raymc.model.losses.supcon import supcon

__all__ = [
    "LossConfig",
    "LossName",
    "asl",
    "bce",
    "class_weights",
    "compute_loss",
    "cosine_bce",
    "focal",
    "head_of",
    "prototype_contrast",
    "prototype_margin",
    "proxy_anchor",
    "supcon",
]


def head_of(name: LossName) -> Literal["cosine", "linear"]:
    """Return the head whose scores the loss takes: similarities (cosine) or logits (linear)."""
    return "linear" if name in ("bce", "focal", "asl", "supcon") else "cosine"


def compute_loss(
    config: LossConfig,
    scores: Float[Tensor, "B C"],
    labels: Bool[Tensor, "B C"],
    observed: Bool[Tensor, "B C"],
    class_weights: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, ""]:
    """Return the configured loss of one global batch's scores; of `supcon`, its probe's.

    Args:
        config: Which loss, and its constants.
        scores: What the head of `head_of(config.name)` gives.
        labels: The labels of each clip; ignored where unobserved.
        observed: Which entries are known.
        class_weights: From `class_weights(counts, config.balance)`; None weighs all alike.

    Returns:
        The loss, in float32 at least; 0 with zero gradients when nothing is observed.
    """
    batch = (scores, labels, observed)
    margin, temperature = config.margin, config.temperature
    match config.name:
        case "prototype_contrast":
            return prototype_contrast(
                *batch,
                margin=margin,
                temperature=temperature,
                two_way=config.two_way,
                clip_weight=config.clip_weight,
                hard_clips=config.hard_clips,
                class_weights=class_weights,
            )
        case "prototype_margin":
            return prototype_margin(
                *batch, margin=margin, temperature=temperature, class_weights=class_weights
            )
        case "proxy_anchor":
            return proxy_anchor(
                *batch, margin=margin, temperature=temperature, class_weights=class_weights
            )
        case "cosine_bce":
            return cosine_bce(*batch, temperature=temperature, class_weights=class_weights)
        case "bce" | "supcon":
            return bce(*batch, class_weights=class_weights)
        case "focal":
            return focal(*batch, gamma=config.gamma, class_weights=class_weights)
        case "asl":
            return asl(
                *batch,
                gamma_negative=config.gamma_negative,
                gamma_positive=config.gamma_positive,
                clip=config.clip,
                class_weights=class_weights,
            )
