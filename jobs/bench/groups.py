"""Groups of labels whose mean AP a benchmark reports apart, such as look-alikes.

Axes: C classes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import Field

from raymc.data.labels import Vocabulary

GROUPS: Any = Field(
    default_factory=dict,
    description="Labels whose mean AP is a column of its own, as NAME=LABEL,LABEL.",
)


def group_precision(
    per_class: Float[np.ndarray, " C"], groups: Mapping[str, str], vocabulary: Vocabulary
) -> dict[str, float]:
    """Return each group's mean AP over its classes that have one; nan if none has.

    Raises:
        DataError: There is no such label.
    """
    means = {}
    for name, labels in groups.items():
        values = per_class[[vocabulary.index(label) for label in labels.split(",")]]
        known = values[~np.isnan(values)]
        means[name] = float(known.mean()) if len(known) else float("nan")
    return means
