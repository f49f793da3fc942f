"""On Ray: a sweep, which runs trials of the same training with Tune, with settings from Optuna.

A trial of one worker trains in Tune's own process for it, which the next trial reuses. Starting a
Ray Train run takes about half a minute, so only trials of several workers do that. Both ways run
`loop.fit` on the same shared data.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from optuna.exceptions import StorageInternalError
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler

from raymc.config import Config, override
from raymc.data.feed.on_ray import share_data
from raymc.data.feed.shared import SharedData
from raymc.data.shards import Dataset
from raymc.errors import DivergedError, ResourceError, SweepError
from raymc.events import EpochEnded, unheard
from raymc.runtime.connect import capacity, grows_to, our_error
from raymc.search.gathering import NODE, GatheringScheduler
from raymc.search.searcher import FAILURE, HandingOut, StudySearcher
from raymc.search.searcher import trial_folder as folder_of
from raymc.search.study import GPUS_ATTRIBUTE, open_study, trials_in
from raymc.search.trials import Trial, winner
from raymc.training import loop
from raymc.training.keeping import patient_storing
from raymc.training.on_ray import make_trainer
from raymc.training.runs import TRIALS, Run
from raymc.training.worker import EPOCH, IS_LAST, limit_threads


def sweep(run: Run, dataset: Dataset, *, listener: Callable[[Trial], None]) -> Trial:
    """Search as configured, or resume an interrupted sweep of the same settings.

    The listener is called with a trial whenever it starts, ends an epoch or ends. Where all trials
    ended before, none is run, and a finished sweep stays finished.

    Returns:
        The best trial.

    Raises:
        DataError: The dataset can't be used.
        ResourceError: Trials ask for more than the cluster has.
        SweepError: No trial succeeded, or the study's database stayed unreachable.
    """
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "inf")  # Tune's snapshots are never read
    config = run.config
    concurrent = concurrent_trials(config, run.resources)
    study, sessions = open_study(run), run.folder / TRIALS
    session = sessions / f"session-{sum(1 for _ in sessions.glob('*')):03d}"
    scheduler = make_scheduler(config)
    searcher = StudySearcher(study, config, session=session, scheduler=scheduler, listener=listener)
    if searcher.due:
        run.begin()
        study.set_user_attr(GPUS_ATTRIBUTE, run.gpus)
        data = share_data(dataset, config)
        trainable = tune.with_parameters(run_trial, run=run, data=data, session=session)
        trials = HandingOut(searcher, concurrent=concurrent)
        tuner = make_tuner(run, trainable, trials, scheduler, session=session)
        try:
            tuner.fit()
        except StorageInternalError as error:
            raise SweepError(
                "the study's database can't be reached: when it is back, run the same command "
                "again to resume"
            ) from error
    return winner(trials_in(study, run))


def make_scheduler(config: Config) -> ASHAScheduler | None:
    """Return ASHA by epochs, or None if every trial may finish."""
    if config.search.scheduler == "none":
        return None
    return ASHAScheduler(
        time_attr=EPOCH,  # Tune's own `training_iteration` restarts at 1 when a trial resumes
        metric=config.train.monitor,
        mode="max",
        max_t=max(config.train.epochs, config.search.grace_epochs),
        grace_period=config.search.grace_epochs,
        reduction_factor=config.search.reduction_factor,
        stop_last_trials=False,  # a trial that reaches max_t ends by itself
    )


def make_tuner(
    run: Run, trainable: Any, trials: HandingOut, scheduler: Any, *, session: Path
) -> tune.Tuner:
    """Return the tuner that runs the trials still to be done.

    At most as many of them wait or run as `trials` allows: others would reserve the CPUs that
    running ones need.
    """
    alone = run.config.train.workers == 1
    # The workers that a trial starts ask for their own resources; its process only waits for them.
    resources = dict(run.resources) if alone else {"cpu": 0.01}
    if alone and grows_to():
        scheduler = GatheringScheduler(scheduler, run, is_over=trials.is_finished)
    return tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=trials,
            scheduler=scheduler,
            num_samples=-1,  # until none is left to hand out
            reuse_actors=alone,
            trial_name_creator=lambda trial: trial.config["folder"],
            trial_dirname_creator=lambda trial: trial.config["folder"],
        ),
        run_config=tune.RunConfig(name=session.name, storage_path=str(session.parent), verbose=0),
    )


def run_trial(settings: dict[str, Any], *, run: Run, data: SharedData, session: Path) -> None:
    """Train one trial in its own process, or through Ray Train if it has several workers.

    Another attempt would raise the same Python error again, so it is reported as the trial's
    failure. The searcher deals with lost processes.
    """
    moved = tune.get_checkpoint()
    resume = moved.path if moved else settings["resume"]
    try:
        storage = f"{session.parent}/groups/{folder_of(settings['number'])}"
        config = override(run.config, settings["params"])
        trial = replace(run, config=config, storage=storage)
        if config.train.workers == 1:
            train_alone(trial, data, resume)
        else:
            train_in_group(trial, data)
    except Exception as error:  # fails the trial, not the sweep
        tune.report({FAILURE: str(our_error(error) or f"{type(error).__name__}: {error}")})


def train_alone(trial: Run, data: SharedData, resume: str | None) -> None:
    """Train in this process and report each epoch to Tune."""
    limit_threads(trial.config)
    node = ray.get_runtime_context().get_node_id()
    loop.fit(
        trial.config,
        data.manifest,
        data.feeds(trial.config),
        device=torch.device("cuda" if trial.gpus else "cpu"),
        emit=lambda event: None,
        report=partial(report_to_tune, node=node),
        resume=Path(resume) if resume else None,
    )


def report_to_tune(event: EpochEnded, folder: Path | None, *, node: str) -> None:
    """Report an epoch to Tune, which stores it and its checkpoint; retries while it can't.

    Tune reports nothing before it has stored, so a retry reports once.
    """
    assert folder is not None
    metrics = {**event.metrics, EPOCH: event.epoch, IS_LAST: event.is_last, NODE: node}
    checkpoint = tune.Checkpoint.from_directory(str(folder))
    patient_storing(unheard)(tune.report, metrics, checkpoint=checkpoint)


def train_in_group(trial: Run, data: SharedData) -> None:
    """Train on several workers; Ray Train reports each epoch to Tune.

    The trial's storage is the same for every driver of the sweep, so that Ray Train itself finds
    the checkpoint to resume from.
    """
    result = make_trainer(trial, data, callbacks=[EpochsToTune()]).fit()
    if isinstance(result.return_value, DivergedError):
        raise result.return_value


class EpochsToTune(TuneReportCallback):
    """Reports a group's epochs to Tune, and leaves checkpoints within an epoch to Ray Train."""

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Pass a report on if it is that of an epoch."""
        if EPOCH in metrics[0]:
            super().after_report(run_context, metrics, checkpoint)


def concurrent_trials(config: Config, each: Mapping[str, float]) -> int:
    """Return how many trials run at a time: as configured, or as many as fit the cluster.

    For a cluster that starts nodes itself, what counts is the size it may grow to.

    Raises:
        ResourceError: Not even one trial fits.
    """
    most, asked = dict(capacity()), config.search.concurrent
    workers = config.train.fewest_workers
    most["CPU"] = most.get("CPU", 0) - 1  # for Ray Data's tasks, or trials would starve them
    fits = min(int(most.get(name, 0) / (workers * number)) for name, number in each.items())
    if fits < 1:
        wanted, there = (
            ", ".join(f"{table.get(name, 0):g} {name}" for name in each) for table in (each, most)
        )
        raise ResourceError(
            f"a trial of {workers} workers with {wanted} each doesn't fit this cluster "
            f"({there}, with one CPU kept free): reduce what a trial needs"
        )
    return min(asked, fits) if asked else fits
