"""The one comparison of scored runs: metrics, paired differences, settings and classes.

`raymc compare`, `raymc promote` and a sweep's report all use `compare`. The first model is the
baseline. Axes: N rows, C classes, M models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from raymc.config import Config, differences, differing_settings, override
from raymc.data.labels import Vocabulary
from raymc.errors import DataError
from raymc.evaluation.scored import ScoredSplit
from raymc.metrics.bootstrap import Difference, Measure, difference_of, resampled_means
from raymc.metrics.metrics import MetricName, weighted_class_precision, weighted_metric

METRICS: tuple[MetricName, ...] = ("mAP", "R80", "micro_AP", "LRAP")
SEED = "train.seed"
RESAMPLES, FEWEST_RESAMPLES = 1000, 200
_MOST_ENTRIES = 100_000_000  # looked at by all resamples of a page's interval: some seconds


@dataclass(frozen=True)
class ScoredRun:
    """A trained run: its name, settings, the digest of its training data, and its scores."""

    name: str
    config: Config
    trained_on: str
    scored: ScoredSplit


@dataclass(frozen=True)
class Estimate:
    """A metric on the split, and the ends of the interval around it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassDifference:
    """A class's average precision by a model and by the baseline.

    `support` counts the rows that have the class; `difference` has the interval of it alone.
    """

    name: str
    support: int
    ours: float
    theirs: float
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`; sequences run over the models, the baseline first.

    Attributes:
        models: the runs of each model: one, or several that differ only in their seed.
        metrics: by name, one per model.
        differences: by name, each other model's minus the baseline's; M − 1 of them.
        settings: by dotted path those that differ, the values of each model's runs.
        classes: of each other model all classes with a positive, the largest gain first.
        confidence: share of resamples inside the intervals.
        resamples: how many there were; without any, the ends of the intervals are nan.
    """

    models: tuple[tuple[ScoredRun, ...], ...]
    metrics: Mapping[MetricName, tuple[Estimate, ...]]
    differences: Mapping[MetricName, tuple[Difference, ...]]
    settings: Mapping[str, tuple[tuple[Any, ...], ...]]
    classes: tuple[tuple[ClassDifference, ...], ...]
    confidence: float
    resamples: int

    @property
    def split(self) -> ScoredSplit:
        """The split and its truth, with the baseline's scores."""
        return self.models[0][0].scored

    @property
    def names(self) -> list[str]:
        """The models' names: that of the run, or of the first of several seeds."""
        return [
            runs[0].name if len(runs) == 1 else f"{runs[0].name} ({len(runs)} seeds)"
            for runs in self.models
        ]


def compare(
    runs: Sequence[ScoredRun],
    *,
    metrics: Sequence[MetricName] = METRICS,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare runs on the rows that all of them scored; a single run has metrics only.

    `confidence` is the share of resamples inside the intervals, and `resamples` how often rows, and
    runs of a model, are drawn; 0 for no intervals.

    Raises:
        DataError: The runs have other classes or rows, or a score is NaN or infinite.
    """
    check_comparable(runs)
    models = group_seeds(runs)
    estimates, differing = {}, {}
    by_class = _resampled(models, weighted_class_precision, resamples, seed)
    for name in metrics:
        if name == "mAP":
            means = _class_mean(by_class)
        else:
            means = _resampled(models, partial(weighted_metric, name), resamples, seed)
        found = [difference_of(column, confidence=confidence) for column in means.T]
        estimates[name] = tuple(Estimate(one.value, one.low, one.high) for one in found)
        ahead = (means[:, 1:] - means[:, :1]).T
        differing[name] = tuple(difference_of(column, confidence=confidence) for column in ahead)
    return Comparison(
        models=models,
        metrics=estimates,
        differences=differing,
        settings=_settings(models),
        classes=tuple(
            _classes(by_class, model, runs[0].scored, confidence) for model in range(1, len(models))
        ),
        confidence=confidence,
        resamples=resamples,
    )


def quick_resamples(scored: ScoredSplit) -> int:
    """Return how many resamples of a split take some seconds; 0 if too few for an interval."""
    most = min(RESAMPLES, _MOST_ENTRIES // max(1, scored.scores.size))
    return most if most >= FEWEST_RESAMPLES else 0


def check_comparable(runs: Sequence[ScoredRun]) -> None:
    """Check that runs have scored the same rows for the same classes.

    Raises:
        DataError: They have not.
    """
    first = runs[0]
    for run in runs[1:]:
        check_classes(first.name, first.scored.vocabulary, run.name, run.scored.vocabulary)
        ours, theirs = first.scored, run.scored
        equal = (ours.split, ours.ids) == (theirs.split, theirs.ids) and all(
            np.array_equal(getattr(ours, name), getattr(theirs, name))
            for name in ("labels", "observed")
        )
        if not equal:
            places = [f"{x.split!r} of dataset {x.dataset_digest[:8]}" for x in (ours, theirs)]
            raise DataError(
                f"runs {first.name!r} and {run.name!r} can't be compared: they were scored on "
                f"other rows, {' and '.join(places)}: score both on the same split"
            )


def check_classes(name: str, ours: Vocabulary, other: str, theirs: Vocabulary) -> None:
    """Check that two runs have the same classes.

    Raises:
        DataError: they don't.
    """
    if ours.names != theirs.names:
        odd = sorted(set(ours.names) ^ set(theirs.names))[:3]
        raise DataError(
            f"{name!r} and {other!r} can't be compared: they have {len(ours)} and {len(theirs)} "
            f"classes, which differ in {', '.join(odd) or 'their order'}"
        )


def group_seeds(runs: Sequence[ScoredRun]) -> tuple[tuple[ScoredRun, ...], ...]:
    """Put runs together that differ in their seed alone, in the order of their first.

    Where that would leave a single model there is nothing else to compare, and each run stays
    on its own.
    """
    groups: list[list[ScoredRun]] = []
    for run in runs:
        group = next((group for group in groups if _is_sibling(run, group)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    if len(groups) == 1:
        groups = [[run] for run in runs]
    return tuple(tuple(group) for group in groups)


def _is_sibling(run: ScoredRun, group: Sequence[ScoredRun]) -> bool:
    seed, others = run.config.train.seed, {one.config.train.seed for one in group}
    same_seed = override(run.config, {SEED: group[0].config.train.seed})
    return (
        seed not in others
        and run.trained_on == group[0].trained_on
        and not differences(same_seed, group[0].config)
    )


def _resampled(
    models: Sequence[Sequence[ScoredRun]], measure: Any, resamples: int, seed: int
) -> Float[np.ndarray, "draws M *classes"]:
    """Return a metric of each model, on the split itself and on each resample of its rows.

    The draws depend on the seed alone, so all metrics see the same.
    """
    measures: list[list[Measure]] = [
        [measure(run.scored.scores, run.scored.labels, run.scored.observed) for run in runs]
        for runs in models
    ]
    rows = len(models[0][0].scored.ids)
    return resampled_means(measures, rows, resamples=resamples, seed=seed)


def _class_mean(by_class: Float[np.ndarray, "draws M C"]) -> Float[np.ndarray, "draws M"]:
    """Return the mean over the classes that have a value; nan where none has."""
    there = ~np.isnan(by_class)
    count = there.sum(axis=-1)
    total = np.where(there, by_class, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _classes(
    by_class: Float[np.ndarray, "draws M C"], model: int, split: ScoredSplit, confidence: float
) -> tuple[ClassDifference, ...]:
    support = (split.labels & split.observed).sum(axis=0)
    found = [
        ClassDifference(
            name=name,
            support=int(support[c]),
            ours=float(by_class[0, model, c]),
            theirs=float(by_class[0, 0, c]),
            difference=difference_of(
                by_class[:, model, c] - by_class[:, 0, c], confidence=confidence
            ),
        )
        for c, name in enumerate(split.vocabulary.names)
        if support[c]
    ]
    return tuple(sorted(found, key=lambda one: -one.difference.value))


def _settings(models: Sequence[Sequence[ScoredRun]]) -> dict[str, tuple[tuple[Any, ...], ...]]:
    """Return what differs between the runs, and of which data they were made."""
    runs = [run for model in models for run in model]
    values = differing_settings([run.config for run in runs])
    digests = tuple(run.trained_on[:8] for run in runs)
    if len(set(digests)) > 1:
        values["data (its digest)"] = digests
    ends = np.cumsum([len(model) for model in models])
    return {
        key: tuple(
            tuple(_distinct(each[end - len(model) : end])) for model, end in zip(models, ends)
        )
        for key, each in values.items()
    }


def _distinct(values: Sequence[Any]) -> list[Any]:
    return [value for at, value in enumerate(values) if value not in values[:at]]
