"""Which unlabelled clips to label next: those the model is unsure of, and that differ.

Uncertainty alone picks many clips that are alike. So clips are picked one by one, each time the
one with the largest product of its uncertainty and its distance to the nearest clip that is
labelled or picked already (k-center as in O. Sener and S. Savarese 2018, *Active Learning for
Convolutional Neural Networks: A Core-Set Approach*, Alg. 1, weighted by uncertainty).

Axes: N clips, C classes, E embedding, L labelled clips.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import entr

from raymc.evaluation.neighbours import unit

_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True)
class Pick:
    """A clip to label next.

    Attributes:
        row: Of the clip.
        uncertainty: Mean over classes of the entropy of the label's probability, in bits.
        distance: To the nearest clip that is labelled or was picked before: 1 - cosine.
    """

    row: int
    uncertainty: float
    distance: float


def pick_next(
    probabilities: Float[np.ndarray, "N C"],
    embeddings: Float[np.ndarray, "N E"],
    labelled: Float[np.ndarray, "L E"],
    *,
    count: int,
) -> list[Pick]:
    """Pick clips to label, the most useful first.

    Args:
        probabilities: Of each label of the clips to choose from.
        embeddings: Of these clips.
        labelled: Embeddings of the clips that have labels.
        count: How many to pick, at most.
    """
    unsure = (entr(probabilities) + entr(1 - probabilities)).mean(axis=1) / np.log(2)
    clips, known = unit(embeddings), unit(labelled)
    distance = np.full(len(clips), 2.0)
    for first in range(0, len(known), _ROWS_AT_A_TIME):
        nearest = (clips @ known[first : first + _ROWS_AT_A_TIME].T).max(axis=1)
        distance = np.minimum(distance, 1 - nearest)
    left = np.ones(len(clips), dtype=bool)
    picks = []
    for _ in range(min(count, len(clips))):
        row = int(np.where(left, unsure * np.maximum(distance, 0), -1.0).argmax())
        picks.append(Pick(row, float(unsure[row]), float(max(distance[row], 0))))
        left[row] = False
        distance = np.minimum(distance, 1 - clips @ clips[row])
    return picks
