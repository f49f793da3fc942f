"""AdamW with warm-up and cosine decay, and the running average of the weights.

The learning rate is a function of the step, so that a resumed run needs no scheduler state.
"""

import copy
import math
from inspect import unwrap

import torch
from torch import nn

from raymc.config import OptimizerConfig


class _AdamW(torch.optim.AdamW):
    """PyTorch's AdamW without the wrappers that keep its compiler out of these methods.

    To do that, the wrappers load the compiler, which takes as long as loading the rest of PyTorch.
    Here only the model and the loss are ever compiled.
    """

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    load_state_dict = unwrap(torch.optim.AdamW.load_state_dict)
    state_dict = unwrap(torch.optim.AdamW.state_dict)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)


def make_optimizer(
    model: nn.Module, config: OptimizerConfig, device: torch.device, *, is_cosine: bool = True
) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters, fused if the device supports it.

    `is_cosine` says that the parameter `prototypes` is of a cosine head, not a linear classifier.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    # Only the direction of a prototype counts, so decay would only change its learning rate.
    spared = {"prototypes"} if is_cosine else set()
    decaying = [p for name, p in trainable if p.ndim > 1 and name not in spared]
    others = [p for name, p in trainable if p.ndim <= 1 or name in spared]
    groups = [
        {"params": decaying, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return _AdamW(groups, lr=config.lr, fused=device.type in ("cuda", "cpu"))


class WeightAverage:
    """An exponential moving average of a model's weights, in a second model.

    After t updates it is Σ_k β^{t−k} w_k / Σ_k β^{t−k}, with w_k the weights after step k and the
    decay β: bias correction as in D. Kingma and J. Ba 2015, *Adam*, section 3, arXiv 1412.6980.
    Without it the first weights, which know nothing, would stay in the average for its whole time
    constant. PyTorch's `AveragedModel` has no such correction.

    Attributes:
        model: The model with the averaged weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self._decay = copy.deepcopy(model), decay

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int) -> None:
        """Move the average towards the weights of `model` after this step, counted from 1."""
        averages, weights = ([p.data for p in m.parameters()] for m in (self.model, model))
        share = (1 - self._decay) / (1 - self._decay**step)  # 1 in the first step
        torch._foreach_lerp_(averages, weights, share)  # pyright: ignore


def make_average(
    model: nn.Module, config: OptimizerConfig, *, steps_per_epoch: int
) -> WeightAverage | None:
    """Return a running average of the weights, or None if none is configured.

    B. Polyak and A. Juditsky 1992, *Acceleration of Stochastic Approximation by Averaging*. The
    decay is β = e^{−1/n} with n the steps of the time constant, so that a setting means the same
    for any dataset and batch size.
    """
    if not config.average_epochs:
        return None
    decay = math.exp(-1.0 / (config.average_epochs * steps_per_epoch))
    return WeightAverage(model, decay)


def lr_at(step: int, config: OptimizerConfig, *, steps_per_epoch: int, epochs: int) -> float:
    """Return the learning rate of a step, from 0: linear warm-up, then half a cosine.

    After the warm-up it is lr/2 · (1 + cos(π · share of the remaining steps done)): I. Loshchilov
    and F. Hutter 2017, *SGDR*, Eq. 5, arXiv 1608.03983, without restarts.
    """
    total = steps_per_epoch * epochs
    warmup = min(total, round(config.warmup_epochs * steps_per_epoch))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
