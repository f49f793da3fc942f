"""AdamW with warm-up and cosine decay. Pure torch.

The learning rate is a function of the step alone, so that a resumed run needs no scheduler
state.
"""

import math

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


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


def make_optimizer(
    model: nn.Module, config: OptimizerConfig, device: torch.device
) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters, fused where the device has it."""
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in trainable if p.ndim > 1 and "prototypes" not in name]
    others = [p for name, p in trainable if p.ndim <= 1 or "prototypes" in name]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, fused=device.type in ("cuda", "cpu"))


def make_average(
    model: nn.Module, config: OptimizerConfig, *, steps_per_epoch: int
) -> AveragedModel | None:
    """Return an exponential moving average of the weights, or None if none is asked for.

    B. Polyak and A. Juditsky 1992, *Acceleration of Stochastic Approximation by Averaging*. The
    decay is e^{−1 / steps of the time constant}, so that a setting means the same for any number
    of rows and any batch size.
    """
    if not config.average_epochs:
        return None
    decay = math.exp(-1.0 / (config.average_epochs * steps_per_epoch))
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def lr_at(step: int, config: OptimizerConfig, *, steps_per_epoch: int, epochs: int) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up, then half a cosine."""
    total = steps_per_epoch * epochs
    warmup = min(total, round(config.warmup_epochs * steps_per_epoch))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
