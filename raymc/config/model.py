"""Settings of the model, the loss and the optimizer.

The names and constants of the losses are here; `raymc/model/losses` computes them.
"""

from typing import Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ModelConfig:
    """The shape of the transformer."""

    width: int = Field(
        default=96, ge=8, description="Width D of a token; a multiple of 2 × `heads`."
    )
    depth: int = Field(
        default=4,
        ge=1,
        description="Transformer layers, including the fused ones; a readout layer follows.",
    )
    fusion_depth: int = Field(
        default=2,
        ge=0,
        description="Number of top layers in which modalities attend to each other. 0 is late "
        "fusion, `depth` is early fusion. A bottleneck passes information from 2 layers up.",
    )
    fusion: Literal["joint", "bottleneck"] = Field(
        default="joint",
        description="joint: all tokens attend to all. bottleneck: modalities exchange information "
        "through a few shared tokens.",
    )
    bottleneck_tokens: int = Field(
        default=4, ge=1, description="Number of shared tokens with `fusion: bottleneck`."
    )
    heads: int = Field(default=4, ge=1, description="Attention heads per layer.")
    readout_queries: int = Field(
        default=0,
        ge=0,
        description="Learned queries that read each modality's tokens in the readout layer, beside "
        "its readout token; they help if the evidence for labels lies at different times.",
    )
    class_queries: int = Field(
        default=0,
        ge=0,
        description="Learned queries that read for some of the classes alone: one a class, or, if "
        "there are more classes, one for each of this many groups of look-alikes, which are found "
        "from the training clips; 0 for none. They help where there are many labels, and take time "
        "in proportion.",
    )
    mlp_ratio: float = Field(
        default=2.0, gt=0, le=32, description="Width of the MLP as a multiple of D."
    )
    embedding_dim: int = Field(
        default=128, ge=2, description="Dimension E of embeddings and prototypes."
    )
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Dropout rate of residual branches."
    )
    token_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Dropout rate of the values of input tokens."
    )
    token_norm: Literal["layer", "none"] = Field(
        default="layer",
        description="Normalisation of each input token, less the training split's mean; none suits "
        "features that are already standardised.",
    )
    shortest_period_seconds: float = Field(
        default=0.2,
        gt=0,
        allow_inf_nan=False,
        description="Shortest period of the waves that say when a token occurs. Below two tokens' "
        "distance, tokens far apart look alike.",
    )
    longest_period_seconds: float = Field(
        default=200.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest period of these waves; clips should be shorter than that.",
    )
    modality_dropout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Probability that a training row loses one of its modalities; at least one is "
        "always kept. Above 0, the model also reads datasets without one of its modalities.",
    )
    absent: Literal["unseen", "seen"] = Field(
        default="unseen",
        description="Whether other modalities see the readout token of a modality that a clip "
        "lacks. seen: as models of raymc 0.1.0 were trained.",
    )

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        if self.fusion_depth > self.depth:
            raise ValueError(f"fusion_depth {self.fusion_depth} is above depth {self.depth}")
        if self.shortest_period_seconds > self.longest_period_seconds:
            raise ValueError(
                f"shortest_period_seconds {self.shortest_period_seconds:g} is above "
                f"longest_period_seconds {self.longest_period_seconds:g}"
            )
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of 2 × heads ({self.heads})")
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
    """The loss and its constants."""

    name: LossName = Field(
        default="prototype_contrast",
        description="The loss. bce, focal and asl train a linear head; supcon trains a linear "
        "probe beside the embedding, and `val/loss` is the loss of that probe.",
    )
    margin: float = Field(
        default=0.1,
        ge=0.0,
        le=2.0,
        description="Margin of the prototype losses and of proxy_anchor, in units of cosine "
        "similarity.",
    )
    temperature: float = Field(
        default=0.1,
        ge=0.0,
        le=10.0,
        description="Divisor of the similarities; 0 gives the hinge form of prototype_margin.",
    )
    two_way: bool = Field(
        default=True,
        description="Whether prototype_contrast also contrasts the clips of each class with each "
        "other.",
    )
    clip_weight: float = Field(
        default=0.2,
        ge=0.0,
        le=10.0,
        description="Weight, in the two-way form, of the term that contrasts the classes of each "
        "clip; the term that contrasts the clips of each class has weight 1.",
    )
    hard_clips: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="Share of the batch's clips, most similar to the prototype first, that count "
        "as negatives of a class in that second term; 1: all. Clips without any observed class "
        "don't count.",
    )
    gamma: float = Field(default=2.0, ge=0.0, le=10.0, description="Focusing exponent of focal.")
    gamma_negative: float = Field(
        default=4.0, ge=0.0, le=10.0, description="Focusing exponent of asl for absent labels."
    )
    gamma_positive: float = Field(
        default=0.0, ge=0.0, le=10.0, description="Focusing exponent of asl for present labels."
    )
    clip: float = Field(
        default=0.05,
        ge=0.0,
        lt=1.0,
        description="Probability below which asl ignores an absent label.",
    )
    modality_weight: float = Field(
        default=0.0,
        ge=0.0,
        le=10.0,
        description="Weight of an extra term: the same loss on each modality's own embedding, "
        "averaged over modalities. It keeps each modality useful by itself.",
    )
    balance: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Exponent of the class weights, (frequency of a class)^−balance: 0 weighs all "
        "classes equally, 1 by inverse frequency.",
    )

    def __post_init__(self) -> None:
        """Refuse a temperature of 0 with a loss that divides by it."""
        if self.temperature == 0.0 and self.name != "prototype_margin":
            raise ValueError(
                f"temperature is 0, which only prototype_margin accepts, but the loss is "
                f"{self.name}; set a temperature above 0, e.g. 0.1"
            )


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class OptimizerConfig:
    """AdamW, its learning-rate schedule and the average of the weights."""

    lr: float = Field(default=2e-3, gt=0, le=1, description="Peak learning rate.")
    weight_decay: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Weight decay of matrices, the linear head's among them; biases, norms and "
        "prototypes have none.",
    )
    warmup_epochs: float = Field(
        default=1.0,
        ge=0,
        allow_inf_nan=False,
        description="Epochs of linear warm-up before the cosine decay to 0.",
    )
    average_epochs: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Time constant, in epochs, of a running average of the weights, which is "
        "validated and saved in their place; 0: no average.",
    )
    clip_norm: float = Field(
        default=1.0, ge=0, description="Maximum norm of the gradients; 0: no clipping."
    )
