"""Random batches with every kind of row and class that a loss can meet, in float64."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

SEEDS = range(2)
# Each random case has every kind of row and class, so one of either kind is enough.
every_weighting = pytest.mark.parametrize(("seed", "weighted"), [(0, False), (1, True)])


@dataclass(frozen=True)
class Case:
    scores: np.ndarray
    labels: np.ndarray
    observed: np.ndarray
    weights: np.ndarray

    def batch(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
        scores = torch.from_numpy(self.scores).to(dtype).requires_grad_()
        return scores, torch.from_numpy(self.labels), torch.from_numpy(self.observed)

    def class_weights(self, weighted: bool) -> Tensor | None:
        return torch.from_numpy(self.weights) if weighted else None

    def factors(self, weighted: bool) -> np.ndarray:
        return self.weights if weighted else np.ones_like(self.weights)


def random_case(seed: int, rows: int = 9, classes: int = 6) -> Case:
    """Similarities in [-1, 1]; the first rows and classes are the special ones."""
    generator = np.random.default_rng(seed)
    labels = generator.random((rows, classes)) < 0.35
    observed = generator.random((rows, classes)) < 0.8
    observed[0] = False
    labels[1], observed[1] = False, True
    labels[2], observed[2] = True, True
    labels[3, ::2], observed[3] = True, labels[3]
    labels[:, 0], observed[4:, 0] = False, True
    observed[:, 1] = False
    labels[:, 2], observed[4:, 2] = True, True
    return Case(
        scores=generator.uniform(-1.0, 1.0, (rows, classes)),
        labels=labels,
        observed=observed,
        weights=generator.uniform(0.2, 3.0, classes),
    )
