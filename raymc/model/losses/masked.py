"""Reductions over the observed part of a batch, shared by all losses.

They keep NaN out of losses and gradients: masked values are replaced before any arithmetic, and
an empty mean is 0 with zero gradients.

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
    """Return the class weights with the scores' dtype and device; ones if there are none."""
    if class_weights is None:
        return scores.new_ones(scores.shape[1])
    return class_weights.to(scores)


def weighted_mean(
    values: Float[Tensor, "A K"], weights: Float[Tensor, "A K"] | Bool[Tensor, "A K"]
) -> Float[Tensor, " A"]:
    """Return each anchor's mean of finite `values`, weighted by `weights` ≥ 0; 0 if all are 0."""
    weights = weights.to(values)
    total = weights.sum(dim=1)
    return (values * weights).sum(dim=1) / torch.where(total > 0, total, 1.0)


def weighted_mean_of_all(
    values: Float[Tensor, "..."], weights: Float[Tensor, "..."] | Bool[Tensor, "..."]
) -> Float[Tensor, ""]:
    """Return the mean of all finite `values`, weighted by `weights` ≥ 0; 0 if all are 0."""
    return weighted_mean(values.reshape(1, -1), weights.reshape(1, -1))[0]


def sum_of_means(sums: Float[Tensor, "2 M"]) -> Float[Tensor, ""]:
    """Add weighted means, each given as Σ weight · value and Σ weight ≥ 0; 0 if the latter is 0."""
    totals, weights = sums
    return (totals / torch.where(weights > 0, weights, 1.0)).sum()


def masked_logsumexp(
    values: Float[Tensor, "A K"], mask: Bool[Tensor, "A K"]
) -> Float[Tensor, " A"]:
    """Return log Σ e^value over each anchor's candidates with a true mask; `log_zero` if none."""
    return torch.where(mask, values, log_zero(values.dtype)).logsumexp(dim=1)


def hardest(
    values: Float[Tensor, "B K"], share: float, known: Bool[Tensor, " B"]
) -> Float[Tensor, "_ K"]:
    """Return the largest values of each column: this share of the `known` clips, at least one.

    A clip is known if any of its entries was observed. Rows that only pad the shares of workers
    are not, so that any number of workers finds the same values. There may be more rows than
    that, of `log_zero`: to read the number of known clips would wait for the device in each step.
    """
    most = min(len(values), max(1, round(share * len(values))))
    if most == len(values):
        return values
    largest = values.topk(most, dim=0).values
    counted = (share * known.sum(dtype=torch.float64)).round().clamp(min=1)
    is_counted = torch.arange(most, device=values.device) < counted
    return torch.where(is_counted[:, None], largest, log_zero(values.dtype))


def log_zero(dtype: torch.dtype) -> float:
    """Return the stand-in for log 0: very negative but finite, as −∞ would give NaN gradients."""
    return torch.finfo(dtype).min / 2


def class_weights(
    counts: Int[Tensor, " C"] | Int[np.ndarray, " C"], balance: float
) -> Float[Tensor, " C"]:
    """Return weights for long-tailed labels, w_k ∝ (count of k)^−balance, with mean 1.

    Args:
        counts: Number of clips with each label in the training data.
        balance: In [0, 1]: 0 weighs all classes equally, 1 by inverse frequency.

    Returns:
        float32 weights > 0. A class without clips weighs 1 and is left out of the mean.
    """
    counted = torch.as_tensor(counts).to(torch.float64)
    present = counted > 0
    powers = torch.where(present, counted, 1.0).pow(-balance)
    mean = weighted_mean_of_all(powers, present)
    return torch.where(present, powers / mean, 1.0).to(torch.float32)
