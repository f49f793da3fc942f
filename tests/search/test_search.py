"""Sweeps on Ray Tune and Optuna: pruned, failed, killed and gone on with, on one worker or two."""

from collections.abc import Callable
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
from click.testing import CliRunner
from drivers import RAYMC, kill, running, wait_until, write_config
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import FrozenTrial
from ray.util import placement_group_table
from rich.console import Console
from tiny import SPLIT_ROWS, fit_here

from raymc.cli.main import main
from raymc.cli.runs import run_tune
from raymc.config import Config, override
from raymc.data.shards import Dataset
from raymc.errors import SweepError
from raymc.events import EpochEnded
from raymc.search.audit import audit_trials
from raymc.search.trials import Trial, trials_of
from raymc.tracking import tracking_uri
from raymc.training.bundle import WEIGHTS
from raymc.training.runs import read_run

SETTINGS: dict[str, Any] = {
    "train.epochs": 4,
    "optimizer.lr": 0.01,
    "search.grace_epochs": 1,
    "search.reduction_factor": 2,
    "search.concurrent": 1,
}
BAD_LR = {"choices": [0.01, 1e-9]}  # of which the second learns nothing


@dataclass
class Sweep:
    """A sweep as it was asked for, and what is left of it."""

    config: Config
    printed: StringIO = field(default_factory=StringIO)

    @property
    def folder(self) -> Path:
        return Path(self.config.run.folder) / self.config.run.name

    def run(self) -> Path:
        """Do what `raymc tune` does; returns the bundle."""
        return run_tune(self.config, Console(file=self.printed, width=120))

    def frozen(self) -> list[FrozenTrial]:
        """What Optuna holds, which nobody needs to have opened yet."""
        return optuna.load_study(
            study_name=self.config.run.name, storage=f"sqlite:///{self.folder / 'study.db'}"
        ).trials

    def trials(self) -> list[Trial]:
        return trials_of(self.frozen(), self.config)

    def states(self) -> list[str]:
        return [trial.state for trial in self.trials()]

    def mlflow_runs(self) -> tuple[Run, dict[int, Run]]:
        """The parent run, and the trials' runs by number."""
        client = self.client()
        experiment = client.get_experiment_by_name(self.config.tracking.experiment)
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
        children = [run for run in runs if run is not parent]
        assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {parent.info.run_id}
        numbers = [int(run.data.tags["raymc.trial"]) for run in children]
        assert len(set(numbers)) == len(numbers)
        return parent, dict(zip(numbers, children))

    def history(self, run: Run, metric: str) -> list[tuple[int, float]]:
        found = self.client().get_metric_history(run.info.run_id, metric)
        return sorted((point.step, point.value) for point in found)

    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri(self.config.tracking, self.config.run.folder))


MakeSweep = Callable[..., Sweep]


@pytest.fixture(scope="module")
def make(ray_logs: Path, runs_folder: Path, tiny_config: Config) -> MakeSweep:
    """Makes sweeps, each with a folder and an MLflow experiment of its own."""

    def make_sweep(name: str, space: dict[str, Any], **settings: Any) -> Sweep:
        named = {"run.name": name, "run.folder": str(runs_folder), "tracking.experiment": name}
        config = override(tiny_config, {**SETTINGS, **named, "search.space": space})
        return Sweep(override(config, {key.replace("__", "."): x for key, x in settings.items()}))

    return make_sweep


@pytest.fixture(scope="module")
def finished(make: MakeSweep) -> Sweep:
    """A sweep of five trials, some of them pruned, done once for all tests."""
    space = {
        "loss.margin": {"low": 0.0, "high": 0.5},
        "optimizer.lr": BAD_LR,
        "model.fusion_depth": {"low": 0, "high": 2},
    }
    made = make("finished", space, search__trials=5, search__startup_trials=2)
    made.run()
    return made


def test_states_are_told_apart(finished: Sweep) -> None:
    trials = finished.trials()
    assert len(trials) == finished.config.search.trials
    assert {trial.state for trial in trials} == {"complete", "pruned"}
    for trial, frozen in zip(trials, finished.frozen()):
        values = values_of(trial)
        assert values == frozen.intermediate_values
        assert list(values) == list(range(1, len(values) + 1))
        assert (len(values) == 4) == (trial.state == "complete")
        if trial.state == "complete":
            assert frozen.value == max(values.values())
        assert trial.value == trial.best["val/mAP"] == max(values.values())
        assert trial.seconds > 0


def values_of(trial: Trial) -> dict[int, float]:
    """The monitored metric by epoch."""
    return {epoch.number: epoch.value for epoch in trial.epochs}


def test_the_study_is_asked_for_what_the_space_says(finished: Sweep) -> None:
    trials = finished.trials()
    assert trials[0].params == {
        "loss.margin": finished.config.loss.margin,
        "optimizer.lr": finished.config.optimizer.lr,
        "model.fusion_depth": finished.config.model.fusion_depth,
    }
    assert all(type(trial.params["model.fusion_depth"]) is int for trial in trials)
    assert len({trial.params["loss.margin"] for trial in trials}) == len(trials)


def test_every_trial_is_a_run_in_mlflow(finished: Sweep) -> None:
    parent, runs = finished.mlflow_runs()
    assert parent.data.tags["raymc.state"] == "complete"
    assert sorted(runs) == list(range(5))
    for trial in finished.trials():
        run = runs[trial.number]
        assert run.data.tags["raymc.state"] == trial.state
        assert run.data.params == {path: str(value) for path, value in trial.params.items()}
        assert finished.history(run, "val/mAP") == list(values_of(trial).items())
        assert run.data.metrics["best/mAP"] == trial.value
        assert run.data.metrics["cost/seconds"] > 0


def test_the_winner_is_the_best_epoch_of_all(finished: Sweep) -> None:
    trials = finished.trials()
    best = max(trials, key=lambda trial: trial.score)
    checkpoint = Path(best.checkpoint)
    assert f"trial-{best.number:04d}" in checkpoint.parts
    winner = (finished.folder / "bundle" / WEIGHTS).read_bytes()
    assert winner == (checkpoint / WEIGHTS).read_bytes()
    parent, _ = finished.mlflow_runs()
    assert parent.data.metrics["best/mAP"] == best.value
    assert f"best: trial {best.number}, " in finished.printed.getvalue()


def test_a_trial_that_has_ended_keeps_its_best_checkpoint_alone(finished: Sweep) -> None:
    for trial in finished.trials():
        folder = finished.folder / "trials" / "session-000" / f"trial-{trial.number:04d}"
        assert [str(path) for path in folder.iterdir()] == [trial.checkpoint]


def test_the_rows_of_every_trial_are_audited(finished: Sweep) -> None:
    trials = finished.trials()
    found = audit_trials(read_run(finished.folder))
    best = [int(trial.best["epoch"]) for trial in trials]
    assert [(each.name, len(each.epochs)) for each in found] == [
        (str(number), epochs) for number, epochs in enumerate(best)
    ]
    assert all(epoch.once == SPLIT_ROWS["train"] for each in found for epoch in each.epochs)
    assert all(each.is_right for each in found)
    done = CliRunner().invoke(main, ["data", "audit", str(finished.folder)])
    assert (done.exit_code, done.output.splitlines()[-1]) == (
        0,
        "5 trials: no row lost, none used twice",
    )


def test_the_report_is_kept_with_the_sweep(finished: Sweep, tmp_path: Path) -> None:
    page = (finished.folder / "report.html").read_text("utf-8")
    assert "Best trial against default" in page
    assert "The model could not be examined" not in page
    parent, _ = finished.mlflow_runs()
    stored = finished.client().download_artifacts(parent.info.run_id, "report.html", str(tmp_path))
    assert Path(stored).read_text("utf-8") == page


def test_the_report_is_made_again_when_asked(finished: Sweep, tmp_path: Path) -> None:
    folder, out = f"run.folder={finished.config.run.folder}", tmp_path / "again.html"
    arguments = ["report", "finished", folder, "--out", str(out), "--price", "7"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "".join(result.output.split()) == f"report:{out}"
    assert " at 7 an hour" in out.read_text("utf-8")
    parent, _ = finished.mlflow_runs()
    assert parent.data.tags["raymc.state"] == "complete"
    stored = finished.client().download_artifacts(parent.info.run_id, "report.html", str(tmp_path))
    assert Path(stored).read_text("utf-8") == out.read_text("utf-8")


def test_a_report_that_fails_costs_no_sweep(
    make: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise RuntimeError("no ink\nleft")

    monkeypatch.setattr("raymc.cli.runs.build_report", fail)
    made = make("inkless", {"loss.margin": {"low": 0, "high": 0.5}}, search__trials=1)
    assert (made.run() / WEIGHTS).is_file()
    assert "no report could be made: no ink\n" in made.printed.getvalue()
    parent, _ = made.mlflow_runs()
    assert parent.data.tags["raymc.state"] == "complete"


def test_a_finished_sweep_does_nothing_again(finished: Sweep) -> None:
    before = finished.trials()
    sessions = list((finished.folder / "trials").iterdir())
    finished.printed.truncate(0)
    assert finished.run() == finished.folder / "bundle"
    assert finished.trials() == before
    assert list((finished.folder / "trials").iterdir()) == sessions
    assert "best: trial" in finished.printed.getvalue()


def test_more_trials_go_on_with_the_same_study(finished: Sweep) -> None:
    more = Sweep(override(finished.config, {"search.trials": 6}))
    before = more.trials()
    _, runs = more.mlflow_runs()
    more.run()
    assert more.trials()[:5] == before
    assert len(more.trials()) == 6
    _, now = more.mlflow_runs()
    assert {number: now[number].info.run_id for number in runs} == {
        number: run.info.run_id for number, run in runs.items()
    }


def test_a_diverging_trial_has_failed_and_others_go_on(make: MakeSweep) -> None:
    space = {"loss.temperature": {"choices": [0.1, 1e-40]}}
    made = make("diverging", space, search__trials=4, search__sampler="random", train__epochs=2)
    made.run()
    trials = made.trials()
    _, runs = made.mlflow_runs()
    assert {trial.params["loss.temperature"] for trial in trials} == {0.1, 1e-40}
    for trial in trials:
        failed = trial.params["loss.temperature"] == 1e-40
        assert (trial.state == "failed") == failed
        assert ("loss became nan in epoch 1" in trial.message) == failed
        assert (runs[trial.number].data.tags["raymc.state"] == "failed") == failed


def test_a_sweep_in_which_every_trial_fails(make: MakeSweep) -> None:
    made = make("failing", {"loss.temperature": {"choices": [1e-40]}}, search__trials=2)
    message = r"all 2 trials of the sweep failed; the first: the loss became nan in epoch 1: try "
    with pytest.raises(SweepError, match=message) as caught:
        made.run()
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    assert made.states() == ["failed", "failed"]
    parent, runs = made.mlflow_runs()
    states = [run.data.tags["raymc.state"] for run in (parent, *runs.values())]
    assert states == ["failed"] * 3


@pytest.mark.slow
def test_a_killed_sweep_goes_on(make: MakeSweep, tiny: Dataset, tmp_path: Path) -> None:
    space = {"loss.margin": {"low": 0.0, "high": 0.5}, "optimizer.lr": BAD_LR}
    made = make(
        "killed", space, search__trials=5, search__concurrent=2, search__scheduler="none",
        train__epochs=12,
    )  # fmt: skip
    file = write_config(made.config, tmp_path / "sweep.yaml")
    with running(RAYMC, "tune", file, log=tmp_path / "log.txt") as process:
        wait_until(lambda: _is_in_the_middle(made), process)
        kill(process)
    before = made.trials()
    _, runs_before = made.mlflow_runs()
    assert "running" in {trial.state for trial in before}

    made.run()
    trials = made.trials()
    assert len(trials) == 5
    assert all(trial.is_over for trial in trials)
    for old, new in zip(before, trials):
        assert old.params.items() <= new.params.items()
        assert new.params.keys() == space.keys()
        # some may be missing only where the driver was killed while it drew them, before an epoch
        assert new.params == old.params or not old.epochs
        assert values_of(old).items() <= values_of(new).items()
        assert old == new or old.state == "running"
    _, runs = made.mlflow_runs()
    assert sorted(runs) == list(range(5))
    for number, run in runs_before.items():
        assert runs[number].info.run_id == run.info.run_id
    for trial in trials:
        epochs = list(values_of(trial).items())
        assert [epoch for epoch, _ in epochs] == list(range(1, len(epochs) + 1))
        assert made.history(runs[trial.number], "val/mAP") == epochs
    resumed = next(trial for trial in before if trial.state == "running")
    assert _uninterrupted(made, trials[resumed.number], tiny) == values_of(trials[resumed.number])


def _is_in_the_middle(made: Sweep) -> bool:
    """Say whether a trial has ended, since a third of two at a time has come to its 2nd epoch."""
    return any(made.folder.glob("trials/session-000/trial-0002/checkpoint_000001"))


def _uninterrupted(made: Sweep, trial: Trial, dataset: Dataset) -> dict[int, float]:
    """Train a trial's settings in this process; returns the monitored metric of each epoch."""
    config = override(made.config, trial.params)
    reports: list[EpochEnded] = []
    fit_here(dataset, config, lambda event, folder: reports.append(event))
    epochs = reports[: trial.epoch]
    return {event.epoch: event.metrics[config.train.monitor] for event in epochs}


@pytest.mark.slow
def test_trials_of_several_workers_that_are_stopped_leave_nothing_behind(make: MakeSweep) -> None:
    made = make(
        "group", {"optimizer.lr": BAD_LR}, search__trials=2, train__workers=2, train__epochs=2
    )
    made.run()
    assert made.states() == ["complete", "pruned"]
    wait_until(_nothing_is_reserved)


def _nothing_is_reserved() -> bool:
    states = {group["state"] for group in placement_group_table().values()}
    free = ray.available_resources().get("CPU")
    return states <= {"REMOVED"} and free == ray.cluster_resources()["CPU"]
