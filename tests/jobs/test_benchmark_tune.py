"""The benchmark of tuning: all ways do the same work and are counted right, at any speed."""

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jobs.bench import tune as bench
from jobs.bench.tune import Bench, Settings, bench_tune
from jobs.bench.tune_parts import runs as tune_runs
from jobs.bench.tune_parts.effects import Mark, growth_text, packed_text, stopping_text
from jobs.bench.tune_parts.runs import Course, Run
from jobs.bench.tune_parts.ways import Span, feeds_in_memory, run_documented, run_optuna, train_bare
from raymc.config import override
from raymc.data.shards import open_dataset
from raymc.errors import ConfigError

TINY: dict[str, Any] = {"trials": 3, "epochs": 2, "clips": 16, "rounds": 1, "at_a_time": (1,)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that trains in no time."""
    model = {"width": 8, "depth": 1, "fusion_depth": 1, "heads": 2, "embedding_dim": 8}
    search = {**bench.SETTINGS["search"], "space": {"optimizer.lr": {"low": 1e-4, "high": 0.03}}}
    given = {"batch": {"size": 8}, "model": model, "search": search}
    monkeypatch.setattr(bench, "SETTINGS", given)


@pytest.fixture
def here(small: None, ray_logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process of its own for each way, so that all share the Ray of the tests."""

    def call(run: Callable[..., Any], task: Any) -> Any:
        return run(task)

    for module in (bench, tune_runs):
        monkeypatch.setattr(module, "apart", call)


def values(spans: list[Span]) -> dict[float, float]:
    return {span.params["optimizer.lr"]: span.best for span in spans}


def run(
    way: str, at_a_time: int, number: int, *spans: tuple[float, float], best: float = 1.0
) -> Run:
    made = tuple(
        Span({"n": n}, float(began), float(ended), best) for n, (began, ended) in enumerate(spans)
    )
    return Run(way, at_a_time, number, 100.0, 200.0, made)


@pytest.mark.usefixtures("here")
def test_raymc_and_optuna_reach_the_same_values(tmp_path: Path) -> None:
    page = io.StringIO()
    settings = Settings(**TINY, ways=("raymc", "optuna"), parts=("ways",))
    bench_tune(Console(file=page), settings, out=tmp_path)
    rows = [line.split(" | ") for line in page.getvalue().splitlines() if line[:3] == "| 1"]
    assert [row[1:3] for row in rows] == [["optuna", "3"], ["raymc", "3"]]
    assert rows[0][5] == "1.00"
    assert "All ways reached the same value in every trial." in page.getvalue()
    assert (tmp_path / "tune.md").read_text().strip() in page.getvalue()
    raymc, optuna = json.loads((tmp_path / "tune.json").read_text())["figures"]
    assert [raymc["way"], optuna["way"]] == ["raymc", "optuna"]
    for one, other in zip(raymc["spans"], optuna["spans"], strict=True):
        assert one["params"] == other["params"]
        assert one["best"] == pytest.approx(other["best"], rel=1e-6)
        assert one["ended"] - one["began"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("small", "ray_logs")
def test_processes_and_trainers_reach_what_a_bare_loop_does(tmp_path: Path) -> None:
    task = Bench(Settings(**TINY), tmp_path, Console()).task("one", 2)
    dataset = open_dataset(task.config.data.path)
    feeds, told = feeds_in_memory(task.config, dataset), list[tuple[int, float]]()
    expected = {}
    for params in task.trials:
        config = override(task.config, params)
        tell = lambda epoch, value: told.append((epoch, value))  # noqa: E731
        expected[params["optimizer.lr"]] = train_bare(config, dataset, feeds, tell=tell)
    assert [epoch for epoch, _ in told] == [1, 2] * 3
    assert len(set(expected.values())) > 1
    assert values(run_optuna(task)) == pytest.approx(expected, rel=1e-6)
    assert values(run_documented(task)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_stopping_and_growth_and_packing_are_run(tmp_path: Path) -> None:
    page, parts = io.StringIO(), ("stopping", "growth", "packed")
    settings = Settings(**{**TINY, "trials": 2, "packed": 2}, parts=parts)
    bench_tune(Console(file=page, width=200), settings, out=tmp_path)
    figures = json.loads((tmp_path / "tune.json").read_text())["figures"]
    none, asha, *marks, packed, alone = figures
    assert (none["scheduler"], asha["scheduler"]) == ("none", "asha")
    assert len(none["values"]) == 2 * 2
    assert set(asha["values"]) <= set(none["values"])
    assert [mark["trials"] for mark in marks] == list(range(1, 9))
    spent = [mark["cpu_seconds"] for mark in marks]
    assert spent == sorted(spent)
    assert (packed["at_a_time"], alone["at_a_time"]) == (2, 1)
    assert [s["best"] for s in packed["spans"]] == [s["best"] for s in alone["spans"]]
    for title in ("### Early stopping", "### Growth", "### Packed trials\n\n**Not run on a GPU"):
        assert title in page.getvalue()


def test_the_first_trial_of_each_process_is_told_apart() -> None:
    found = run("raymc", 2, 0, (110, 130), (111, 131), (130, 140), (131, 141), (140, 150))
    assert found.first_seconds == 20
    assert found.later_seconds == 10
    assert found.slot_seconds == pytest.approx(2 * (145.5 - 130.5) / 3)
    assert found.trials_an_hour == pytest.approx(7200 / 10)
    assert (found.before, found.after) == (10, 50)
    assert math.isnan(run("raymc", 2, 0, (110, 130), (111, 131)).slot_seconds)


def test_ways_are_compared_within_their_round() -> None:
    runs = [
        run("optuna", 1, 0, (100, 110), (110, 120)),
        run("raymc", 1, 0, (100, 115), (115, 120)),
        run("optuna", 1, 1, (100, 110), (110, 118)),
        run("raymc", 1, 1, (100, 110), (110, 120)),
    ]
    table = bench.ways_text(Settings(**TINY), runs)
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line[:3] == "| 1"]
    assert rows == [
        ["1", "optuna", "2", "405", "360 to 450", "1.00", "", "0.00", "10.0", "0.0", "81.0"],
        ["1", "raymc", "2", "540", "360 to 720", "1.40", "", "-1.50", "12.5", "0.0", "80.0"],
    ]
    assert "All ways reached the same value" in table
    other = run("raymc", 1, 2, (100, 110), (110, 120), best=0.5)
    assert "The values of trials differ!" in bench.ways_text(Settings(**TINY), [*runs, other])


def test_stopping_is_judged_where_both_arrive() -> None:
    none = Course("none", (1.0, 2.0, 3.0, 4.0), (0.2, 0.5, 0.4, 0.9))
    asha = Course("asha", (1.0, 2.0, 2.5), (0.2, 0.5, 0.8))
    assert none.until(0.8) == (4.0, 4)
    rows = [line for line in stopping_text([none, asha]).splitlines() if line[:3] in ("| n", "| a")]
    assert rows == [
        "| none | 0.9000 | 4 | 4.0 | 4 | 4.0 |",
        "| asha | 0.8000 | 3 | 2.5 | 3 | 2.5 |",
    ]


def test_growth_compares_the_first_trials_with_the_last() -> None:
    marks = [Mark(n, 0.1 * n if n < 5 else 0.2 * n - 0.5, n << 20) for n in range(1, 9)]
    rows = [line for line in growth_text(marks, 2).splitlines() if line.startswith("| the")]
    assert rows == ["| the first 2 | 100 | 2 |", "| the last 2 of 8 | 200 | 8 |"]


def test_packing_is_compared_round_by_round() -> None:
    runs = [
        run("packed", 2, 0, (0, 10), (0, 10), (10, 20), (10, 20)),
        run("packed", 1, 0, (0, 10), (10, 25)),
    ]
    text = packed_text(runs, "cuda")
    assert "| 2 | 4 | 720 | 720 to 720 | 3.00 |" in text
    assert "share one cuda device" in text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ways": ("rayx",)}, "--way rayx: expected one of raymc, optuna, documented"),
        ({"parts": ("all",)}, "--part all: expected one of ways, stopping, growth, packed"),
        ({"documented_trials": 2}, "--at-a-time 2: expected less than the 2 trials of a way"),
    ],
)
def test_what_cannot_be_measured_is_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bench_tune(Console(), Settings(**given))
