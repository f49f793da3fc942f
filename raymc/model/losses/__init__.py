"""The losses, chosen by `loss.name`. Start with `compute_loss`, then `prototype.py`.

Every loss but `supcon` is a function of the same arguments:

    scores [B, C]: cosine similarities in [-1, 1] of clips and prototypes, or logits; `head_of`
        says which.
    labels [B, C]: the labels of each clip; ignored where unobserved.
    observed [B, C]: which entries are known. A clip or a class without any does not count.
    class_weights [C]: weight of each class among labels; None weighs all equally.

It returns a scalar ≥ 0 in float32 or float64, which is 0 with zero gradients if nothing is
observed. `supcon` takes embeddings; its scores are those of a linear probe. `chunked.py` computes
the same losses for very many classes.

raymc/README.md ("Add a loss") lists every file that a new loss needs.

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
    """Return the head that the loss needs: cosine (similarities) or linear (logits)."""
    return "linear" if name in ("bce", "focal", "asl", "supcon") else "cosine"


def compute_loss(
    config: LossConfig,
    scores: Float[Tensor, "B C"],
    labels: Bool[Tensor, "B C"],
    observed: Bool[Tensor, "B C"],
    class_weights: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, ""]:
    """Return the configured loss of the scores of one global batch; for `supcon`, its probe's."""
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
