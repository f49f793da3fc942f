"""Proxy anchor, the metric-learning baseline: prototypes as anchors, all clips at once.

Pure torch.
Axes: B batch (global), C classes.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from raymc.model.losses.masked import masked_logsumexp, observed_scores, sum_of_means, weights_like


def proxy_anchor(
    scores: Float[Tensor, "B C"],
    labels: Bool[Tensor, "B C"],
    observed: Bool[Tensor, "B C"],
    *,
    margin: float,
    temperature: float,
    class_weights: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, ""]:
    """Pull each prototype to its clips and push it from the others, the hardest ones most.

        1/|K⁺| Σ_{k∈K⁺} log(1 + Σ_{i: k∈P_i} e^{−α(s_ik − δ)})
        + 1/|K| Σ_{k∈K} log(1 + Σ_{i: k∈N_i} e^{α(s_ik + δ)})

    with α = 1/τ and δ the margin. K are the classes observed in the batch and K⁺ those of
    them with a clip, which is how the formula reads for one label per clip too. S. Kim et al.
    2020, *Proxy Anchor Loss for Deep Metric Learning*, Eq. 4, arXiv 2003.13911; they use
    α = 32 and δ = 0.1.

    Args:
        scores: Cosine similarities, in [-1, 1].
        labels: The labels of each clip; ignored where unobserved.
        observed: Which entries are known; a class without any does not count.
        margin: δ ≥ 0, in units of similarity.
        temperature: τ > 0, in units of similarity.
        class_weights: Weight of each class in the mean over K⁺.

    Returns:
        The loss ≥ 0; 0 when nothing is observed.
    """
    sums = anchor_sums(
        scores, labels, observed, class_weights, margin=margin, temperature=temperature
    )
    return sum_of_means(sums)


def anchor_sums(
    scores: Float[Tensor, "B C"],
    labels: Bool[Tensor, "B C"],
    observed: Bool[Tensor, "B C"],
    class_weights: Float[Tensor, " C"] | None,
    *,
    margin: float,
    temperature: float,
) -> Float[Tensor, "2 2"]:
    """Return Σ weight · term and Σ weight over classes, of both parts of `proxy_anchor`."""
    scores = observed_scores(scores, observed)
    positive, negative = labels & observed, ~labels & observed
    pull = softplus(masked_logsumexp((margin - scores.T) / temperature, positive.T))
    push = softplus(masked_logsumexp((margin + scores.T) / temperature, negative.T))
    terms = torch.stack([pull, push], dim=1)
    pull_weights = weights_like(scores, class_weights) * positive.any(dim=0)
    weights = torch.stack([pull_weights, observed.any(dim=0).to(scores)], dim=1)
    return torch.stack([(terms * weights).sum(dim=0), weights.sum(dim=0)])
