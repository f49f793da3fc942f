"""Comparisons against measuring every resample of every run from scratch, class by class."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from pages import Seen
from rich.console import Console
from score_tables import random_table

from raymc.config import load
from raymc.data.labels import Vocabulary
from raymc.errors import DataError
from raymc.evaluation.compare import (
    METRICS,
    Comparison,
    ScoredRun,
    check_classes,
    compare,
    group_seeds,
    quick_resamples,
)
from raymc.evaluation.scored import ScoredSplit
from raymc.metrics.bootstrap import Difference, bootstrap_interval, paired_difference
from raymc.metrics.metrics import MetricName, evaluate_scores
from raymc.metrics.text import difference_text, estimate_text
from raymc.report.build import save_report
from raymc.report.comparison import comparison_page, comparison_parts, verdict_lines

NAMES = tuple("abcdefg")
SHOWN = (*NAMES, "…")
_, LABELS, OBSERVED = random_table(4, 1000, rows=40)


def run(name: str, scores: np.ndarray, *settings: str, trained_on: str = "data") -> ScoredRun:
    """A run that gave these scores to the rows of the one table."""
    scored = ScoredSplit(
        ids=tuple(f"clip-{row}" for row in range(len(scores))),
        scores=scores,
        labels=LABELS[: len(scores)],
        observed=OBSERVED[: len(scores)],
        vocabulary=Vocabulary(NAMES),
        split="test",
        dataset_digest="0123456789abcdef",
    )
    return ScoredRun(name, load(None, settings), trained_on, scored)


def scores_of(seed: int) -> np.ndarray:
    return random_table(seed, 1000, rows=40)[0]


@pytest.fixture(scope="module")
def runs() -> list[ScoredRun]:
    """A baseline and one other model, of two seeds."""
    return [
        run("base", scores_of(4)),
        run("other", scores_of(5), "loss.margin=0.3"),
        run("other-1", scores_of(6), "loss.margin=0.3", "train.seed=1"),
    ]


@pytest.fixture(scope="module")
def found(runs: list[ScoredRun]) -> Comparison:
    return compare(runs, confidence=0.9, resamples=30, seed=3)


def slow_draws(models: Sequence[Sequence[ScoredRun]], metric: str) -> np.ndarray:
    """What a metric of each model comes to, on each of the resamples, [31, M] or [31, M, C]."""
    generator, rows = np.random.default_rng(3), len(LABELS)
    draws = [(np.arange(rows), [range(len(model)) for model in models])]
    for _ in range(30):
        drawn = generator.integers(rows, size=rows)
        draws.append((drawn, [generator.integers(len(m), size=len(m)) for m in models]))

    def measured(one: ScoredRun, drawn: np.ndarray) -> np.ndarray:
        scored = one.scored
        tables = (scored.scores, scored.labels, scored.observed)
        return getattr(evaluate_scores(*(table[drawn] for table in tables)), metric)

    return np.array(
        [
            [
                np.mean([measured(model[at], drawn) for at in chosen], axis=0)
                for model, chosen in zip(models, each)
            ]
            for drawn, each in draws
        ]
    )


def interval(values: np.ndarray) -> list[float]:
    return [values[0], *np.nanquantile(values[1:], [0.05, 0.95])]


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_and_differences_equal_measuring_each_resample(
    metric: MetricName, found: Comparison, runs: list[ScoredRun]
) -> None:
    draws = slow_draws([runs[:1], runs[1:]], metric)
    for model, estimate in enumerate(found.metrics[metric]):
        each = [estimate.value, estimate.low, estimate.high]
        assert each == pytest.approx(interval(draws[:, model]), abs=1e-12)
    (difference,) = found.differences[metric]
    each = [difference.value, difference.low, difference.high]
    assert each == pytest.approx(interval(draws[:, 1] - draws[:, 0]), abs=1e-12)
    tables = ([one.scored.scores for one in some] for some in (runs[1:], runs[:1]))
    paired = paired_difference(
        *tables, LABELS, OBSERVED, metric=metric, confidence=0.9, resamples=30, seed=3
    )
    assert each == pytest.approx([paired.value, paired.low, paired.high], abs=1e-12)


def test_classes_equal_measuring_each_resample(found: Comparison, runs: list[ScoredRun]) -> None:
    draws = slow_draws([runs[:1], runs[1:]], "per_class_AP")
    whole = evaluate_scores(runs[0].scored.scores, LABELS, OBSERVED)
    (classes,) = found.classes
    assert {one.name for one in classes} == {NAMES[c] for c in np.flatnonzero(whole.support)}
    assert len(classes) < len(NAMES)
    for one in classes:
        c = NAMES.index(one.name)
        assert (one.support, one.theirs) == (whole.support[c], pytest.approx(draws[0, 0, c]))
        assert one.ours == pytest.approx(draws[0, 1, c])
        each = [one.difference.value, one.difference.low, one.difference.high]
        assert each == pytest.approx(interval(draws[:, 1, c] - draws[:, 0, c]), abs=1e-12)
    gains = [one.difference.value for one in classes]
    assert gains == sorted(gains, reverse=True)


def test_only_settings_that_differ_are_told(found: Comparison) -> None:
    assert found.settings == {
        "loss.margin": ((0.1,), (0.3,)),
        "train.seed": ((0,), (0, 1)),
    }
    same = [run("a", scores_of(1)), run("b", scores_of(2), "train.workers=2", "run.name=b")]
    assert compare(same, resamples=2).settings == {}
    same[1] = run("b", scores_of(2), trained_on="other data")
    assert compare(same, resamples=2).settings == {"data (its digest)": (("data",), ("other da",))}


def names_of(groups: Sequence[Sequence[ScoredRun]]) -> list[list[str]]:
    return [[one.name for one in group] for group in groups]


def test_what_differs_in_its_seed_alone_is_one_model() -> None:
    scores = scores_of(1)
    seeds = [run(f"s{seed}", scores, f"train.seed={seed}") for seed in (0, 1)]
    wide = [run(f"w{seed}", scores, f"train.seed={seed}", "model.width=32") for seed in (0, 1)]
    again = run("again", scores, "train.seed=1")
    elsewhere = run("elsewhere", scores, "train.seed=2", trained_on="other")
    mixed = [seeds[0], wide[0], seeds[1], wide[1], again, elsewhere]
    groups = group_seeds(mixed)
    assert names_of(groups) == [["s0", "s1"], ["w0", "w1"], ["again"], ["elsewhere"]]
    assert compare(mixed, resamples=0).names[1:3] == ["w0 (2 seeds)", "again"]
    assert names_of(group_seeds(seeds)) == [["s0"], ["s1"]]


def other_rows(scored: ScoredSplit, **changes: object) -> ScoredSplit:
    return ScoredSplit(**{**vars(scored), **changes})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "val"}, r"'a' and 'b' can't be .* rows, 'test' of dataset 01234567 and 'val'"),
        ({"ids": tuple(f"x{row}" for row in range(40))}, r"scored on other rows"),
        ({"labels": ~LABELS}, r"scored on other rows"),
        ({"vocabulary": Vocabulary(tuple("abcdefh"))}, r"7 and 7 classes, which differ in g, h"),
        ({"vocabulary": Vocabulary(NAMES[::-1])}, r"which differ in their order"),
    ],
)  # fmt: skip
def test_other_rows_or_classes(changes: dict[str, object], message: str) -> None:
    first = run("a", scores_of(1))
    second = ScoredRun("b", first.config, "data", other_rows(first.scored, **changes))
    with pytest.raises(DataError, match=message):
        compare([first, second], resamples=2)


def test_the_same_classes_may_have_other_groups() -> None:
    check_classes("a", Vocabulary(NAMES), "b", Vocabulary(NAMES, {"g": ("a",)}))


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (Difference(0.021, 0.004, 0.038), "+2.1 points [0.4, 3.8]: better"),
        (Difference(-0.021, -0.038, -0.004), "-2.1 points [-3.8, -0.4]: worse"),
        (Difference(0.01, -0.01, 0.03), "+1.0 points [-1.0, 3.0]: no clear difference"),
        (Difference(0.01, 0.0003, 0.02), "+1.00 points [0.03, 2.00]: better"),
        (Difference(0.0, 0.0, 0.0), "+0.0 points [0.0, 0.0]: no clear difference"),
        (Difference(np.nan, np.nan, np.nan), "no points to compare: no clear difference"),
    ],
)
def test_a_difference_in_words(difference: Difference, text: str) -> None:
    assert difference_text(difference) == text
    assert difference.verdict == text.rpartition(": ")[2]


def test_a_rate_in_words() -> None:
    assert estimate_text(0.5432, 0.51, 0.5761) == "54.3 [51.0, 57.6]"
    assert estimate_text(0.5432, np.nan, np.nan) == "54.3"
    assert estimate_text(np.nan, np.nan, np.nan) == "–"


def printed(found: Comparison, **options: object) -> str:
    console = Console(file=StringIO(), width=100)
    for part in comparison_parts(found, **options):  # pyright: ignore[reportArgumentType]
        console.print(part, markup=False)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_terminal_shows_all_parts(found: Comparison) -> None:
    text = printed(found, metric="R80")
    (difference,) = found.differences["R80"]
    assert f"other (2 seeds) against base: R80 {difference_text(difference)}" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["loss.margin", "0.1", "0.3"] in lines
    assert ["train.seed", "0", "0,", "1"] in lines
    estimate = found.metrics["LRAP"][0]
    row = next(line for line in lines if line[:1] == ["base"])
    assert " ".join(row).endswith(estimate_text(estimate.value, estimate.low, estimate.high))
    assert "40 rows, 7 classes; in brackets 90\u00a0% intervals" in text
    assert max(len(line) for line in text.splitlines()) <= 100


def class_rows(text: str) -> list[str]:
    table = text.rpartition("AP by class")[2].splitlines()[2:]
    return [line.split()[0] for line in table if line.split()[:1] and line.split()[0] in SHOWN]


def test_of_many_classes_the_largest_gains_and_losses_are_shown(found: Comparison) -> None:
    names = [one.name for one in found.classes[0]]
    assert class_rows(printed(found, classes=2)) == [names[0], "…", names[-1]]
    assert f"… {len(names) - 2} more" in printed(found, classes=2)
    assert class_rows(printed(found, classes=None)) == names


def test_a_page_holds_it_all_and_needs_nothing_else(tmp_path: Path) -> None:
    odd = compare([run("a < b {x}", scores_of(1)), run("[bold]c[/]", scores_of(2))], resamples=2)
    file = tmp_path / "deep" / "page.html"
    save_report(comparison_page(odd, metric="R80"), file)
    seen = Seen(file.read_text())
    assert seen.loaded == []
    assert seen.text["h1"] == ["a < b {x}, [bold]c[/]"]
    (line,) = verdict_lines(odd, "R80")
    assert line in seen.text["p"]
    assert line.startswith("[bold]c[/] against a < b {x}: R80 ")
    shown = [text for text in seen.text["td"] if text in NAMES]
    assert shown == [one.name for one in odd.classes[0]]
    assert seen.links == ["#metrics", "#differences", "#settings", "#classes-1"]


def test_a_split_too_large_for_a_page_gets_no_intervals(
    runs: list[ScoredRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = runs[0].scored.scores.size
    for entries, resamples in ((199 * size, 0), (200 * size, 200), (10**9, 1000)):
        monkeypatch.setattr("raymc.evaluation.compare._MOST_ENTRIES", entries)
        assert quick_resamples(runs[0].scored) == resamples
    found = compare(runs[:2], metrics=["mAP"], resamples=0)
    (difference,) = found.differences["mAP"]
    assert np.isnan([difference.low, difference.high]).all()
    assert difference.value == pytest.approx(
        found.metrics["mAP"][1].value - found.metrics["mAP"][0].value
    )
    assert "[" not in printed(found, metric="mAP").partition("In percent")[2]


def test_a_run_by_itself_has_metrics(runs: list[ScoredRun]) -> None:
    found = compare(runs[:1], resamples=20, seed=3)
    assert (found.differences["mAP"], found.classes, found.settings) == ((), (), {})
    for name, (estimate,) in found.metrics.items():
        interval = bootstrap_interval(
            runs[0].scored.scores, LABELS, OBSERVED, metric=name, resamples=20, seed=3
        )
        assert (estimate.low, estimate.high) == pytest.approx(interval, abs=1e-12)


def test_every_rate_is_compared() -> None:
    assert set(METRICS) == set(get_args(MetricName)) - {"coverage"}
