"""Runs and sweeps read back from MLflow."""

import math
import sqlite3
from dataclasses import replace
from io import StringIO

import pytest
from mlflow import MlflowClient
from rich.console import Console

from raymc.cli.tables import runs_table, trials_table
from raymc.config import TrackingConfig
from raymc.errors import ConfigError, ResourceError
from raymc.tracking import (
    EndState,
    Tracker,
    find_recorded,
    list_runs,
    open_tracker,
    read_trials,
    sweeps,
)


def record_sweep(tracker: Tracker, name: str, margins: dict[float, tuple[float, EndState]]) -> None:
    tracker.start_run(name, key=name, params={}, tags={})
    for number, (margin, (value, state)) in enumerate(margins.items()):
        run = tracker.start_run(
            f"{name}/{number}",
            key=f"{name}/{number}",
            parent=name,
            params={"loss.margin": margin, "loss.temperature": 0.1 * margin, "model.depth": 2},
            tags={"raymc.trial": str(number)},
        )
        tracker.log_epoch(run, 1, {"val/mAP": value, "val/R80": value / 2}, is_best=True)
        tracker.log_epoch(run, 2, {"val/mAP": value - 0.1, "val/R80": 0.0})
        tracker.end_run(run, state, metrics={"cost/seconds": 90.0})
    assert tracker.close() == 0


def test_a_sweep_is_read_back_and_shown(folder: str, config: TrackingConfig) -> None:
    record_sweep(open_tracker(config, folder), "old", {0.5: (0.3, "complete")})
    tracker = open_tracker(config, folder)
    record_sweep(tracker, "new", {0.1: (0.4, "pruned"), 0.2: (0.6, "complete")})

    known = list_runs(tracker.uri, config.experiment)
    assert [(sweep.name, sweep.trials) for sweep in known] == [("new", 2), ("old", 1)]
    assert [sweep.value for sweep in known] == [0.6, 0.3]
    first, second = read_trials(tracker.uri, config.experiment, known[0].run_id)
    assert (first.number, first.state, first.value, first.epoch) == (0, "pruned", 0.4, 2)
    assert (second.number, second.recall, second.seconds) == (1, 0.3, 90.0)
    assert second.params["loss.margin"] == "0.2"
    by_id = read_trials(tracker.uri, config.experiment, known[1].run_id, metric="val/R80")
    assert [trial.value for trial in by_id] == [0.15]

    console = Console(file=StringIO(), width=100, record=True)
    console.print(trials_table([first, second]))
    shown = [line.split() for line in console.export_text().strip().splitlines()]
    assert shown == [
        ["trial", "state", "val/mAP", "R80", "epoch", "time", "margin", "τ"],
        ["1", "complete", "0.6000", "0.3000", "2", "1:30", "0.2", "0.02"],
        ["0", "pruned", "0.4000", "0.2000", "2", "1:30", "0.1", "0.01"],
    ]


def test_a_local_database_is_read_as_mlflow_reads_it(
    folder: str, config: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = open_tracker(config, folder)
    margins = {0.1: (0.4, "pruned"), 0.2: (math.nan, "failed"), 0.3: (0.6, "complete")}
    record_sweep(tracker, "both", margins)  # pyright: ignore[reportArgumentType]
    MlflowClient(tracker.uri).delete_run(tracker.run_id("both/0"))
    found = [sweeps._all_runs(tracker.uri, config.experiment)]

    def unknown_tables(*_: object) -> None:
        raise sqlite3.OperationalError("no such table: runs")

    monkeypatch.setattr(sweeps, "_runs_of_file", unknown_tables)
    found.append(sweeps._all_runs(tracker.uri, config.experiment))
    assert repr(sorted_runs(found[0])) == repr(sorted_runs(found[1]))  # NaN differs from itself
    assert len(found[0]) == 3


def sorted_runs(runs: list[sweeps._Run]) -> list[sweeps._Run]:
    """Runs as they were found, the facts of each by name."""
    named = ("tags", "params", "metrics")
    return [
        replace(run, **{of: dict(sorted(getattr(run, of).items())) for of in named}) for run in runs
    ]


def test_a_trial_without_epochs_is_read_too(folder: str, config: TrackingConfig) -> None:
    with open_tracker(config, folder) as tracker:
        tracker.start_run("s", key="s", params={}, tags={})
        tracker.start_run("t", key="t", parent="s", params={}, tags={})
    (sweep,) = list_runs(tracker.uri, config.experiment)
    assert (sweep.kind, sweep.state, sweep.value) == ("sweep", "running", None)
    (trial,) = read_trials(tracker.uri, config.experiment, sweep.run_id)
    assert (trial.number, trial.state, trial.value, trial.epoch) == (0, "running", None, 0)
    with open_tracker(config, folder) as tracker:
        tracker.end_run("t", "failed", reason="ValueError: no such layer")
    (trial,) = read_trials(tracker.uri, config.experiment, sweep.run_id)
    assert (trial.state, trial.message) == ("failed", "ValueError: no such layer")


def test_runs_of_one_name_are_told_apart(folder: str, config: TrackingConfig) -> None:
    with open_tracker(config, folder) as tracker:
        for key, kind in (("a" * 32, "run"), ("b" * 32, "sweep"), ("base", "run")):
            run = tracker.start_run("base", key=key, params={}, tags={"raymc.kind": kind})
            tracker.log_epoch(run, 1, {"val/mAP": ord(key[0]) / 200}, is_best=True)
            tracker.log_epoch(run, 2, {"val/mAP": 0.1})
        tracker.end_run("a" * 32, "complete")
    known = {run.key: run for run in list_runs(tracker.uri, config.experiment)}
    assert {key: run.kind for key, run in known.items()} == {
        "a" * 32: "run",
        "b" * 32: "sweep",
        "base": "run",
    }
    one = known["a" * 32]
    assert (one.name, one.state, one.value, one.trials) == ("base", "complete", 0.485, 0)
    assert (one.short_id, known["base"].short_id) == ("aaaaaaaa", known["base"].run_id[:8])
    runs = list(known.values())
    assert len(find_recorded(runs, "base")) == 3
    assert find_recorded(runs, "bbbbbb") == [known["b" * 32]]
    assert find_recorded(runs, known["base"].short_id) == [known["base"]]


def test_what_runs_cost(folder: str, config: TrackingConfig) -> None:
    with open_tracker(config, folder) as tracker:
        held = {"raymc.workers": "2", "raymc.gpus": "0.5"}  # two workers with a quarter each
        tracker.start_run("s", key="s", params={}, tags={"raymc.kind": "sweep", **held})
        for number, seconds in enumerate((1800.0, 5400.0)):
            tracker.start_run("t", key=f"s/{number}", parent="s", params={}, tags={})
            tracker.end_run(f"s/{number}", "complete", metrics={"cost/seconds": seconds})
        tracker.end_run("s", "complete")
        tracker.start_run("old", key="old", params={}, tags={"raymc.kind": "run"})
        tracker.end_run("old", "complete")
    runs = sorted(list_runs(tracker.uri, config.experiment), key=lambda run: run.name)
    assert [(run.gpu_hours, run.worker_hours) for run in runs] == [(None, None), (1.0, 4.0)]
    console = Console(file=StringIO(), width=100, record=True)
    console.print(runs_table(runs, price=2.5))
    old, sweep = console.export_text().strip().splitlines()[1:]
    assert " 1.00 2.50" in " ".join(sweep.split())
    assert "." not in " ".join(old.split()[-3:])  # of an earlier raymc, nothing is known
    names = [str(column.header) for column in runs_table(runs).columns]
    assert names[6] == "GPU-hours"
    assert "cost" not in names


@pytest.mark.parametrize("is_killed", [False, True])
def test_trials_of_a_stopped_sweep_wait_and_cost_no_more(
    folder: str, config: TrackingConfig, monkeypatch: pytest.MonkeyPatch, *, is_killed: bool
) -> None:
    config = replace(config, experiment=f"{config.experiment} {is_killed}")
    names = ("ended", "left", "unheard")

    def begin(tracker: Tracker, *trials: str) -> str:
        sweep = tracker.start_run("cut", key="cut", params={}, tags={"raymc.workers": "1"})
        for trial in trials:
            tracker.start_run(trial, key=f"cut/{trial}", parent=sweep, params={}, tags={})
            tracker.log_epoch(f"cut/{trial}", 1, {"val/mAP": 0.5})
        return sweep

    def statuses() -> dict[str, str]:
        runs = MlflowClient(tracker.uri).search_runs([tracker.experiment_id])
        return {run.info.run_name or "": run.info.status for run in runs}

    with open_tracker(config, folder) as tracker:
        sweep = begin(tracker, *names)
        tracker.end_run("cut/ended", "complete")
        if not is_killed:
            tracker.end_run(sweep, "stopped")
    with monkeypatch.context() as patch:
        # resumed much later, and stopped again
        patch.setattr("raymc.tracking.tracker.now", lambda: 2**45)
        with open_tracker(config, folder) as tracker:
            sweep = begin(tracker, "left")
            tracker.wait()
            ended = {"cut": "RUNNING", "ended": "FINISHED"}
            assert statuses() == {**ended, "left": "RUNNING", "unheard": "KILLED"}
            tracker.end_run(sweep, "stopped")
        assert statuses() == {**dict.fromkeys(("cut", *names), "KILLED"), "ended": "FINISHED"}
    monkeypatch.setattr(sweeps, "now", lambda: 2**60)
    [known] = list_runs(tracker.uri, config.experiment)
    assert known.state == "stopped"
    found = read_trials(tracker.uri, config.experiment, known.run_id)
    assert {trial.state for trial in found} == {"waiting", "complete"}
    assert sum(trial.seconds < 60 for trial in found) == 2  # one was resumed so much later
    assert known.worker_hours is not None
    assert known.worker_hours < 2**45 / 3.6e6


def test_unknown_names_list_those_that_exist(folder: str, config: TrackingConfig) -> None:
    tracker = open_tracker(config, folder)
    record_sweep(tracker, "margins", {0.5: (0.3, "complete")})
    runs = list_runs(tracker.uri, config.experiment)
    for asked in ("margin", "aaa"):
        with pytest.raises(ConfigError, match=rf"^MLflow has no .*{asked}'; there are: margins$"):
            find_recorded(runs, asked)
    with pytest.raises(
        ResourceError, match=rf"no experiment 'x'; there are: .*{config.experiment}"
    ):
        list_runs(tracker.uri, "x")
