"""What more examples of a class would bring: its average precision at several sizes, and beyond.

The error 1 - AP of many learners falls as a power of the number of examples (J. Hestness et al.
2017, *Deep Learning Scaling is Predictable, Empirically*, arXiv 1712.00409, Sec. 3), so a line is
fitted to its logarithm. A class with few clips says little about its own slope, which is therefore
drawn to the mean of all classes.

Axes: N clips, C classes, S sizes, D draws: the clips themselves, then resamples of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from raymc.metrics.bootstrap import Difference, Measure, difference_of, resampled_means
from raymc.metrics.metrics import weighted_class_precision

FEWEST_VIDEOS = 10  # with a class, below which it has too few examples
_PULL = 20.0  # clips of a class that weigh as much as the mean slope of all classes
_LEAST_ERROR = 1e-3
MORE = (2, 4)  # times as many examples
RESAMPLES = 200


@dataclass(frozen=True)
class Curve:
    """A class's learning curve.

    Attributes:
        label: Its name.
        clips: Clips that have it and may be trained on.
        videos: Videos with such a clip.
        sizes: Mean number of clips with it that a model was trained on.
        precision: Average precision at each size, on clips the models have not seen.
        now: That at the largest size, with its interval.
        gains: Of average precision, by how many times as many examples there would be.
    """

    label: str
    clips: int
    videos: int
    sizes: tuple[float, ...]
    precision: tuple[float, ...]
    now: Difference
    gains: dict[int, Difference]

    @property
    def has_few(self) -> bool:
        """Whether it has too few examples to be learned or judged well."""
        return self.videos < FEWEST_VIDEOS


def learning_curves(
    scores: Sequence[Float[np.ndarray, "N C"]],
    labels: Bool[np.ndarray, "N C"],
    observed: Bool[np.ndarray, "N C"],
    *,
    names: Sequence[str],
    sizes: Float[np.ndarray, "S C"],
    clips: Int64[np.ndarray, " C"],
    videos: Int64[np.ndarray, " C"],
    seed: int = 0,
) -> list[Curve]:
    """Return the curve of each class; a class without a clip to judge by has nan.

    Intervals are those of a bootstrap over clips, which does not know how much another training
    with the same clips would differ. A gain is never negative.

    Args:
        scores: By models of each size, the smallest first, of clips that these have not seen.
        labels: Of the clips.
        observed: Which are known.
        names: Of the classes.
        sizes: Mean number of clips with each class that the models were trained on.
        clips: Clips with each class that may be trained on.
        videos: Videos with such a clip.
        seed: Of the bootstrap.
    """
    measures: list[list[Measure]] = [
        [weighted_class_precision(one, labels, observed)] for one in scores
    ]
    drawn = resampled_means(measures, len(labels), resamples=RESAMPLES, seed=seed)
    errors = np.clip(1 - drawn, _LEAST_ERROR, 1)
    slopes = _slopes(np.log(np.maximum(sizes, 1)), np.log(errors), clips)
    gains = {
        times: np.where(np.isnan(errors[:, -1]), np.nan, errors[:, -1] * (1 - times**-slopes))
        for times in MORE
    }
    return [
        Curve(
            label=name,
            clips=int(clips[c]),
            videos=int(videos[c]),
            sizes=tuple(sizes[:, c].tolist()),
            precision=tuple(drawn[0, :, c].tolist()),
            now=difference_of(drawn[:, -1, c]),
            gains={times: difference_of(gain[:, c]) for times, gain in gains.items()},
        )
        for c, name in enumerate(names)
    ]


def _slopes(
    sizes: Float[np.ndarray, "S C"],
    errors: Float[np.ndarray, "D S C"],
    clips: Int64[np.ndarray, " C"],
) -> Float[np.ndarray, "D C"]:
    """Return by which power each class's error falls, at least 0; both are logarithms."""
    x = sizes - sizes.mean(axis=0)
    spread = (x**2).sum(axis=0)
    own = -(x * (errors - errors.mean(axis=1, keepdims=True))).sum(axis=1)
    own = own / np.where(spread > 0, spread, np.nan)
    weights = np.where(np.isnan(own), 0.0, clips.astype(np.float64))
    total = weights.sum(axis=1, keepdims=True)
    mean = (np.nan_to_num(own) * weights).sum(axis=1, keepdims=True) / np.maximum(total, 1)
    pulled = (np.nan_to_num(own) * weights + _PULL * mean) / (weights + _PULL)
    return np.maximum(pulled, 0.0)
