"""Embeddings and prototypes laid out in a plane.

Axes: N rows, C classes, E embedding dim.
"""

import numpy as np
from jaxtyping import Float

from raymc.training.bundle import Bundle

PERPLEXITY = 30.0  # of t-SNE, as in L. van der Maaten and G. Hinton 2008, *Visualizing Data*


def prototypes_of(bundle: Bundle) -> Float[np.ndarray, "C E"]:
    """Return the prototypes, or the weights of a linear head."""
    return bundle.prototypes.cpu().numpy()


def to_plane(vectors: Float[np.ndarray, "N E"], *, seed: int = 0) -> tuple[np.ndarray, str]:
    """Lay vectors out in a plane so that those of similar direction lie close.

    Returns:
        [N, 2], and how: t-SNE on cosine distances, or principal components where there are too
        few vectors for it.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    if len(unit) < 10:
        centred = unit - unit.mean(axis=0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        plane = np.zeros((len(unit), 2))
        plane[:, : len(axes[:2])] = centred @ axes[:2].T
        return plane, "principal components"
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(unit) - 1) / 3)
    layout = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=seed)
    return layout.fit_transform(unit), "t-SNE of cosine distances"
