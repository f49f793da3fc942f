"""Training on Ray Train: one worker or many, on this machine or a cluster.

Ray layer. The workers run `train_worker`; this file starts them, carries their events to those
who listen, and leaves a finished run's checkpoints behind. Running the same command again goes
on from the last one.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pyarrow import fs
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from raymc.config import Config, run_name, to_dict
from raymc.data.feed.on_ray import SharedData, share_data
from raymc.data.shards import Dataset
from raymc.data.storage import exists, open_address, patience, reaching
from raymc.errors import CheckpointError, DataError, DivergedError, TrainingError, first_line
from raymc.events import Event, Warned
from raymc.runtime.channel import Channel, Listener, sender
from raymc.runtime.connect import check_workers, explained, gpus_per_worker, worker_resources
from raymc.training import checkpoint
from raymc.training.runs import storage_of
from raymc.training.worker import KEEP, KEPT, PATIENCE_SECONDS, train_worker

# Ray Train's list of a run's checkpoints, in the run's folder.
SNAPSHOT = "checkpoint_manager_snapshot.json"
# How often a group looks whether the cluster has grown.
RESIZE_SECONDS = 10.0
# How long an elastic group waits for workers it counted on before it counts again: after a crash
# Ray believes in a lost node for some seconds more.
START_SECONDS = "10"


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its name, its best checkpoint's folder and where all of it lies."""

    name: str
    folder: Path
    checkpoint: Path


def train(config: Config, dataset: Dataset, *, listeners: Sequence[Listener] = ()) -> TrainResult:
    """Train as configured; goes on from the last checkpoint if the run was interrupted.

    Args:
        config: all settings.
        dataset: the one to train on.
        listeners: are told every event, in order, on a thread of their own.

    Raises:
        DataError: the dataset can't be used, or storage can't be written to.
        ResourceError: a GPU or more workers are asked for than the cluster has.
        DivergedError: the loss is no longer finite.
        TrainingError: the workers failed more than `train.max_failures` times.
    """
    gpus = gpus_per_worker(config)
    check_workers(config)
    data = share_data(dataset, config.data)
    storage, name = storage_of(config), run_name(config)
    address = f"{storage}/{name}"
    check_writable(address)
    with Channel(listeners) as channel:
        make = partial(
            make_trainer,
            config,
            data,
            name=name,
            storage=storage,
            gpus=gpus,
            events=channel.mailbox,
        )
        tell, failures = sender(channel.mailbox), config.train.max_failures
        try:
            with explained():
                result = _fit_patiently(make, address, max_failures=failures, tell=tell)
        except TrainingFailedError as error:
            raise TrainingError(
                f"training failed on every attempt; the last error: {_last_line(error)}"
            ) from error
    if isinstance(result.return_value, DivergedError):
        raise result.return_value
    folder = Path(config.run.folder).absolute() / name
    return TrainResult(name, folder, best_checkpoint(address, folder))


def _fit_patiently(
    make: Callable[[], TorchTrainer],
    address: str,
    *,
    max_failures: int,
    tell: Callable[[Event], None],
) -> Result:
    """Run Ray Train; where its controller met storage that takes nothing, wait for it and go on.

    A worker's failures are the controller's to see to. Its own, when it can't write its list of
    checkpoints, it takes for the run's end.

    Args:
        make: returns a trainer of the run.
        address: of the run's folder in storage.
        max_failures: times it goes on.
        tell: passes warnings on.

    Raises:
        DataError: storage stays as it is.
        TrainingFailedError: training failed for another reason, or too often.
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
            waits = f"going on once it can, within {PATIENCE_SECONDS:g} s"
            tell(Warned(f"Ray can't write to {address} ({first_line(reason)}): {waits}"))
            patience(DataError, seconds=PATIENCE_SECONDS)(check_writable, address)


def check_writable(address: str) -> None:
    """Refuse a place for checkpoints that can't be written to, before workers start.

    Raises:
        DataError: it is full, read-only, out of reach or no address.
    """
    filesystem, path = open_address(address)
    with reaching(address):
        filesystem.create_dir(path, recursive=True)
        with filesystem.open_output_stream(f"{path}/.written"):
            pass
        filesystem.delete_file(f"{path}/.written")


def forget_torn_list(address: str) -> list[str]:
    """Delete Ray Train's list of a run's checkpoints where Ray couldn't use it.

    A driver that is killed while it writes the list leaves a torn one, with which Ray starts no
    run; the checkpoints themselves say all that is needed.

    Returns:
        What was wrong, for people.
    """
    filesystem, path = open_address(address)
    snapshot = f"{path}/{SNAPSHOT}"
    with reaching(address):
        if not exists(filesystem, snapshot):
            return []
        try:
            Result.from_path(path, storage_filesystem=filesystem)
        except Exception as error:  # Ray's own are internal to it
            filesystem.delete_file(snapshot)
            line = str(error).strip().partition("\n")[0]
            return [f"Ray's list of checkpoints, {snapshot}, is made anew: {line}"]
    return []


def best_checkpoint(address: str, folder: Path) -> Path:
    """Return the checkpoint of a finished run's best epoch, as a local folder.

    Args:
        address: of the run's folder in storage.
        folder: takes the checkpoint if storage isn't local.

    Raises:
        CheckpointError: it is torn or gone.
    """
    filesystem, path = open_address(address)
    found, _ = checkpoint.find(filesystem, path)
    problem = f"there is none in {address}"
    for one in checkpoint.best_of(found):
        local = Path(one.path)
        try:
            if not isinstance(filesystem, fs.LocalFileSystem):
                local = folder / "checkpoint"
                local.mkdir(parents=True, exist_ok=True)
                with reaching(address):
                    fs.copy_files(one.path, str(local), source_filesystem=filesystem)
            checkpoint.verify(local)
        except CheckpointError as error:
            problem = str(error)
        else:
            return local
    raise CheckpointError(f"the best epoch's checkpoint can't be used: {problem}")


def make_trainer(
    config: Config,
    data: SharedData,
    *,
    name: str,
    storage: str,
    gpus: float,
    events: Any = None,
    callbacks: Sequence[Any] = (),
) -> TorchTrainer:
    """Return the Ray Train trainer of a run; a run of the same name and storage goes on."""
    if not isinstance(config.train.workers, int):
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", START_SECONDS)
    filesystem, path = open_address(storage)
    return TorchTrainer(
        train_worker,
        train_loop_config={"config": to_dict(config), "data": data, "events": events},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.train.workers,
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
            use_gpu=gpus > 0,
            resources_per_worker=worker_resources(config, gpus),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=path,
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
    """Return what the first worker that failed ended with."""
    failures = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else []
    return str(failures[0] if failures else error).strip().splitlines()[-1]
