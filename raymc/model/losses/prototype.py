"""The prototype losses: a clip near the prototypes of its labels, far from those of the others.

Pure torch. `prototype_contrast` is what raymc trains with; `prototype_margin` is the margin
formula it grew from. After R. Gupta et al., *Class Prototypes based Contrastive Learning for
Classifying Multi-Label and Fine-Grained Educational Videos*, CVPR 2023, arXiv 2510.11204.
Axes: B batch (global), C classes, A anchors, K candidates of an anchor.

Throughout, s_ik is the cosine similarity of clip i and prototype k, P_i the observed labels
of clip i, N_i its other observed classes.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import relu, softplus

from raymc.model.losses.masked import (
    masked_logsumexp,
    observed_scores,
    weighted_mean,
    weighted_mean_of_all,
    weights_like,
)


def prototype_contrast(
    scores: Float[Tensor, "B C"],
    labels: Bool[Tensor, "B C"],
    observed: Bool[Tensor, "B C"],
    *,
    margin: float,
    temperature: float,
    two_way: bool = True,
    clip_weight: float = 1.0,
    hard_clips: float = 1.0,
    class_weights: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, ""]:
    """Contrast each label with the classes a clip does not have, and the other way round.

    One way, over clips:

        mean_i 1/|P_i| Σ_{p∈P_i} −log( e_ip / ( e_ip + Σ_{j∈N_i} e^{s_ij/τ} ) ),
        e_ip = e^{(s_ip − m)/τ}

    The other labels of a clip stay out of the denominator, which is what makes it multi-label;
    P. Khosla et al. 2020, *Supervised Contrastive Learning*, Eq. 2 (arXiv 2004.11362), also
    has the mean over positives outside the logarithm. A clip without labels keeps its negative
    part alone: the term of one virtual label at similarity 0. Without negatives the term is 0.

    Two ways, the same term of the transposed matrices is added: a prototype is the anchor, its
    clips are the positives and the other clips of the batch the negatives, so that scores can
    be compared between clips and not only within one. That is what average precision asks for;
    a small `clip_weight` leaves most to it. Over a clip's classes each of its labels has the
    same rivals, so that labels learned long ago go on pushing away those that are rare and
    easily confused.

    Average precision also leaves aside the clips that are ranked far below a class's own.
    `hard_clips` below 1 does likewise: of the batch's clips only those most similar to a
    prototype are its negatives (online hard examples: A. Shrivastava et al. 2016,
    arXiv 1604.03540; the hardest of the batch alone: A. Hermans et al. 2017, arXiv 1703.07737).

    Args:
        scores: Cosine similarities, in [-1, 1].
        labels: The labels of each clip; ignored where unobserved.
        observed: Which entries are known; a clip or class without any does not count.
        margin: m ≥ 0, in units of similarity.
        temperature: τ > 0, in units of similarity.
        two_way: Whether to add the transposed term.
        clip_weight: Weight ≥ 0 of the term over clips where the transposed one is added.
        hard_clips: Share of the batch's clips, in (0, 1], at least one, that a prototype has as
            negatives at most; those with the highest scores.
        class_weights: Weight of each class among the labels of a clip (the mean over P_i
            becomes a weighted one), and in the transposed term of each class that has a clip
            in the batch (a class without any weighs 1).

    Returns:
        The loss ≥ 0; 0 when nothing is observed.
    """
    scores = observed_scores(scores, observed)
    weights = weights_like(scores, class_weights)
    positive, negative = labels & observed, ~labels & observed
    clip_terms = _contrast(
        scores, positive, negative, weights, margin=margin, temperature=temperature
    )
    loss = weighted_mean_of_all(clip_terms, observed.any(dim=1))
    if two_way:
        class_terms = _contrast(
            scores.T,
            positive.T,
            negative.T,
            torch.ones_like(scores[:, 0]),
            margin=margin,
            temperature=temperature,
            share=hard_clips,
        )
        anchor_weights = torch.where(positive.any(dim=0), weights, 1.0) * observed.any(dim=0)
        loss = clip_weight * loss + weighted_mean_of_all(class_terms, anchor_weights)
    return loss


def _contrast(
    scores: Float[Tensor, "A K"],
    positive: Bool[Tensor, "A K"],
    negative: Bool[Tensor, "A K"],
    weights: Float[Tensor, " K"],
    *,
    margin: float,
    temperature: float,
    share: float = 1.0,
) -> Float[Tensor, " A"]:
    """Return the contrast term of each anchor.

    `weights` are those of its positives; its negatives are at most a `share` of the candidates.
    """
    against = masked_logsumexp(scores / temperature, negative, share=share)
    terms = softplus(against[:, None] - (scores - margin) / temperature)
    matched = weighted_mean(terms, positive * weights)
    alone = softplus(against + margin / temperature)
    term = torch.where(positive.any(dim=1), matched, alone)
    return torch.where(negative.any(dim=1), term, 0.0)


def prototype_margin(
    scores: Float[Tensor, "B C"],
    labels: Bool[Tensor, "B C"],
    observed: Bool[Tensor, "B C"],
    *,
    margin: float,
    temperature: float,
    class_weights: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, ""]:
    """Pull a clip to the prototypes of its labels, push the others out of a margin.

        mean_i [ mean_{p∈P_i} d_ip + Σ_{j∈N_i} τ·softplus((m − d_ij)/τ) ],   d = 1 − s in [0, 2]

    As τ → 0 the second part becomes the hinge max(0, m − d_ij), which `temperature=0` is
    exactly. After Gupta et al. 2023 (see the top of this file).

    Args:
        scores: Cosine similarities, in [-1, 1].
        labels: The labels of each clip; ignored where unobserved.
        observed: Which entries are known; a clip without any does not count.
        margin: m ≥ 0, in units of cosine distance.
        temperature: τ ≥ 0, in units of cosine distance.
        class_weights: Weight of each class in the mean over the labels of a clip.

    Returns:
        The loss ≥ 0; 0 when nothing is observed.
    """
    sums = margin_sums(
        scores, labels, observed, class_weights, margin=margin, temperature=temperature
    )
    return margin_of(sums)


def margin_sums(
    scores: Float[Tensor, "B C"],
    labels: Bool[Tensor, "B C"],
    observed: Bool[Tensor, "B C"],
    class_weights: Float[Tensor, " C"] | None,
    *,
    margin: float,
    temperature: float,
) -> Float[Tensor, "4 B"]:
    """Return what `margin_of` needs of each clip, four sums over classes.

    They are the weighted distances to its labels, the weights of these, the intrusions of other
    classes, and the number of observed entries.
    """
    scores = observed_scores(scores, observed)
    weights = weights_like(scores, class_weights)
    positive, negative = labels & observed, ~labels & observed
    distances = 1.0 - scores
    pulls = positive * weights
    intrusion = margin - distances
    push = relu(intrusion) if temperature == 0.0 else softplus(intrusion, beta=1.0 / temperature)
    parts = (distances * pulls, pulls, push * negative, observed)
    return torch.stack([part.sum(dim=1).to(scores) for part in parts])


def margin_of(sums: Float[Tensor, "4 B"]) -> Float[Tensor, ""]:
    """Return `prototype_margin` from the `margin_sums` over all classes."""
    distance, weight, push, known = sums
    pull = distance / torch.where(weight > 0, weight, 1.0)
    return weighted_mean_of_all(pull + push, known > 0)
