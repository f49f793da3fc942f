"""Intervals of metrics and differences: how much they depend on which rows are in the split.

Rows are drawn with replacement (B. Efron and R. Tibshirani 1993, *An Introduction to the
Bootstrap*, Sec. 13.3). Sorting happens once: a resample only changes how often each row counts.
Axes: N rows, C classes, R resamples.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from raymc.errors import ConfigError
from raymc.metrics.metrics import MetricName, weighted_metric

# From how often each row counts to a metric, or to each class's.
Measure = Callable[[Int[np.ndarray, " N"]], float | Float[np.ndarray, " C"]]


@dataclass(frozen=True)
class Difference:
    """By how much one model's metric exceeds another's on the split, and the interval around it.

    All three are in the metric's own unit, so 0.01 is one point of mAP.
    """

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `no clear difference`."""
        if not self.is_clear:
            return "no clear difference"
        return "better" if self.low > 0 else "worse"


def bootstrap_interval(
    scores: Float[np.ndarray, "N C"],
    labels: Bool[np.ndarray, "N C"],
    observed: Bool[np.ndarray, "N C"] | None = None,
    *,
    metric: MetricName = "mAP",
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of one metric.

    A resample averages over the classes that have a positive in it. Repeated positives lift
    the average precision of rare and badly ranked classes, so with hundreds of these the
    interval may lie above the point estimate.

    Returns:
        (low, high); both nan when no resample has a value.

    Raises:
        ConfigError: Unknown metric, `confidence` outside (0, 1) or `resamples` below 1.
        DataError: There are no rows, or an observed score is NaN or infinite.
    """
    _check(confidence, resamples)
    measure = weighted_metric(metric, scores, labels, observed)
    draws = _draws(len(scores), resamples, np.random.default_rng(seed))
    return _interval(np.array([measure(counts) for counts in draws]), confidence)


def paired_difference(
    ours: Sequence[Float[np.ndarray, "N C"]],
    theirs: Sequence[Float[np.ndarray, "N C"]],
    labels: Bool[np.ndarray, "N C"],
    observed: Bool[np.ndarray, "N C"] | None = None,
    *,
    metric: MetricName = "mAP",
    searches: int = 1,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Compare two models on the same rows, each by the mean over its runs.

    A resample draws rows, the same for both, and runs of each model, so the interval covers
    chance differences between splits and between seeds. Where the runs of a model come from
    several searches for its settings, it draws searches and then runs of each, so that the
    interval covers the luck of a search, too (a nested bootstrap: A. Davison and D. Hinkley 1997,
    *Bootstrap Methods and their Application*, Sec. 3.8).

    `ours` and `theirs` are the scores of each model's runs, such as one per seed; at least one.
    Those of a search stand together, as many as of each other of the `searches`. Labels are
    ignored where unobserved; `observed` None means that all are known. `confidence` is the share
    of resamples inside the interval.

    Raises:
        ConfigError: Unknown metric, `confidence` outside (0, 1) or `resamples` below 1.
        DataError: There are no rows, or an observed score is NaN or infinite.
    """
    _check(confidence, resamples)
    measures = [
        [weighted_metric(metric, scores, labels, observed) for scores in runs]
        for runs in (ours, theirs)
    ]
    means = resampled_means(
        measures, len(labels), searches=searches, resamples=resamples, seed=seed
    )
    return difference_of(means[:, 0] - means[:, 1], confidence=confidence)


def resampled_means(
    models: Sequence[Sequence[Measure]],
    rows: int,
    *,
    searches: int = 1,
    resamples: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, "draws models *classes"]:
    """Return each model's mean over its runs, on the split itself and on resamples of it.

    A resample draws rows, the same for all models, and runs of each model, of which there is at
    least one, search by search as in `paired_difference`. The split itself comes first in the
    result, then the resamples.
    """
    generator = np.random.default_rng(seed)
    every_run = [np.ones(len(runs), dtype=np.int64) for runs in models]
    means = [_means(models, every_run, np.ones(rows, dtype=np.int64))]
    for counts in _draws(rows, resamples, generator):
        drawn = [_runs_drawn(len(runs), searches, generator) for runs in models]
        means.append(_means(models, drawn, counts))
    return np.array(means)


def difference_of(values: Float[np.ndarray, " draws"], *, confidence: float = 0.95) -> Difference:
    """Return a difference and its interval; the split's own value comes first in `values`."""
    low, high = _interval(values[1:], confidence)
    return Difference(float(values[0]), low, high)


def _means(
    models: Sequence[Sequence[Measure]],
    weights: Sequence[Int[np.ndarray, " _"]],
    counts: Int[np.ndarray, " N"],
) -> np.ndarray:
    """Return each model's mean over its runs, each run weighted: [M] or [M, C]."""
    means = []
    for runs, share in zip(models, weights, strict=True):
        values = np.array([measure(counts) for measure, times in zip(runs, share) if times])
        means.append(np.average(values, axis=0, weights=share[share > 0]))
    return np.array(means)


def _runs_drawn(
    runs: int, searches: int, generator: np.random.Generator
) -> Int[np.ndarray, " runs"]:
    """Return how often each run counts: searches are drawn, and then runs of each."""
    size = runs // searches
    chosen = generator.integers(searches, size=searches) if searches > 1 else [0]
    drawn = [search * size + generator.integers(size, size=size) for search in chosen]
    return np.bincount(np.concatenate(drawn), minlength=runs)


def _draws(
    rows: int, resamples: int, generator: np.random.Generator
) -> Iterator[Int[np.ndarray, " N"]]:
    """Yield how often each row counts, a resample at a time."""
    for _ in range(resamples):
        yield np.bincount(generator.integers(rows, size=rows), minlength=rows)


def _interval(values: Float[np.ndarray, " R"], confidence: float) -> tuple[float, float]:
    """Return the ends between which that share of the values lies; nan if there are none."""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return np.nan, np.nan
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def _check(confidence: float, resamples: int) -> None:
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence is {confidence}; it must be between 0 and 1")
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}; it must be at least 1")
