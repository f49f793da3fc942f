"""Sweeps on Ray Tune and Optuna: pruned, failed, killed and gone on with, on one worker or two."""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
import torch
from conftest import feeds_of
from drivers import driver, kill, wait_until, write_config
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState
from ray.util import placement_group_table
from rich.console import Console
from safetensors.torch import load_file

from raymc import loop
from raymc.bundle import WEIGHTS
from raymc.commands import run_tune
from raymc.config import Config, override
from raymc.errors import ConfigError, ResourceError, SweepError
from raymc.events import EpochEnded, SweepEvent, TrialEnded, TrialEpochEnded, TrialStarted
from raymc.search import SweepResult, best_trial, sweep
from raymc.shards import Dataset
from raymc.tracking import tracking_uri

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

    def trials(self) -> list[FrozenTrial]:
        """What the study holds, which nobody needs to have opened yet."""
        return optuna.load_study(
            study_name=self.config.run.name, storage=f"sqlite:///{self.folder / 'study.db'}"
        ).trials

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.trials()]

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
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        values = trial.intermediate_values
        assert sorted(values) == list(range(1, len(values) + 1))
        assert (len(values) == 4) == (trial.state == TrialState.COMPLETE)
        if trial.state == TrialState.COMPLETE:
            assert trial.value == max(values.values())
        assert trial.user_attrs["best"]["val/mAP"] == max(values.values())
        assert trial.user_attrs["seconds"] > 0
