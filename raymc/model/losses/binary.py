"""Binary cross entropy: decides each class independently; the baseline of multi-label learning.

`bce` takes logits. `cosine_bce` takes the similarities that the prototype losses use, so that a
comparison with them differs in the loss only. For the arguments see `__init__.py`.

Axes: B batch (global), C classes.
"""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from raymc.model.losses.masked import observed_scores, weighted_mean_of_all, weights_like


def bce(
    scores: Float[Tensor, "B C"],
    labels: Bool[Tensor, "B C"],
    observed: Bool[Tensor, "B C"],
    *,
    class_weights: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, ""]:
    """Binary cross entropy of logits, averaged over the observed entries.

        mean_{ik observed} −[ w_k y_ik log σ(s_ik) + (1 − y_ik) log(1 − σ(s_ik)) ]

    `class_weights` w are PyTorch's `pos_weight`: they multiply the terms of labels, while the mean
    still divides by the number of observed entries.
    """
    scores = observed_scores(scores, observed)
    losses = binary_cross_entropy_with_logits(
        scores,
        labels.to(scores),
        reduction="none",
        pos_weight=weights_like(scores, class_weights),
    )
    return weighted_mean_of_all(losses, observed)


def cosine_bce(
    scores: Float[Tensor, "B C"],
    labels: Bool[Tensor, "B C"],
    observed: Bool[Tensor, "B C"],
    *,
    temperature: float,
    class_weights: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, ""]:
    """`bce` with the logits s / τ, where s are similarities and τ > 0 the temperature."""
    logits = observed_scores(scores, observed) / temperature
    return bce(logits, labels, observed, class_weights=class_weights)
