"""Weights for the long tail: how much more a rare class counts.

Pure torch; computed once from the training labels, then handed to every loss.
Axes: C classes.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from raymc.losses.masked import weighted_mean_of_all


def class_weights(
    counts: Int[Tensor, " C"] | Int[np.ndarray, " C"], balance: float
) -> Float[Tensor, " C"]:
    """Return w_k ∝ (count of k)^−balance with mean 1.

    Args:
        counts: Number of clips with each label in the training data.
        balance: In [0, 1]: 0 weighs all classes alike, 1 by inverse frequency.

    Returns:
        float32 weights > 0. A class without clips weighs 1 and leaves the others as they are.
    """
    counted = torch.as_tensor(counts).to(torch.float64)
    present = counted > 0
    powers = torch.where(present, counted, 1.0).pow(-balance)
    mean = weighted_mean_of_all(powers, present)
    return torch.where(present, powers / mean, 1.0).to(torch.float32)
