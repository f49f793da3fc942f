"""Sweeps on Ray Tune and Optuna: pruned, failed, killed and resumed, on one worker or two."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import ray
import torch
from click.testing import CliRunner
from drivers import RAYMC, kill, running, wait_until, write_config
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus, Run
from optuna.trial import FrozenTrial
from pages import draw_nothing
from ray.util import placement_group_table
from rich.console import Console
from tiny import SPLIT_ROWS, feed_of, fit_here

from raymc.cli.main import main
from raymc.cli.runs import run_tune
from raymc.config import Config, override
from raymc.data.shards import Dataset
from raymc.errors import SweepError
from raymc.events import EpochEnded
from raymc.metrics.metrics import evaluate_scores
from raymc.runtime.connect import GROWS_TO
from raymc.search import gathering
from raymc.search.audit import audit_trials
from raymc.search.gathering import Room
from raymc.search.searcher import FAILURE, HandingOut
from raymc.search.trials import Trial, trials_of, winner
from raymc.tracking import tracking_uri
from raymc.training import checkpoint
from raymc.training.bundle import WEIGHTS
from raymc.training.learner import make_model
from raymc.training.runs import read_run
from raymc.training.validation import predict

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fewest_resamples", "quick_figures")]

SETTINGS: dict[str, Any] = {
    "train.epochs": 4,
    "optimizer.lr": 0.01,
    "search.grace_epochs": 1,
    "search.reduction_factor": 2,
    "search.concurrent": 1,
}
BAD_LR = {"choices": [0.01, 1e-9]}  # the second learns nothing
DIVERGING = {"choices": [0.1, 1e-40]}  # the second makes the loss nan


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
            study_name=read_run(self.folder).id, storage=f"sqlite:///{self.folder / 'study.db'}"
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

    def models(self) -> list[LoggedModel]:
        experiment = self.client().get_experiment_by_name(self.config.tracking.experiment)
        assert experiment is not None
        return list(self.client().search_logged_models([experiment.experiment_id]))

    def history(self, run: Run, metric: str) -> list[tuple[int, float]]:
        found = self.client().get_metric_history(run.info.run_id, metric)
        return sorted((point.step, point.value) for point in found)

    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri(self.config.tracking, self.config.run.folder))


MakeSweep = Callable[..., Sweep]


@pytest.fixture(scope="module")
def quick_figures() -> Iterator[None]:
    """Figures of reports are put together, but not drawn: tests/report draws them."""
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        yield


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
    """The one sweep of all tests that only read one: trials that are complete, pruned and failed.

    It was interrupted after its last trial, while its model was logged, and resumed. The sampler
    doesn't look at results, so the seed alone decides that all three occur.
    """
    space = {
        "loss.margin": {"low": 0.0, "high": 0.5},
        "optimizer.lr": BAD_LR,
        "loss.temperature": DIVERGING,
        "model.fusion_depth": {"low": 0, "high": 2},
    }
    made = make("finished", space, search__trials=5, search__sampler="random", train__seed=3)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "finalize_logged_model", interrupt)
        with pytest.raises(KeyboardInterrupt):
            made.run()
    parent, _ = made.mlflow_runs()
    assert parent.data.tags["raymc.state"] == "stopped"
    assert not (made.folder / "report.html").exists()
    made.run()
    return made


def test_what_was_left_to_do_is_done_once(finished: Sweep) -> None:
    parent, _ = finished.mlflow_runs()
    assert parent.data.tags["raymc.state"] == "complete"
    [model] = finished.models()
    assert model.status == LoggedModelStatus.READY
    assert f"MLflow model: {model.model_uri}" in finished.printed.getvalue()
    assert len(list((finished.folder / "trials").glob("session-*"))) == 1
    assert read_run(finished.folder).is_finished


def test_states_are_told_apart(finished: Sweep) -> None:
    trials = finished.trials()
    assert len(trials) == finished.config.search.trials
    assert {trial.state for trial in trials} == {"complete", "pruned", "failed"}
    for trial, frozen in zip(trials, finished.frozen()):
        values = values_of(trial)
        assert values == frozen.intermediate_values
        assert list(values) == list(range(1, len(values) + 1))
        assert (len(values) == 4) == (trial.state == "complete")
        if trial.state == "complete":
            assert frozen.value == max(values.values())
        if trial.state != "failed":
            assert trial.value == trial.best["val/mAP"] == max(values.values())
        assert trial.seconds > 0


def test_a_diverging_trial_has_failed_and_others_continue(finished: Sweep) -> None:
    for trial in finished.trials():
        failed = trial.params["loss.temperature"] == 1e-40
        assert (trial.state == "failed") == failed
        assert ("loss became nan in epoch 1" in trial.message) == failed
        told = " failed: the loss became nan in epoch 1: "
        lines = [line for line in finished.printed.getvalue().splitlines() if told in line]
        assert any(f" {trial.number}" in line.partition(told)[0] for line in lines) == failed


def values_of(trial: Trial) -> dict[int, float]:
    """The monitored metric by epoch."""
    return {epoch.number: epoch.value for epoch in trial.epochs}


def test_the_study_is_asked_for_what_the_space_says(finished: Sweep) -> None:
    trials = finished.trials()
    assert trials[0].params == {
        "loss.margin": finished.config.loss.margin,
        "optimizer.lr": finished.config.optimizer.lr,
        "loss.temperature": finished.config.loss.temperature,
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
        assert run.data.metrics.get("best/mAP") == trial.value
        assert run.data.metrics["cost/seconds"] > 0


def test_the_winner_is_the_best_epoch_of_all(finished: Sweep) -> None:
    trials = finished.trials()
    best = winner(trials)
    checkpoint = Path(best.checkpoint)
    assert f"trial-{best.number:04d}" in checkpoint.parts
    kept = (finished.folder / "bundle" / WEIGHTS).read_bytes()
    assert kept == (checkpoint / WEIGHTS).read_bytes()
    parent, _ = finished.mlflow_runs()
    assert parent.data.metrics["best/mAP"] == best.value
    assert f"best: trial {best.number}, " in finished.printed.getvalue()


def test_a_trial_that_has_ended_keeps_its_best_checkpoint_alone(finished: Sweep) -> None:
    for trial in finished.trials():
        folder = finished.folder / "trials" / "session-000" / f"trial-{trial.number:04d}"
        kept = [str(path) for path in folder.iterdir()] if folder.exists() else []
        assert kept == [trial.checkpoint][: trial.epoch]


def test_the_rows_of_every_trial_are_audited(finished: Sweep) -> None:
    trials = finished.trials()
    found = audit_trials(read_run(finished.folder))
    assert [(each.name, len(each.epochs)) for each in found] == [
        (str(trial.number), int(trial.best["epoch"])) for trial in trials if trial.best
    ]
    assert all(epoch.once == SPLIT_ROWS["train"] for each in found for epoch in each.epochs)
    assert all(each.is_right for each in found)
    done = CliRunner().invoke(main, ["data", "audit", str(finished.folder)])
    assert (done.exit_code, done.output.splitlines()[-1]) == (
        0,
        f"{len(found)} trials: no row lost, none used twice",
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


def test_a_finished_sweep_does_nothing_again(finished: Sweep) -> None:
    before = finished.trials()
    sessions = list((finished.folder / "trials").iterdir())
    finished.printed.truncate(0)
    assert finished.run() == finished.folder / "bundle"
    assert finished.trials() == before
    assert list((finished.folder / "trials").iterdir()) == sessions
    assert "best: trial" in finished.printed.getvalue()
    assert len(finished.models()) == 1


def test_more_trials_continue_the_study_and_a_failing_report_costs_nothing(
    finished: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise RuntimeError("no ink\nleft")

    monkeypatch.setattr("raymc.report.build.build_report", fail)
    changes = {"search.trials": 6, "search.sampler": "tpe", "search.startup_trials": 2}
    more = Sweep(override(finished.config, changes))
    before = more.trials()
    _, runs = more.mlflow_runs()
    assert (more.run() / WEIGHTS).is_file()
    assert more.trials()[:5] == before
    assert len(more.trials()) == 6
    assert "no report could be made: no ink\n" in more.printed.getvalue()
    parent, now = more.mlflow_runs()
    assert parent.data.tags["raymc.state"] == "complete"
    assert {number: now[number].info.run_id for number in runs} == {
        number: run.info.run_id for number, run in runs.items()
    }


def test_a_sweep_in_which_every_trial_fails(
    make: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tuner(run: object, train: object, trials: HandingOut, *_: object, **__: object) -> Any:
        """A tuner whose trials all fail, without starting processes for them."""

        def fit() -> None:
            while not trials.is_finished():
                trials.searcher.suggest("a")
                trials.on_trial_complete("a", {FAILURE: "no luck"})

        return SimpleNamespace(fit=fit)

    monkeypatch.setattr("raymc.search.sweep.make_tuner", tuner)
    made = make("failing", {"loss.margin": {"low": 0.0, "high": 0.5}}, search__trials=2)
    with pytest.raises(SweepError, match=r"^all 2 trials .* failed; the first: no luck$"):
        made.run()
    assert made.states() == ["failed", "failed"]
    parent, runs = made.mlflow_runs()
    states = [run.data.tags["raymc.state"] for run in (parent, *runs.values())]
    assert states == ["failed"] * 3


def test_a_killed_sweep_is_resumed_and_a_trial_that_moves_trains_the_same(
    make: MakeSweep,
    tiny: Dataset,
    tmp_path: Path,
    joined: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of the last trials moves as to another node of a cluster that ends nodes."""
    space = {"loss.margin": {"low": 0.0, "high": 0.5}, "optimizer.lr": BAD_LR}
    made = make(
        "killed", space, search__trials=4, search__concurrent=2, search__scheduler="none",
        train__epochs=6,
    )  # fmt: skip
    file = write_config(made.config, tmp_path / "sweep.yaml")
    with running(RAYMC, "tune", file, log=tmp_path / "log.txt", environment=joined) as process:
        wait_until(lambda: _is_in_the_middle(made), process, seconds=600.0)
        kill(process)
    before = made.trials()
    _, runs_before = made.mlflow_runs()
    assert "running" in {trial.state for trial in before}

    moved = list[Room]()

    def place_once(node: str, rooms: Mapping[str, Room]) -> str | None:
        moved.append(rooms[node])
        return node if len(moved) == 1 else None

    monkeypatch.setenv(GROWS_TO, "CPU=1")
    monkeypatch.setattr(gathering, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(gathering, "place_for", place_once)
    monkeypatch.setattr("raymc.report.build.build_report", lambda *_, **__: "")
    made.run()
    assert 1 <= moved[0].ours <= moved[0].held
    trials = made.trials()
    assert len(trials) == 4
    assert all(trial.is_over for trial in trials)
    for old, new in zip(before, trials):
        assert old.params.items() <= new.params.items()
        assert new.params.keys() == space.keys()
        # some may be missing only where the driver was killed while it drew them, before an epoch
        assert new.params == old.params or not old.epochs
        assert values_of(old).items() <= values_of(new).items()
        assert old == new or old.state == "running"
    _, runs = made.mlflow_runs()
    assert sorted(runs) == list(range(4))
    for number, run in runs_before.items():
        assert runs[number].info.run_id == run.info.run_id
    for trial in trials:
        epochs = list(values_of(trial).items())
        assert [epoch for epoch, _ in epochs] == list(range(1, len(epochs) + 1))
        assert made.history(runs[trial.number], "val/mAP") == epochs
    resumed = next(trial for trial in before if trial.state == "running")
    for number in {resumed.number, 2, 3}:
        assert _uninterrupted(made, trials[number], tiny) == values_of(trials[number])


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


def test_trials_of_several_workers_train_what_one_does_and_leave_nothing_behind(
    make: MakeSweep, tiny: Dataset, tmp_path: Path
) -> None:
    """The second trial is stopped, whose workers go before their process does."""
    made = make(
        "group", {"optimizer.lr": BAD_LR}, search__trials=2, train__workers=2, train__epochs=2,
        model__dropout=0.0, model__modality_dropout=0.0,
    )  # fmt: skip
    made.run()
    assert made.states() == ["complete", "pruned"]
    alone: dict[int, EpochEnded] = {}

    def keep(event: EpochEnded, folder: Path | None) -> None:
        assert folder is not None
        alone[event.epoch] = event
        shutil.copytree(folder, tmp_path / str(event.epoch))

    fit_here(tiny, made.config, keep)
    trial = made.trials()[0]
    assert [epoch.number for epoch in trial.epochs] == list(alone) == [1, 2]
    for epoch in trial.epochs:
        expected = alone[epoch.number].metrics
        assert epoch.metrics.keys() >= expected.keys()
        for name in expected.keys() - {"train/samples_per_second", "train/waiting"}:
            assert epoch.metrics[name] == pytest.approx(expected[name], abs=1e-4), name
    loaded = checkpoint.load(Path(trial.checkpoint))
    own = checkpoint.load_weights(tmp_path / str(loaded.progress.epoch))
    for name, weight in own.items():  # keys' biases change nothing, and so by any part of the rate
        np.testing.assert_allclose(loaded.weights[name], weight, atol=1e-2, err_msg=name)
    # every row of the validation split counts once
    model = make_model(made.config, tiny.manifest)
    model.load_state_dict(loaded.weights)
    found = predict(model, feed_of(tiny, "val", made.config), device=torch.device("cpu"))
    assert found.rows.tolist() == list(range(SPLIT_ROWS["val"]))
    scores = evaluate_scores(found.scores, found.labels, found.observed)
    for name, value in scores.to_dict().items():
        assert loaded.progress.metrics[f"val/{name}"] == pytest.approx(value, abs=1e-6)
    wait_until(_nothing_is_reserved)


def _nothing_is_reserved() -> bool:
    states = {group["state"] for group in placement_group_table().values()}
    free = ray.available_resources().get("CPU")
    return states <= {"REMOVED"} and free == ray.cluster_resources()["CPU"]
