"""Training on Ray Train: one worker or many, on this machine or a cluster.

Starts the workers, each of which runs `train_worker`, passes their events to listeners, and
returns the best checkpoint. A run that was interrupted resumes from its last checkpoint.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from pyarrow import fs
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from raymc.config import to_dict
from raymc.data.feed.on_ray import share_data
from raymc.data.feed.shared import SharedData
from raymc.data.shards import Dataset
from raymc.data.storage import exists, open_address, patience, reaching
from raymc.errors import DataError, DivergedError, TrainingError, first_line
from raymc.events import Event, Listener, Warned
from raymc.runtime.channel import Channel, sender
from raymc.runtime.connect import explained, worker_resources
from raymc.training.keeping import KEPT, PATIENCE_SECONDS, SNAPSHOT, best_checkpoint, check_writable
from raymc.training.runs import Run
from raymc.training.worker import KEEP, train_worker

# How often an elastic group checks whether the cluster has grown.
RESIZE_SECONDS = 10.0
# How long an elastic group waits for its workers before it counts nodes again: for some seconds
# after a crash, Ray still counts a lost node.
START_SECONDS = "10"


def equip(run: Run) -> Run:
    """Return the run with the resources of its workers; to be called once, after `connect`.

    Raises:
        ResourceError: The cluster can't start so many workers, or has too few GPUs.
    """
    return replace(run, resources=worker_resources(run.config))


def train(run: Run, dataset: Dataset, *, listeners: Sequence[Listener] = ()) -> Path:
    """Train a run; resumes from the last checkpoint if it was interrupted.

    Args:
        run: The run, with its resources (`equip`).
        dataset: The dataset to train on.
        listeners: Called with each event in order, on a thread of their own.

    Returns:
        The folder of the best epoch's checkpoint.

    Raises:
        DataError: The dataset can't be used, or storage can't be written to.
        DivergedError: The loss is no longer finite.
        TrainingError: The workers failed more than `train.max_failures` times.
    """
    data = share_data(dataset, run.config)
    check_writable(run.storage)
    with Channel(listeners) as channel:
        make = partial(make_trainer, run, data, events=channel.mailbox)
        tell, failures = sender(channel.mailbox), run.config.train.max_failures
        try:
            with explained():
                result = _fit_patiently(make, run.storage, max_failures=failures, tell=tell)
        except TrainingFailedError as error:
            raise TrainingError(
                f"training failed on every attempt; the last error: {_last_line(error)}"
            ) from error
    if isinstance(result.return_value, DivergedError):
        raise result.return_value
    return best_checkpoint(run.storage, run.folder)


def _fit_patiently(
    make: Callable[[], TorchTrainer],
    address: str,
    *,
    max_failures: int,
    tell: Callable[[Event], None],
) -> Result:
    """Run Ray Train, and again after its controller could not write to storage.

    Ray's controller handles failures of workers. But if it can't write its own list of
    checkpoints, it ends the run; then wait for storage and resume.

    Args:
        make: Returns a trainer of the run.
        address: The run's folder in storage.
        max_failures: How often to resume.
        tell: Called with warnings.

    Raises:
        DataError: Storage can't be written to for too long.
        TrainingFailedError: Training failed for another reason, or too often.
    """
    failures = 0
    while True:
        for problem in forget_torn_list(address):
            tell(Warned(problem))
        try:
            return make().fit()
        except ControllerError as error:
            failures, reason = failures + 1, error.controller_failure
            if failures > max_failures or not isinstance(reason, OSError):
                raise
            retries = f"retrying for up to {PATIENCE_SECONDS:g} s"
            tell(Warned(f"Ray can't write to {address} ({first_line(reason)}): {retries}"))
            patience(DataError, seconds=PATIENCE_SECONDS)(check_writable, address)


def forget_torn_list(address: str) -> list[str]:
    """Delete Ray Train's list of a run's checkpoints if Ray can't read it.

    A driver that is killed while it writes the list leaves it incomplete, and Ray then refuses to
    start the run. The list is not needed: the checkpoints themselves hold the same.

    Returns:
        What was wrong, as messages.
    """
    filesystem, path = open_address(address)
    snapshot = f"{path}/{SNAPSHOT}"
    with reaching(address):
        if not exists(filesystem, snapshot):
            return []
        try:
            Result.from_path(path, storage_filesystem=filesystem)
        except Exception as error:  # Ray's errors here are not public
            filesystem.delete_file(snapshot)
            line = str(error).strip().partition("\n")[0]
            return [f"Ray's list of checkpoints, {snapshot}, can't be read and is rebuilt: {line}"]
    return []


class _Trainer(TorchTrainer):
    """Leaves signals, data and the end of a command to raymc.

    Ray Train's handler of signals would delay the end, and exit with 0 or 1. Its process that
    hands out datasets would take seconds to start, and have none to hand out. So would the one
    that frees the workers' CPUs after a crash, which Ray does by itself when a command ends; but
    not when one trial of a sweep does.
    """

    def _register_sigint_handler(self, controller: Any) -> None:
        pass

    def _create_default_callbacks(self) -> list[Any]:
        is_trial = ray.get_runtime_context().get_actor_id() is not None
        spared = (DatasetsCallback, *([] if is_trial else [PlacementGroupCleanerCallback]))
        return [one for one in super()._create_default_callbacks() if not isinstance(one, spared)]


def make_trainer(
    run: Run, data: SharedData, *, events: Any = None, callbacks: Sequence[Any] = ()
) -> TorchTrainer:
    """Return the Ray Train trainer of a run, which resumes what its storage holds."""
    config = run.config
    if not isinstance(config.train.workers, int):
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", START_SECONDS)
    filesystem, path = open_address(run.storage)
    parent, _, name = path.rpartition("/")
    return _Trainer(
        train_worker,
        train_loop_config={"config": to_dict(config), "data": data, "events": events},
        torch_config=TorchConfig(backend="nccl" if run.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.train.workers,
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
            use_gpu=run.gpus > 0,
            resources_per_worker=dict(run.resources),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=parent or "/",
            storage_filesystem=None if isinstance(filesystem, fs.LocalFileSystem) else filesystem,
            failure_config=FailureConfig(max_failures=config.train.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=KEPT,
                checkpoint_score_attribute=KEEP,
                checkpoint_score_order="max",
            ),
            callbacks=list(callbacks),
        ),
    )


def _last_line(error: TrainingFailedError) -> str:
    """Return the last line of the first worker's error."""
    failures = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else []
    return str(failures[0] if failures else error).strip().splitlines()[-1]
