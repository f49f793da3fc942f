"""Proxy anchor, the metric-learning baseline: each prototype is an anchor for all clips.

For the arguments see `__init__.py`.

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
    """Pull each prototype to its clips and push it away from the others, the hardest ones most.

        1/|K⁺| Σ_{k∈K⁺} log(1 + Σ_{i: k∈P_i} e^{−α(s_ik − δ)})
        + 1/|K| Σ_{k∈K} log(1 + Σ_{i: k∈N_i} e^{α(s_ik + δ)})

    with α = 1/τ and δ the margin. K are the classes observed in the batch and K⁺ those of them
    with a clip in it; for one label per clip this is the original formula. S. Kim et al. 2020,
    *Proxy Anchor Loss for Deep Metric Learning*, Eq. 4, arXiv 2003.13911; they use α = 32 and
    δ = 0.1.

    Args:
        margin: δ ≥ 0, in units of similarity.
        temperature: τ > 0, in units of similarity.
        class_weights: Weight of each class in the mean over K⁺.
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
    """Return Σ weight · term and Σ weight over classes, for both parts of `proxy_anchor`."""
    scores = observed_scores(scores, observed)
    positive, negative = labels & observed, ~labels & observed
    # log(1 + Σ e^a) = softplus( log Σ e^a )
    pull = softplus(masked_logsumexp((margin - scores.T) / temperature, positive.T))
    push = softplus(masked_logsumexp((margin + scores.T) / temperature, negative.T))
    terms = torch.stack([pull, push], dim=1)
    pull_weights = weights_like(scores, class_weights) * positive.any(dim=0)
    weights = torch.stack([pull_weights, observed.any(dim=0).to(scores)], dim=1)
    return torch.stack([(terms * weights).sum(dim=0), weights.sum(dim=0)])
