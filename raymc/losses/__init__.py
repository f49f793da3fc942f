"""The losses under one configuration key: what to train with, and on which head.

Pure torch. Every loss is a function of (scores, labels, observed); the scores are cosine
similarities of clips and prototypes, or logits, as `head_of` says. `supcon` alone is one of the
embeddings, and its scores are a probe's.
Axes: B batch (global), C classes.
"""

from typing import Literal

from jaxtyping import Bool, Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from raymc.losses.balance import class_weights
from raymc.losses.binary import bce, cosine_bce
from raymc.losses.focal import asl, focal
from raymc.losses.prototype import prototype_contrast, prototype_margin
from raymc.losses.proxy_anchor import proxy_anchor
from raymc.losses.supcon import supcon

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

LossName = Literal[
    "prototype_contrast",
    "prototype_margin",
    "proxy_anchor",
    "cosine_bce",
    "bce",
    "focal",
    "asl",
    "supcon",
]


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class LossConfig:
    """Which loss trains the model, and its constants.

    Raises:
        ValueError: A value out of range, or a temperature of 0 with a loss that divides by it.
    """

    name: LossName = Field(
        default="prototype_contrast",
        description="The loss; bce, focal and asl have a linear head, and supcon a linear probe "
        "beside it, whose loss alone is `val/loss`.",
    )
    margin: float = Field(
        default=0.1,
        ge=0.0,
        le=2.0,
        description="Margin of the prototype losses and of proxy_anchor, in units of similarity.",
    )
    temperature: float = Field(
        default=0.1,
        ge=0.0,
        le=10.0,
        description="What similarities are divided by; 0 is the hinge of prototype_margin.",
    )
    two_way: bool = Field(
        default=True,
        description="Whether prototype_contrast also contrasts the clips of each class.",
    )
    clip_weight: float = Field(
        default=0.2,
        ge=0.0,
        le=10.0,
        description="Weight, in the two-way form, of the contrast of each clip's classes beside "
        "that of each class's clips; 0 leaves the latter alone.",
    )
    hard_clips: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="Share of the batch's clips, those most similar to its prototype, that a "
        "class has as negatives at most in that contrast; 1 is all.",
    )
    gamma: float = Field(default=2.0, ge=0.0, le=10.0, description="Focusing exponent of focal.")
    gamma_negative: float = Field(
        default=4.0, ge=0.0, le=10.0, description="Focusing exponent of asl for negatives."
    )
    gamma_positive: float = Field(
        default=0.0, ge=0.0, le=10.0, description="Focusing exponent of asl for labels."
    )
    clip: float = Field(
        default=0.05,
        ge=0.0,
        lt=1.0,
        description="Probability below which asl drops a negative.",
    )
    modality_weight: float = Field(
        default=0.0,
        ge=0.0,
        le=10.0,
        description="Weight of the same loss of each modality's own embedding, averaged over "
        "the modalities, so that none of them leans on another.",
    )
    balance: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="How far rare classes weigh more: 0 not at all, 1 by inverse frequency.",
    )

    def __post_init__(self) -> None:
        """Refuse the one pair of values that is in range and still meaningless."""
        if self.temperature == 0.0 and self.name != "prototype_margin":
            raise ValueError(
                f"temperature is 0, which only prototype_margin accepts, but the loss is "
                f"{self.name}; set a temperature above 0, e.g. 0.1"
            )


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
