"""Labels that look wrong: what models that have not seen a clip say of the labels it was given.

Confident learning (C. Northcutt, L. Jiang and I. Chuang 2021, *Confident Learning: Estimating
Uncertainty in Dataset Labels*, JAIR 70) estimates from out-of-fold probabilities how many labels
of a class are wrong, and names that many: those that the models contradict most. cleanlab does it.
Where few clips have a class, most labels that it finds missing are right as they are. So a label
must also be wrong with some chance, by Bayes' rule.

A class is judged only if the models recognise it at all. What they say of others is chance, and
would put about half of the labels in doubt.

Axes: N clips, C classes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

CHANCE = 0.01  # of a class's ranking at random, below which the class counts as recognised
LEAST_WRONG = 0.3  # the chance of being wrong from which a label is in doubt


@dataclass(frozen=True)
class Doubt:
    """A label that looks wrong.

    Attributes:
        row: Of the clip.
        label: Number of the class.
        is_given: Whether the clip has the label; otherwise it seems to lack it.
        probability: Of the label, by models that have not seen the clip.
        quality: How much speaks for the label as it is, from 0 to 1.
    """

    row: int
    label: int
    is_given: bool
    probability: float
    quality: float


def find_doubts(
    probabilities: Float[np.ndarray, "N C"],
    labels: Bool[np.ndarray, "N C"],
    observed: Bool[np.ndarray, "N C"],
    *,
    least_wrong: float = LEAST_WRONG,
) -> tuple[list[Doubt], list[int]]:
    """Return the labels that look wrong, the worst first, and the classes that can't be judged.

    Each class is judged on the clips in which it was annotated. It can't be judged if all of these
    have it, or none, or if the models do not rank clips that have it above the others, which is
    tested with the rank-sum test (H. Mann and D. Whitney 1947).

    Args:
        probabilities: Of each label, by models that have not seen the clip.
        labels: As given.
        observed: Which of them are known.
        least_wrong: The chance of being wrong that such a label has at least; 0: confident learning
            alone decides.
    """
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
    from cleanlab.multilabel_classification.rank import get_label_quality_scores_per_class

    doubts, unjudged = [], []
    for k in range(labels.shape[1]):
        rows = np.flatnonzero(observed[:, k])
        given = labels[rows, k]
        likely = probabilities[rows, k : k + 1]
        if not _is_recognised(likely[:, 0], given):
            unjudged.append(k)
            continue
        # cleanlab judges classes one by one, too, and knows no unobserved ones
        names = [[0] if one else [] for one in given]
        found = np.asarray(find_multilabel_issues_per_class(names, likely, n_jobs=1))[:, 0]
        found &= _chance_wrong(likely[:, 0], given, found) >= least_wrong
        quality = get_label_quality_scores_per_class(names, likely)
        doubts += [
            Doubt(int(rows[at]), k, bool(given[at]), float(likely[at, 0]), float(quality[at, 0]))
            for at in np.flatnonzero(found)
        ]
    return sorted(doubts, key=lambda one: (one.quality, one.row, one.label)), unjudged


def _chance_wrong(
    likely: Float[np.ndarray, " N"], given: Bool[np.ndarray, " N"], found: Bool[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """Return the chance that a label of each clip is wrong, by Bayes' rule.

    The models learned what clips are given, also wrongly: `likely` is p (1 - b) + (1 - p) a, where
    p is the chance that the clip has the class, a the share of clips that are given it among those
    that lack it, and b the share that are not given it among those that have it. Both shares follow
    from the labels that confident learning has `found`.
    """
    true = given ^ found
    a = (given & ~true).sum() / max(1, (~true).sum())
    b = (true & ~given).sum() / max(1, true.sum())
    p = ((likely - a) / max(1 - a - b, 1e-9)).clip(0, 1)
    right = np.where(given, p * (1 - b), (1 - p) * (1 - a))
    wrong = np.where(given, (1 - p) * a, p * b)
    return wrong / np.maximum(right + wrong, 1e-9)


def _is_recognised(likely: Float[np.ndarray, " N"], given: Bool[np.ndarray, " N"]) -> bool:
    if given.all() or not given.any():
        return False
    from scipy.stats import mannwhitneyu

    return bool(mannwhitneyu(likely[given], likely[~given], alternative="greater").pvalue < CHANCE)
