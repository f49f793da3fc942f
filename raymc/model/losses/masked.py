"""Reductions over the observed part of a batch: the arithmetic that every loss shares.

Pure torch. It exists so that no loss meets a NaN of its own making: what is masked out is
replaced before it is computed with, and an empty mean is 0 with a graph and zero gradients.
Axes: B batch (global), C classes, A anchors, K candidates of an anchor, M means.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def observed_scores(
    scores: Float[Tensor, "B C"], observed: Bool[Tensor, "B C"]
) -> Float[Tensor, "B C"]:
    """Return the scores in float32 (float64 stays) with every unobserved one set to 0."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return torch.where(observed, scores, 0.0)


def weights_like(
    scores: Float[Tensor, "B C"], class_weights: Float[Tensor, " C"] | None
) -> Float[Tensor, " C"]:
    """Return the class weights in the scores' precision and place; ones where there are none."""
    if class_weights is None:
        return scores.new_ones(scores.shape[1])
    return class_weights.to(scores)


def weighted_mean(
    values: Float[Tensor, "A K"], weights: Float[Tensor, "A K"] | Bool[Tensor, "A K"]
) -> Float[Tensor, " A"]:
    """Mean of each anchor's finite `values` by `weights` ≥ 0; 0 where all weights are 0."""
    weights = weights.to(values)
    total = weights.sum(dim=1)
    return (values * weights).sum(dim=1) / torch.where(total > 0, total, 1.0)


def weighted_mean_of_all(
    values: Float[Tensor, "..."], weights: Float[Tensor, "..."] | Bool[Tensor, "..."]
) -> Float[Tensor, ""]:
    """Mean of all finite `values` by `weights` ≥ 0; 0 where all weights are 0."""
    return weighted_mean(values.reshape(1, -1), weights.reshape(1, -1))[0]


def sum_of_means(sums: Float[Tensor, "2 M"]) -> Float[Tensor, ""]:
    """Add up weighted means, each from its Σ weight · value and Σ weight ≥ 0; 0 where that is 0."""
    totals, weights = sums
    return (totals / torch.where(weights > 0, weights, 1.0)).sum()


def masked_logsumexp(
    values: Float[Tensor, "A K"], mask: Bool[Tensor, "A K"], *, share: float = 1.0
) -> Float[Tensor, " A"]:
    """Log of the sum of e^value over each anchor's masked-in candidates, or the largest of them.

    Where nothing is masked in it is `log_zero`. With a `share` below 1 at most that share of all
    candidates counts.
    """
    masked = torch.where(mask, values, log_zero(values.dtype))
    return largest(masked, share, dim=1).logsumexp(dim=1)


def largest(values: Float[Tensor, "_ _"], share: float, *, dim: int) -> Float[Tensor, "_ _"]:
    """Return the largest values along `dim`, that share of them and at least one."""
    size = values.shape[dim]
    count = min(size, max(1, round(share * size)))
    return values if count == size else values.topk(count, dim=dim, sorted=False).values


def log_zero(dtype: torch.dtype) -> float:
    """Return what stands for the logarithm of 0: huge and finite, as −∞ has NaN for a gradient."""
    return torch.finfo(dtype).min / 2


# Weights for the long tail: how much more a rare class counts. Pure torch; computed once from the
# training labels, then handed to every loss. Axes: C classes.


def class_weights(
    counts: Int[Tensor, " C"] | Int[np.ndarray, " C"], balance: float
) -> Float[Tensor, " C"]:
    """Return w_k ∝ (count of k)^−balance with mean 1.

    Args:
        counts: Number of clips with each label in the training data.
        balance: In [0, 1]: 0 weighs all classes alike, 1 by inverse frequency.

    Returns:
        float32 weights > 0. A class without clips weighs 1 and leaves the others as they are.
    """
    counted = torch.as_tensor(counts).to(torch.float64)
    present = counted > 0
    powers = torch.where(present, counted, 1.0).pow(-balance)
    mean = weighted_mean_of_all(powers, present)
    return torch.where(present, powers / mean, 1.0).to(torch.float32)
