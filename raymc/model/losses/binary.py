"""Binary cross entropy: each class decided by itself, the baseline of multi-label learning.

Pure torch. On logits (`bce`), or on the similarities of the same normalised head that the
prototype losses use (`cosine_bce`), so that the loss alone differs.
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

    Args:
        scores: Logits.
        labels: The labels of each clip; ignored where unobserved.
        observed: Which entries are known.
        class_weights: Factor of each class's positive entries (`pos_weight` of PyTorch); the
            mean still divides by the number of observed entries.

    Returns:
        The loss ≥ 0; 0 when nothing is observed.
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
    """Binary cross entropy with similarities divided by the temperature as logits.

    Args:
        scores: Cosine similarities, in [-1, 1].
        labels: The labels of each clip; ignored where unobserved.
        observed: Which entries are known.
        temperature: τ > 0, in units of similarity.
        class_weights: Factor of each class's positive entries, as in `bce`.

    Returns:
        The loss ≥ 0; 0 when nothing is observed.
    """
    logits = observed_scores(scores, observed) / temperature
    return bce(logits, labels, observed, class_weights=class_weights)
