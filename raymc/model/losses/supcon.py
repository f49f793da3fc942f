"""Supervised contrast of clips with clips, the baseline without prototypes.

It trains an embedding; scores come from a linear probe, which `bce` trains beside it without
sending gradients back.

Axes: B batch (global), C classes, E embedding dim.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from raymc.model.losses.masked import masked_logsumexp, weighted_mean, weighted_mean_of_all

# Classes converted to float32 at a time: a million classes at once would take gigabytes.
CLASSES_AT_ONCE = 2**14


def supcon(
    embedding: Float[Tensor, "B E"],
    labels: Bool[Tensor, "B C"],
    observed: Bool[Tensor, "B C"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Pull clips that share a label together, and push them away from the others.

        mean_i 1/|S_i| Σ_{p∈S_i} −log( e^{z_i·z_p/τ} / Σ_{a∈A_i} e^{z_i·z_a/τ} )

    z are unit embeddings, S_i the other clips that share a label with clip i, and A_i those plus
    the clips that certainly share none. If unobserved labels leave this open, two clips stay out
    of each other's terms. P. Khosla et al. 2020, *Supervised Contrastive Learning*, Eq. 2 (arXiv
    2004.11362), where each clip has one label.

    Args:
        embedding: Embeddings of the clips; normalised here.
        labels: The labels of each clip; ignored where unobserved.
        observed: Which entries are known.
        temperature: τ > 0, in units of similarity.

    Returns:
        The mean over the clips that share a label with another, ≥ 0, in float32 or float64; 0 if
        there is none.
    """
    embedding = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
    with torch.autocast(embedding.device.type, enabled=False):  # which would round the products
        unit = normalize(embedding, dim=-1)
        logits = unit @ unit.T / temperature
    others = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    share, may_share = _overlaps(labels & observed), _overlaps(labels | ~observed)
    positives, candidates = share & others, (share | ~may_share) & others
    terms = masked_logsumexp(logits, candidates)[:, None] - logits
    return weighted_mean_of_all(weighted_mean(terms, positives), positives.any(dim=1))


def _overlaps(marks: Bool[Tensor, "B C"]) -> Bool[Tensor, "B B"]:
    """Return for each pair of clips whether some class is marked in both."""
    found = marks.new_zeros(len(marks), len(marks))
    with torch.autocast(marks.device.type, enabled=False):
        for chunk in marks.split(CLASSES_AT_ONCE, dim=1):
            numbers = chunk.float()
            found |= numbers @ numbers.T > 0
    return found
