"""The prototype losses: clips move towards the prototypes of their labels, away from all others.

`prototype_contrast` is the default loss; `prototype_margin` is the margin formula it is based on.
After R. Gupta et al., *Class Prototypes based Contrastive Learning for Classifying Multi-Label and
Fine-Grained Educational Videos*, CVPR 2023, arXiv 2510.11204. For the arguments see `__init__.py`.

s_ik is the cosine similarity of clip i and prototype k, P_i the observed labels of clip i, N_i its
other observed classes, m the margin and τ the temperature.

Axes: B batch (global), C classes, A anchors, K candidates of an anchor.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import relu, softplus

from raymc.model.losses.masked import (
    hardest,
    log_zero,
    observed_scores,
    weighted_mean,
    weighted_mean_of_all,
    weights_like,
)

# Weight of a class without a clip in the batch. With hundreds of classes, a smaller one leaves
# scores of different classes hard to compare, and a larger one costs mAP (jobs/EXPERIMENTS.md).
ABSENT_WEIGHT = 0.1


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
    """Contrast each label with the classes that a clip does not have, and vice versa.

    One way, the anchors are clips:

        mean_i 1/|P_i| Σ_{p∈P_i} −log( e_ip / ( e_ip + Σ_{j∈N_i} e^{s_ij/τ} ) ),
        e_ip = e^{(s_ip − m)/τ}

    A clip's other labels are not in the denominator; this is what makes the loss multi-label. As
    in P. Khosla et al. 2020, *Supervised Contrastive Learning*, Eq. 2 (arXiv 2004.11362), the
    mean over positives is outside the logarithm. A clip without labels keeps its negative part:
    the term of one virtual label at similarity 0. Without negatives the term is 0.

    Two ways, terms c_k of the transposed matrices are added: the anchors are the prototypes, with
    the clips of their class as positives and all other clips as negatives,

        1/|K| Σ_{k∈K} c_k + a/C Σ_{k∉K} c_k,   a = `ABSENT_WEIGHT`

    where K are the classes with a clip in the batch, of C classes. This makes scores comparable
    between clips, which average precision needs: it ranks the clips of a class. A small
    `clip_weight` gives it most of the weight. In the first term all labels of a clip have the same
    rivals, so that frequent labels keep pushing away rare, easily confused classes.

    Absent classes only push: their c_k has one virtual clip at similarity 0. Without them, scores
    of rare classes stay too high to be ranked together with those of frequent ones. They are not
    in the mean of the others: where there are hundreds of classes most are absent, and would leave
    little weight to those that are present. Where few are absent, they hardly count.

    Clips ranked far below a class's own do not matter to average precision either. `hard_clips`
    below 1 keeps only the clips most similar to a prototype as its negatives (online hard example
    mining: A. Shrivastava et al. 2016, arXiv 1604.03540; the hardest of the batch: A. Hermans
    et al. 2017, arXiv 1703.07737).

    Args:
        margin: m ≥ 0, in units of similarity.
        temperature: τ > 0, in units of similarity.
        two_way: Whether to add the transposed term.
        clip_weight: Weight ≥ 0 of the first term if the transposed one is added.
        hard_clips: Largest share, in (0, 1], of the batch's clips with anything observed that
            are negatives of a prototype; at least one clip, highest scores first.
        class_weights: Weight of each class in the mean over P_i and in the transposed term.
    """
    scores = observed_scores(scores, observed)
    weights = weights_like(scores, class_weights)
    positive, negative = labels & observed, ~labels & observed
    known, pulls = observed.any(dim=1), (scores - margin) / temperature
    rivals = torch.where(negative, scores / temperature, log_zero(scores.dtype))
    virtual = -margin / temperature
    clip_terms = _contrast(pulls, positive * weights, rivals.logsumexp(dim=1), virtual)
    loss = weighted_mean_of_all(clip_terms, known)
    if two_way:
        against = hardest(rivals, hard_clips, known).logsumexp(dim=0)
        class_terms = _contrast(pulls.T, positive.T.to(pulls), against, virtual)
        present, seen = positive.any(dim=0), observed.any(dim=0)
        loss = clip_weight * loss + mean_of_classes(class_terms, weights, present, seen)
    return loss


def mean_of_classes(
    terms: Float[Tensor, " C"],
    weights: Float[Tensor, " C"],
    present: Bool[Tensor, " C"],
    seen: Bool[Tensor, " C"],
) -> Float[Tensor, ""]:
    """Return the mean of present classes' terms, and `ABSENT_WEIGHT` / C times the sum of others'.

    Args:
        terms: The contrast term of each class.
        weights: Of the classes.
        present: Which classes have a clip in the batch.
        seen: Which classes have any observed entry; others don't count.
    """
    absent = weighted_mean_of_all(torch.where(present, 0.0, terms), weights * seen)
    return weighted_mean_of_all(terms, weights * present) + ABSENT_WEIGHT * absent


def _contrast(
    pulls: Float[Tensor, "A K"],
    weights: Float[Tensor, "A K"],
    rivals: Float[Tensor, " A"],
    virtual: float,
) -> Float[Tensor, " A"]:
    """Return the contrast term of each anchor.

    Args:
        pulls: Logits of its candidates, less the margin.
        weights: Of its positives among the candidates; 0 for others.
        rivals: Log-sum-exp of the logits of its negatives; `log_zero` if it has none.
        virtual: Stands for the pull of an anchor without positives.
    """
    # −log( e^a / (e^a + Σ_j e^b_j) ) = softplus( log Σ_j e^b_j − a ), which cannot overflow.
    matched = weighted_mean(softplus(rivals[:, None] - pulls), weights)
    term = torch.where(weights.any(dim=1), matched, softplus(rivals - virtual))
    return torch.where(rivals <= log_zero(rivals.dtype), 0.0, term)


def prototype_margin(
    scores: Float[Tensor, "B C"],
    labels: Bool[Tensor, "B C"],
    observed: Bool[Tensor, "B C"],
    *,
    margin: float,
    temperature: float,
    class_weights: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, ""]:
    """Pull a clip to the prototypes of its labels, and push all others out of a margin.

        mean_i [ mean_{p∈P_i} d_ip + Σ_{j∈N_i} τ·softplus((m − d_ij)/τ) ],   d = 1 − s in [0, 2]

    As τ → 0 the second part becomes the hinge max(0, m − d_ij), which `temperature=0` computes
    exactly. After Gupta et al. 2023 (see the top of this file).

    Args:
        margin: m ≥ 0, in units of cosine distance.
        temperature: τ ≥ 0, in units of cosine distance.
        class_weights: Weight of each class in the mean over the labels of a clip.
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
    """Return four sums over classes for each clip, from which `margin_of` makes the loss.

    They are the weighted distances to its labels, their weights, the intrusions of other classes
    into the margin, and the number of observed entries.
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
    """Return `prototype_margin` from its `margin_sums`."""
    distance, weight, push, known = sums
    pull = distance / torch.where(weight > 0, weight, 1.0)
    return weighted_mean_of_all(pull + push, known > 0)
