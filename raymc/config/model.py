"""Settings of the model, the loss and the optimizer."""

from typing import Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ModelConfig:
    """The shape of the transformer."""

    width: int = Field(default=96, ge=8, description="Token width D; a multiple of 2 × `heads`.")
    depth: int = Field(
        default=4,
        ge=1,
        description="Transformer layers, fused ones included; a readout layer follows.",
    )
    fusion_depth: int = Field(
        default=2,
        ge=0,
        description="Layers, counted from the top, in which modalities attend to each other: "
        "0 is late fusion, `depth` early fusion; through a bottleneck they exchange from 2 on.",
    )
    fusion: Literal["joint", "bottleneck"] = Field(
        default="joint",
        description="All tokens attend to all, or through a few shared bottleneck tokens.",
    )
    bottleneck_tokens: int = Field(
        default=4, ge=1, description="Shared tokens of `fusion: bottleneck`."
    )
    heads: int = Field(default=4, ge=1, description="Attention heads.")
    readout_queries: int = Field(
        default=0,
        ge=0,
        description="Learned queries that look at each modality's tokens in the readout layer, "
        "beside its readout token: what tells a clip's labels may lie at different times.",
    )
    mlp_ratio: float = Field(default=2.0, gt=0, le=32, description="Width of the MLP over D.")
    embedding_dim: int = Field(default=128, ge=2, description="Dimension E of the prototypes.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Dropout of residual branches.")
    token_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Dropout of the values of the tokens read."
    )
    token_norm: Literal["layer", "none"] = Field(
        default="layer",
        description="Norm of each token read; none keeps the values of features that are "
        "standardised already.",
    )
    modality_dropout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Chance that a training row loses one of its modalities, never the last.",
    )

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        if self.fusion_depth > self.depth:
            raise ValueError(f"fusion_depth {self.fusion_depth} is above depth {self.depth}")
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is no multiple of 2 × heads ({self.heads})")
        return self


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


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class OptimizerConfig:
    """How weights are updated."""

    lr: float = Field(default=2e-3, gt=0, le=1, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(
        default=0.05, ge=0, le=1, description="Decay of matrices; biases and norms have none."
    )
    warmup_epochs: float = Field(
        default=1.0,
        ge=0,
        allow_inf_nan=False,
        description="Epochs of linear warm-up before the cosine decay.",
    )
    average_epochs: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Time constant, in epochs, of the running average of the weights that is "
        "validated and kept; 0 takes the weights as they are.",
    )
    clip_norm: float = Field(
        default=1.0, ge=0, description="Largest norm of the gradients; 0 switches clipping off."
    )
