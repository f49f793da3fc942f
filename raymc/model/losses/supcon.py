"""Supervised contrast of clips with clips, the baseline without prototypes.

Pure torch. What it learns is an embedding; scores come from a linear probe beside it, which is
trained by `bce` and sends no gradient back.
Axes: B batch (global), C classes, E embedding dim.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from raymc.model.losses.masked import masked_logsumexp, weighted_mean, weighted_mean_of_all

# Marks become numbers a chunk of classes at a time: of a million classes all would take gigabytes.
CLASSES_AT_ONCE = 2**14


def supcon(
    embedding: Float[Tensor, "B E"],
    labels: Bool[Tensor, "B C"],
    observed: Bool[Tensor, "B C"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Pull clips that share a label together, and push them from the others.

        mean_i 1/|S_i| Σ_{p∈S_i} −log( e^{z_i·z_p/τ} / Σ_{a∈A_i} e^{z_i·z_a/τ} )

    z are unit embeddings, S_i the other clips that share a label with clip i, A_i those and the
    ones that can't share any; where it isn't known, two clips stay out of each other's terms.
    P. Khosla et al. 2020, *Supervised Contrastive Learning*, Eq. 2 (arXiv 2004.11362), where
    each clip has one label.

    Args:
        embedding: Of the clips; normalised here.
        labels: The labels of each clip; ignored where unobserved.
        observed: Which entries are known.
        temperature: τ > 0, in units of similarity.

    Returns:
        The mean over the clips that share a label with another, ≥ 0, in float32 at least; 0 where
        there is none.
    """
    embedding = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
    with torch.autocast(embedding.device.type, enabled=False):  # it would round the products
        unit = normalize(embedding, dim=-1)
        logits = unit @ unit.T / temperature
    others = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    share, may_share = _overlaps(labels & observed), _overlaps(labels | ~observed)
    positives, candidates = share & others, (share | ~may_share) & others
    terms = masked_logsumexp(logits, candidates)[:, None] - logits
    return weighted_mean_of_all(weighted_mean(terms, positives), positives.any(dim=1))


def _overlaps(marks: Bool[Tensor, "B C"]) -> Bool[Tensor, "B B"]:
    """Say of each two clips whether some class is marked in both."""
    found = marks.new_zeros(len(marks), len(marks))
    with torch.autocast(marks.device.type, enabled=False):
        for chunk in marks.split(CLASSES_AT_ONCE, dim=1):
            numbers = chunk.float()
            found |= numbers @ numbers.T > 0
    return found
