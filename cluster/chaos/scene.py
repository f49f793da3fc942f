"""A run or a sweep on a local cluster, started with the commands that people type.

Its result is read where users look: the bundle, MLflow and Optuna's study.
"""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import yaml
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from cluster.chaos.services import Service
from cluster.local import FAKE_GPU, LocalCluster
from cluster.processes import (
    HEAD_ASKED_SECONDS,
    PATIENCE_SECONDS,
    spawn,
    wait_until,
    without_ray,
)
from raymc.config import Config, from_dict, to_dict
from raymc.errors import RaymcError
from raymc.search.audit import audit_trials
from raymc.search.study import read_study
from raymc.tracking import tracking_uri
from raymc.tracking.records import PARENT_TAG, STATE_TAG, TRIAL_TAG
from raymc.training.audit import RunAudit, audit_run
from raymc.training.bundle import load_bundle
from raymc.training.runs import STUDY_FILE, read_run

NAME = "chaos"
_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
_EPOCH = re.compile(r"^epoch +(\d+)/", re.MULTILINE)


def small_config(folder: Path, **changes: Any) -> Config:
    """Return settings with epochs of less than a second, on stand-in GPUs.

    Args:
        folder: Folder of the dataset and, by default, of the runs.
        changes: Other settings, by section.
    """
    values: dict[str, dict[str, Any]] = {
        "data": {
            "path": str(folder / "data"),
            "make": {"name": "digits", "train_clips": 480, "val_clips": 96, "test_clips": 48},
        },
        "batch": {"size": 16, "pool_batches": 2},
        "model": {"width": 16, "depth": 1, "fusion_depth": 1, "heads": 2, "embedding_dim": 8},
        "train": {
            "epochs": 24,
            "device": "cpu",
            "threshold_confidence": 0.0,
            "calibration": "none",
            "worker_resources": {FAKE_GPU: 1},
        },
        "search": {
            "trials": 5,
            "scheduler": "none",
            "space": {"loss.margin": {"low": 0.0, "high": 0.3}},
        },
        "run": {"name": NAME, "folder": str(folder / "runs")},
    }
    for section, settings in changes.items():
        values.setdefault(section, {}).update(settings)
    return from_dict(values)


@dataclass
class Scene:
    """A run or sweep in progress on a cluster.

    Attributes:
        cluster: The cluster.
        config: Settings of the run or sweep.
        command: `train` or `tune`.
        folder: Folder of logs and of the configuration.
        random: Chooses moments and victims.
        services: Servers that it depends on, by name.
        is_job: Whether it is submitted as a job, whose driver Ray starts on a node; otherwise the
            driver is our own child process.
        retries: How often a failed job is started again as KubeRay starts a RayJob, with a new
            cluster and the same command; that is no submission.
        submissions: How often somebody started it.
        recoveries: Seconds from each fault to the next epoch.
    """

    cluster: LocalCluster
    config: Config
    command: str
    folder: Path
    random: random.Random
    services: Mapping[str, Service] = field(default_factory=dict)
    is_job: bool = False
    retries: int = 0
    submissions: int = 0
    recoveries: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log = self.folder / "driver.log"
        self.run_folder = Path(self.config.run.folder) / NAME
        tree = self.folder / "tree"
        tree.mkdir()
        (tree / "config.yaml").write_text(yaml.safe_dump(to_dict(self.config)))
        subprocess.run(["git", "init", "-q", str(tree)], check=True)
        self._driver: subprocess.Popen[Any] | None = None
        self._counted = 0
        study = self.config.search.storage or f"sqlite:///{self.run_folder / STUDY_FILE}"
        self._study = create_engine(study, pool_pre_ping=True)

    def submit(self) -> None:
        """Start the driver; a later one resumes where the one before stopped."""
        self.submissions += 1
        self._start()

    def _start(self) -> None:
        command = [self.command, "config.yaml"]
        if self.is_job:
            place = ["--address", self.cluster.dashboard, "--command", self.command]
            command = ["submit", "config.yaml", "--follow", *place]
        self._driver = spawn(
            [sys.executable, "-m", "raymc", *command],
            self.log,
            cwd=self.folder / "tree",
            env={**without_ray(), **self.cluster.environment, **self.cluster.mark},
        )

    def start_again(self) -> None:
        """Start an attempt that failed again, as KubeRay does while it has retries, or somebody."""
        if not self.retries:
            self.submit()
            return
        self.retries -= 1
        self.cluster.__exit__()
        self.cluster.__enter__()
        self._start()

    def epochs(self) -> int:
        """Return the number of epochs finished so far."""
        if self.command == "train":
            return len(set(self._printed_epochs()))
        with suppress(SQLAlchemyError), self._study.connect() as study:  # may be down
            query = text("SELECT COUNT(*) FROM trial_intermediate_values")
            self._counted = study.scalar(query)
        return self._counted

    def epochs_due(self) -> int:
        """Return the number of epochs of the whole run or sweep."""
        trials = self.config.search.trials if self.command == "tune" else 1
        return trials * self.config.train.epochs

    def wait_for_moment(self, share: tuple[float, float]) -> None:
        """Wait for a random moment, between two shares of all epochs.

        Raises:
            ResourceError: the driver ends before that.
        """
        due = self.random.uniform(*share) * self.epochs_due()
        while (before := self.epochs()) < due:
            wait_until(
                lambda before=before: self.epochs() > before,
                self._driver,
                log=self.log,
                every=HEAD_ASKED_SECONDS,
            )
        time.sleep(self.random.uniform(0, 0.5))

    def watch_recovery(self, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Record the time until the next epoch; start again if the driver fails."""
        before, began = self.epochs(), time.monotonic()
        while self.epochs() == before:
            if self.has_ended() and not self._is_done():
                self.start_again()
            elif self.has_ended():
                break
            if time.monotonic() - began > patience_seconds:
                self.recoveries.append(math.inf)
                return
            time.sleep(0.05)
        self.recoveries.append(time.monotonic() - began)

    def finish(self, *, attempts: int = 4, patience_seconds: float = 3 * PATIENCE_SECONDS) -> bool:
        """Wait for the end, starting again after a failure; return whether it succeeded."""
        while True:
            assert self._driver is not None
            try:
                code = self._driver.wait(patience_seconds)
            except subprocess.TimeoutExpired:
                self.kill_driver()
                return False
            if code == 0 or self.submissions >= attempts:
                return code == 0 and self._is_done()
            self.start_again()

    def has_ended(self) -> bool:
        """Whether no driver is running."""
        return self._driver is None or self._driver.poll() is not None

    def kill_driver(self) -> None:
        """Kill the driver and its children; the cluster's processes stay."""
        assert self._driver is not None
        for pid in self._job_drivers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.is_job:  # what follows the job sees it fail
            with suppress(subprocess.TimeoutExpired):
                self._driver.wait(PATIENCE_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._driver.pid, signal.SIGKILL)
        self._driver.wait()

    def _job_drivers(self) -> list[int]:
        """Return the processes of the job's driver; none if the driver is our own child."""
        line = f"raymc {self.command} config.yaml"
        return [pid for pid, found in self.cluster.processes().items() if line in found]

    def drivers(self) -> list[int]:
        """Return the processes of the driver, which may have ended."""
        assert self._driver is not None
        return self._job_drivers() if self.is_job else [self._driver.pid]

    def workers(self) -> list[int]:
        """Return the processes that train, on all nodes."""
        names = ("ray::RayTrainWorker", "ray::_RayTrainWorker", "ray::ImplicitFunc")
        found = self.cluster.processes().items()
        return [pid for pid, command in found if command.startswith(names)]

    def worker(self) -> int:
        """Return one of the processes that train, at random, once there is one.

        Raises:
            ResourceError: the driver fails, or none comes.
        """
        wait_until(lambda: bool(self.workers()), self._driver, log=self.log)
        return self.random.choice(self.workers())

    def audits(self) -> list[RunAudit]:
        """Return which rows trained the run, or each trial of the sweep, and what restarts cost.

        Raises:
            RaymcError: no checkpoint with that record is left.
        """
        if self.command == "tune":
            return audit_trials(read_run(self.run_folder))
        return [audit_run(read_run(self.run_folder))]

    def problems(self) -> list[str]:
        """Return what is wrong with the bundle and records of the finished run or sweep."""
        found = []
        try:
            load_bundle(self.run_folder / "bundle")
        except RaymcError as error:
            found.append(str(error))
        found += self._mlflow_problems()
        return found + (self._study_problems() if self.command == "tune" else [])

    def lost_trials(self) -> int:
        """Return the number of trials that failed or are missing."""
        if self.command != "tune":
            return 0
        kept = [trial for trial in self._trials() if trial.state.name in ("COMPLETE", "PRUNED")]
        return self._trials_due() - len(kept)

    def trials_begun(self) -> int:
        """Return the number of trials that the sweep has begun."""
        return len(self._trials())

    def _trials_due(self) -> int:
        """Return the number of trials to expect: as planned, or what its hours allowed."""
        hours, planned = self.config.search.hours, self.config.search.trials
        return planned if hours is None else self.trials_begun()

    def _is_done(self) -> bool:
        return (self.run_folder / "bundle" / "bundle.json").exists()

    def _printed_epochs(self) -> list[int]:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return [int(number) for number in _EPOCH.findall(text)]

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return read_study(read_run(self.run_folder)).trials

    def _study_problems(self) -> list[str]:
        trials = self._trials()
        states = Counter(trial.state.name for trial in trials)
        found = [f"Optuna has {n} trials {s}" for s, n in states.items() if s not in _STATUS]
        if len(trials) != self._trials_due():
            found.append(f"Optuna has {len(trials)} trials")
        for trial in trials:
            epochs = sorted(trial.intermediate_values)
            if epochs != list(range(1, len(epochs) + 1)):
                found.append(f"trial {trial.number} has epochs {epochs}")
        return found

    def _mlflow_problems(self) -> list[str]:
        """Check that MLflow has every run, its end, and each of its epochs once."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri(self.config.tracking, self.config.run.folder))
        experiment = client.get_experiment_by_name(self.config.tracking.experiment)
        if experiment is None:
            return ["MLflow has no experiment of the run"]
        runs = client.search_runs([experiment.experiment_id])
        expected: Mapping[int, tuple[str, int]] = {-1: ("FINISHED", self.config.train.epochs)}
        if self.command == "tune":
            expected = {-1: ("FINISHED", 0)} | {
                trial.number: (_STATUS.get(trial.state.name, "?"), len(trial.intermediate_values))
                for trial in self._trials()
            }
        numbers = [int(run.data.tags.get(TRIAL_TAG, -1)) for run in runs]
        found = [] if sorted(numbers) == sorted(expected) else [f"MLflow has the trials {numbers}"]
        parents = {run.data.tags.get(PARENT_TAG, "") for run in runs} - {""}
        found += ["MLflow has trials of several sweeps"] if len(parents) > 1 else []
        for number, run in zip(numbers, runs, strict=True):
            history = client.get_metric_history(run.info.run_id, "epoch")
            steps = sorted(point.step for point in history)
            status, epochs = expected.get(number, ("none", 0))
            if (run.info.status, steps) != (status, list(range(1, epochs + 1))):
                state = run.data.tags.get(STATE_TAG)
                found.append(
                    f"MLflow has trial {number} {run.info.status} ({state}) with epochs "
                    f"{json.dumps(steps)}; expected {status} with {epochs}"
                )
        return found
