"""Metrics by family of labels, such as math: its classes, and the family as a whole.

A family is an annotation group, or what is under a parent (`Vocabulary.families`).
Axes: N rows, C classes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from raymc.data.labels import Vocabulary
from raymc.metrics.metrics import evaluate_scores

_MOST_LOGGED = 32  # families: each is a metric of every epoch


@dataclass(frozen=True)
class FamilyScores:
    """The metrics of one family; shares in [0, 1], nan without a positive.

    Attributes:
        mAP: Mean of its classes' average precision.
        R80: Mean of their recall at a precision of 0.8.
        micro_AP: Average precision of all its entries as one list.
        any_AP: Average precision of "the clip has any of its labels". A clip's score is that of
            its best class; it counts if it is known to have one of the labels, or all are known.
    """

    mAP: float  # noqa: N815
    R80: float
    micro_AP: float  # noqa: N815
    any_AP: float  # noqa: N815


def family_scores(
    scores: Float[np.ndarray, "N C"],
    labels: Bool[np.ndarray, "N C"],
    observed: Bool[np.ndarray, "N C"],
    vocabulary: Vocabulary,
) -> dict[str, FamilyScores]:
    """Return the metrics of each family by its name; families without a class are left out.

    Raises:
        DataError: There are no rows, or an observed score is NaN or infinite.
    """
    result = {}
    for family, names in vocabulary.families().items():
        at = [vocabulary.index(name) for name in names]
        if not at:
            continue
        some, true, known = scores[:, at], labels[:, at], observed[:, at]
        each = evaluate_scores(some, true, known)
        has_any = np.any(true & known, axis=1, keepdims=True)
        is_known = has_any | np.all(known, axis=1, keepdims=True)
        whole = evaluate_scores(some.max(axis=1, keepdims=True), has_any, is_known)
        result[family] = FamilyScores(each.mAP, each.R80, each.micro_AP, whole.mAP)
    return result


def family_means(per_class: Float[np.ndarray, " C"], vocabulary: Vocabulary) -> dict[str, float]:
    """Return the mean of a metric over each family's classes; nan if no class has a value."""
    result = {}
    for family, names in vocabulary.families().items():
        values = np.array([per_class[vocabulary.index(name)] for name in names])
        values = values[~np.isnan(values)]
        result[family] = float(values.mean()) if len(values) else float("nan")
    return result


def family_metrics(per_class: Float[np.ndarray, " C"], vocabulary: Vocabulary) -> dict[str, float]:
    """Return `val/mAP_FAMILY` of each family for the log; nothing if there are very many."""
    if len(vocabulary.families()) > _MOST_LOGGED:
        return {}
    means = family_means(per_class, vocabulary)
    return {f"val/mAP_{family}": value for family, value in means.items()}
