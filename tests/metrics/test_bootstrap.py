"""Bootstrap intervals against measuring every resample from scratch."""

from typing import get_args

import numpy as np
import pytest
from score_tables import random_table

from raymc.errors import ConfigError
from raymc.metrics.bootstrap import bootstrap_interval, paired_difference
from raymc.metrics.metrics import MetricName, evaluate_scores


@pytest.mark.parametrize("metric", get_args(MetricName))
@pytest.mark.parametrize("levels", [3, 100_000])
def test_bootstrap_equals_measuring_each_resample(metric: MetricName, levels: int) -> None:
    scores, labels, observed = random_table(4, levels, rows=25)
    generator = np.random.default_rng(9)
    draws = [generator.integers(25, size=25) for _ in range(40)]
    values = [
        evaluate_scores(scores[draw], labels[draw], observed[draw]).to_dict()[metric]
        for draw in draws
    ]
    interval = bootstrap_interval(
        scores, labels, observed, metric=metric, confidence=0.9, resamples=40, seed=9
    )
    assert interval == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])), abs=1e-12)


def test_bootstrap_is_seeded_and_holds_the_estimate() -> None:
    table = random_table(0, levels=1000, rows=400)
    low, high = bootstrap_interval(*table, resamples=200)
    assert low < evaluate_scores(*table).mAP < high
    assert high - low < 0.15
    assert bootstrap_interval(*table, resamples=200) == (low, high)
    assert bootstrap_interval(*table, resamples=200, seed=1) != (low, high)


def test_wrong_bootstrap_arguments_are_errors() -> None:
    table = random_table(0, levels=5)
    with pytest.raises(ConfigError, match=r"confidence is 1.0; it must be between 0 and 1"):
        bootstrap_interval(*table, confidence=1.0)
    with pytest.raises(ConfigError, match=r"resamples is 0; it must be at least 1"):
        bootstrap_interval(*table, resamples=0)


def test_nothing_to_measure_has_no_interval() -> None:
    nothing = np.zeros((3, 2), dtype=np.bool_)
    assert np.isnan(bootstrap_interval(np.zeros((3, 2)), nothing, resamples=5)).all()


@pytest.mark.parametrize("searches", [1, 2])
@pytest.mark.parametrize("metric", get_args(MetricName))
def test_a_difference_equals_measuring_each_resample(metric: MetricName, searches: int) -> None:
    _, labels, observed = random_table(4, 1000, rows=25)
    models = [
        [random_table(seed, 1000, rows=25)[0] for seed in seeds]
        for seeds in (range(2), range(5, 9))
    ]
    ours, theirs = models
    found = paired_difference(
        ours,
        theirs,
        labels,
        observed,
        metric=metric,
        searches=searches,
        confidence=0.9,
        resamples=12,
        seed=3,
    )

    def mean_of(runs: list[np.ndarray], rows: np.ndarray) -> float:
        measured = [evaluate_scores(one[rows], labels[rows], observed[rows]) for one in runs]
        return float(np.mean([one.to_dict()[metric] for one in measured]))

    generator, values = np.random.default_rng(3), []
    for _ in range(12):
        rows, means = generator.integers(25, size=25), []
        for runs in models:
            size = len(runs) // searches
            chosen = generator.integers(searches, size=searches) if searches > 1 else [0]
            drawn = [
                runs[search * size + run]
                for search in chosen
                for run in generator.integers(size, size=size)
            ]
            means.append(mean_of(drawn, rows))
        values.append(means[0] - means[1])
    assert (found.low, found.high) == pytest.approx(
        tuple(np.quantile(values, [0.05, 0.95])), abs=1e-12
    )
    every = np.arange(25)
    assert found.value == pytest.approx(mean_of(models[0], every) - mean_of(models[1], every))


@pytest.mark.slow
def test_the_luck_of_a_search_widens_the_interval() -> None:
    noise, labels, _ = random_table(1, 1000, rows=300)
    lucky, unlucky = noise + 3.0 * labels, noise + 0.5 * labels
    runs = [lucky] * 4 + [unlucky] * 4
    by_run, by_search = (
        paired_difference(runs, [noise] * 8, labels, searches=searches, resamples=60)
        for searches in (1, 2)
    )
    assert by_search.value == by_run.value
    assert by_search.high - by_search.low > 1.5 * (by_run.high - by_run.low)


def test_a_model_does_not_differ_from_itself() -> None:
    scores, labels, observed = random_table(0, 1000)
    same = paired_difference([scores], [scores], labels, observed, resamples=20)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert not same.is_clear


def test_the_better_model_is_clearly_so_and_the_worse_one_mirrors_it() -> None:
    noise, labels, _ = random_table(1, 1000, rows=300)
    good = noise + 3.0 * labels
    ahead = paired_difference([good], [noise], labels, resamples=50)
    behind = paired_difference([noise], [good], labels, resamples=50)
    assert ahead.is_clear
    assert 0 < ahead.low < ahead.value < ahead.high
    assert (behind.value, behind.low, behind.high) == pytest.approx(
        (-ahead.value, -ahead.high, -ahead.low)
    )
    assert behind.is_clear


def test_pairing_is_tighter_than_two_intervals() -> None:
    noise, labels, observed = random_table(2, 100_000, rows=300)
    better = noise + 0.3 * labels
    found = paired_difference([better], [noise], labels, observed, resamples=200)
    apart = [bootstrap_interval(one, labels, observed, resamples=200) for one in (better, noise)]
    assert found.high - found.low < sum(high - low for low, high in apart) / 2
