"""Focal losses: binary cross entropy with less weight on entries that are easy already.

`focal` treats positives and negatives alike, `asl` does not. For the arguments see `__init__.py`.

Axes: B batch (global), C classes.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from raymc.model.losses.masked import observed_scores, weighted_mean_of_all, weights_like


def focal(
    scores: Float[Tensor, "B C"],
    labels: Bool[Tensor, "B C"],
    observed: Bool[Tensor, "B C"],
    *,
    gamma: float = 2.0,
    class_weights: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, ""]:
    """Focal loss −(1 − p_t)^γ log p_t, averaged over the observed entries.

    p_t is the probability of the truth: p = σ(score) for a label, otherwise 1 − p. T. Lin et al.
    2017, *Focal Loss for Dense Object Detection*, Eq. 4, arXiv 1708.02002; they use γ = 2. They
    divide the sum by the number of matched boxes; here it is divided by the number of observed
    entries, so that γ = 0 gives `bce`.

    Args:
        gamma: γ ≥ 0, the focusing exponent.
    """
    scores = observed_scores(scores, observed)
    signed = torch.where(labels, scores, -scores)
    # (1 − p_t)^γ from its logarithm: if the probability underflows, its power has no gradient.
    focus = torch.exp(gamma * logsigmoid(-signed))
    losses = -focus * logsigmoid(signed)
    factors = torch.where(labels, weights_like(scores, class_weights), 1.0)
    return weighted_mean_of_all(factors * losses, observed)


def asl(
    scores: Float[Tensor, "B C"],
    labels: Bool[Tensor, "B C"],
    observed: Bool[Tensor, "B C"],
    *,
    gamma_negative: float = 4.0,
    gamma_positive: float = 0.0,
    clip: float = 0.05,
    class_weights: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, ""]:
    """Asymmetric loss: negatives are focused harder, and ignored once they are easy.

        −(1 − p)^γ₊ log p           for a label, p = σ(score)
        −p_m^γ₋ log(1 − p_m)        otherwise, p_m = max(p − clip, 0)

    averaged over the observed entries. T. Ridnik et al. 2021, *Asymmetric Loss For Multi-Label
    Classification*, Sec. 2 (Eq. 4 is p_m), arXiv 2009.14119. The defaults are those of the
    authors' MS-COCO script; their class defaults to γ₊ = 1. They sum where we average, which only
    rescales the learning rate, and their script treats the focusing factors as constants, while
    we differentiate the whole formula.

    Args:
        gamma_negative: γ₋ ≥ 0, focusing exponent of the negatives.
        gamma_positive: γ₊ ≥ 0, focusing exponent of the labels.
        clip: Probability in [0, 1) below which a negative does not count.
    """
    scores = observed_scores(scores, observed)
    positive = -torch.exp(gamma_positive * logsigmoid(-scores)) * logsigmoid(scores)
    negative = _clipped_negative(scores, gamma=gamma_negative, clip=clip)
    losses = torch.where(labels, weights_like(scores, class_weights) * positive, negative)
    return weighted_mean_of_all(losses, observed)


def _clipped_negative(
    scores: Float[Tensor, "B C"], *, gamma: float, clip: float
) -> Float[Tensor, "B C"]:
    """Return −p_m^γ log(1 − p_m) of each logit, with finite value and gradient for any logit."""
    probability = torch.sigmoid(scores)
    counts = probability > clip
    shifted = torch.where(counts, probability - clip, 1.0)
    log_clip = scores.new_full((), math.log(clip) if clip > 0.0 else -math.inf)
    log_rest = torch.logaddexp(logsigmoid(-scores), log_clip)
    return torch.where(counts, -shifted.pow(gamma) * log_rest, 0.0)
