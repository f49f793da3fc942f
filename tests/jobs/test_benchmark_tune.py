"""The benchmark of tuning: all ways do the same work and are counted right, at any speed."""

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jobs.bench import tune as bench
from jobs.bench.measure import Measurement
from jobs.bench.tune import (
    Bench,
    Settings,
    bench_tune,
    figures_of,
    growth_text,
    packed_text,
    stopping_text,
    ways_text,
)
from jobs.bench.tune_ways import Span, Task, feeds_in_memory, run_documented, train_bare
from raymc.cli import runs
from raymc.config import override
from raymc.data.shards import open_dataset
from raymc.errors import ConfigError

TINY: dict[str, Any] = {"trials": 2, "epochs": 2, "clips": 16, "rounds": 1, "at_a_time": (1,)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that trains in no time."""
    model = {"width": 8, "depth": 1, "fusion_depth": 1, "heads": 2, "embedding_dim": 8}
    search = {**bench.SETTINGS["search"], "space": {"optimizer.lr": {"low": 1e-4, "high": 0.03}}}
    given = {"batch": {"size": 8}, "model": model, "search": search}
    monkeypatch.setattr(bench, "SETTINGS", given)


@pytest.fixture
def here(small: None, ray_logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ways run in this process, so that they share the Ray of the tests."""

    def call(with_own_ray: object, run: Callable[..., Any], task: Any) -> Any:
        return run(task)

    monkeypatch.setattr(bench, "apart", call)


def run(at_a_time: int, *times: tuple[float, float], best: float = 1.0) -> dict[str, Any]:
    """The figures of a command from second 100 to 200."""
    spans = [Span({"n": n}, float(x), float(y), best) for n, (x, y) in enumerate(times)]
    return figures_of(spans, at_a_time, began=100.0, ended=200.0)


def measured(way: str, at_a_time: int, *runs: dict[str, Any]) -> Measurement:
    found = Measurement(way, {"at_a_time": at_a_time})
    for one in runs:
        found.add(**one)
    return found


def bare(task: Task) -> dict[float, float]:
    """The best value of each trial by its learning rate, of a loop on one thread."""
    dataset = open_dataset(task.config.data.path)
    feeds, told, best = feeds_in_memory(task.config, dataset), list[tuple[int, float]](), {}
    for params in task.trials:
        config = override(task.config, params)
        value = train_bare(config, dataset, feeds, tell=lambda *epoch: told.append(epoch))
        best[params["optimizer.lr"]] = pytest.approx(value, rel=1e-6)
    assert [epoch for epoch, _ in told] == [1, 2] * len(task.trials)
    return best


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_the_whole_benchmark_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, ways, reported = io.StringIO(), ("raymc", "optuna"), list[object]()
    # each takes longer than its sweep
    monkeypatch.setattr(runs, "_add_report", lambda run, *_: reported.append(run))
    settings = Settings(**TINY, ways=ways, parts=("ways", "stopping", "growth"))
    bench_tune(Console(file=page, width=200), settings, out=tmp_path)
    rows = [line.split(" | ") for line in page.getvalue().splitlines() if line[:3] == "| 1"]
    assert [row[1:3] for row in rows] == [["optuna", "2"], ["raymc", "2"]]
    assert rows[0][5] == "1.00"
    assert "All ways reached the same value in every trial." in page.getvalue()
    assert (tmp_path / "tune.md").read_text().strip() in page.getvalue()
    found = json.loads((tmp_path / "tune.json").read_text())["measurements"]
    assert [m["name"] for m in found] == [*ways, "none", "asha", "driver"]
    assert len(reported) == 3  # of raymc's way, and of both schedulers
    *both, none, asha, driver = (m["figures"] for m in found)
    expected = bare(Bench(Settings(**TINY), tmp_path, Console()).task("bare", 1))
    assert len(expected) == 2
    for way in both:
        spans = way["spans"][0]
        assert {span["params"]["optimizer.lr"]: span["best"] for span in spans} == expected
        assert all(span["ended"] - span["began"] > 0 for span in spans)
    assert len(none["values"][0]) == 2 * 2
    assert set(asha["values"][0]) <= set(none["values"][0])
    assert len(driver["cpu_seconds"]) == len(driver["resident_bytes"]) == 8
    assert driver["cpu_seconds"] == sorted(driver["cpu_seconds"])


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_ray_s_documented_way_reaches_what_a_bare_loop_does(tmp_path: Path) -> None:
    task = Bench(Settings(**TINY), tmp_path, Console()).task("one", 1)
    [span] = run_documented(replace(task, trials=task.trials[:1]))
    lr = span.params["optimizer.lr"]
    assert {lr: span.best}.items() <= bare(task).items()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_packed_trials_share_the_device(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[Task] = []

    def run_nothing(found: Measurement, task: Task) -> None:
        tasks.append(task)
        found.add(**run(task.at_a_time, (0, 10), (0, 10), (10, 20), (10, 20)))

    monkeypatch.setattr(bench, "run_task", run_nothing)
    settings = Settings(**TINY, packed=2, device=device)
    text, found = Bench(settings, tmp_path, Console()).packed()
    assert [one.case for one in found] == [{"at_a_time": 2}, {"at_a_time": 1}]
    for task, share in zip(tasks, (0.5, 1.0), strict=True):
        search = task.config.search
        assert (search.cpus_per_trial if device == "cpu" else search.gpus_per_trial) == share
        assert task.config.train.device == ("cpu" if device == "cpu" else "gpu")
    assert ("**Not run on a GPU here**" in text) == (device == "cpu")


def test_the_first_trial_of_each_process_is_kept_apart() -> None:
    found = run(2, (110, 130), (111, 131), (130, 140), (131, 141), (140, 150))
    assert found["first_seconds"] == 20
    assert found["later_seconds"] == 10
    assert found["slot_seconds"] == pytest.approx(2 * (145.5 - 130.5) / 3)
    assert found["trials_an_hour"] == pytest.approx(7200 / 10)
    assert (found["before"], found["after"]) == (10, 50)
    assert math.isnan(run(2, (110, 130), (111, 131))["slot_seconds"])


def test_ways_are_compared_within_their_round() -> None:
    raymc = [run(1, (100, 115), (115, 120)), run(1, (100, 110), (110, 120))]
    optuna = [run(1, (100, 110), (110, 120)), run(1, (100, 110), (110, 118))]
    found = [measured("raymc", 1, *raymc), measured("optuna", 1, *optuna)]
    table = ways_text(Settings(**TINY), found)
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line[:3] == "| 1"]
    assert rows == [
        ["1", "optuna", "2", "405", "360 to 450", "1.00", "", "0.00", "10.0", "0.0", "81.0"],
        ["1", "raymc", "2", "540", "360 to 720", "1.40", "", "-1.50", "12.5", "0.0", "80.0"],
    ]
    assert "All ways reached the same value" in table
    found[0].add(**run(1, (100, 110), (110, 120), best=0.5))
    assert "The values of trials differ!" in ways_text(Settings(**TINY), found)


def test_stopping_is_judged_where_both_arrive() -> None:
    none, asha = Measurement("none"), Measurement("asha")
    none.add(seconds=[1.0, 2.0, 3.0, 4.0], values=[0.2, 0.5, 0.4, 0.9])
    asha.add(seconds=[1.0, 2.0, 2.5], values=[0.2, 0.5, 0.8])
    rows = [line for line in stopping_text(none, asha).splitlines() if line[:3] in ("| n", "| a")]
    assert rows == [
        "| none | 0.9000 | 4 | 4.0 | 4 | 4.0 |",
        "| asha | 0.8000 | 3 | 2.5 | 3 | 2.5 |",
    ]


def test_growth_compares_the_first_trials_with_the_last() -> None:
    driver = Measurement("driver")
    for n in range(1, 9):
        driver.add(cpu_seconds=0.1 * n if n < 5 else 0.2 * n - 0.5, resident_bytes=n << 20)
    rows = [line for line in growth_text(driver, 2).splitlines() if line.startswith("| the")]
    assert rows == ["| the first 2 | 100 | 2 |", "| the last 2 of 8 | 200 | 8 |"]


def test_packing_is_compared_round_by_round() -> None:
    both = [
        measured("packed", 2, run(2, (0, 10), (0, 10), (10, 20), (10, 20))),
        measured("packed", 1, run(1, (0, 10), (10, 25))),
    ]
    text = packed_text(both, "cuda")
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
