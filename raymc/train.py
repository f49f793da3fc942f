"""Training on Ray Train: one worker or many, on this machine or a cluster.

Ray layer. The workers run `loop.fit`; this file gives them feeds and a device, carries their
events to the driver, and leaves a finished run's folder behind. Running the same command again
goes on from the last checkpoint.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.util.queue import Queue

from raymc import loop
from raymc.channel import Channel, Listener, sender
from raymc.cluster import explained, gpus_per_worker
from raymc.config import Config, from_dict, run_name, to_dict
from raymc.errors import DivergedError, ResourceError, TrainingError
from raymc.events import EpochEnded
from raymc.feed import SharedData, share_data
from raymc.shards import Dataset

# Keys of an epoch's report besides its metrics.
EPOCH, IS_LAST = "epoch", "is_last"


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
        DataError: the dataset can't be used.
        ResourceError: a GPU or more workers are asked for than the cluster has.
        DivergedError: the loss is no longer finite.
        TrainingError: the workers failed more than `train.max_failures` times.
    """
    gpus = gpus_per_worker(config)
    check_workers(config.train.workers)
    data = share_data(dataset, config.data)
    folder = Path(config.run.folder).absolute()
    with Channel(listeners) as channel:
        trainer = make_trainer(
            config,
            data,
            name=run_name(config),
            storage=str(folder),
            gpus=gpus,
            events=channel.queue,
        )
        try:
            with explained():
                result = trainer.fit()
        except TrainingFailedError as error:
            raise TrainingError(
                f"training failed on every attempt; the last error: {_last_line(error)}"
            ) from error
    if isinstance(result.return_value, DivergedError):
        raise result.return_value
    best = result.get_best_checkpoint(config.train.monitor, "max")
    assert best is not None
    return TrainResult(run_name(config), folder / run_name(config), Path(best.path))


def make_trainer(
    config: Config,
    data: SharedData,
    *,
    name: str,
    storage: str,
    gpus: float,
    events: Queue | None = None,
    callbacks: Sequence[Any] = (),
) -> TorchTrainer:
    """Return the Ray Train trainer of a run; a run of the same name and storage goes on."""
    per_worker = {"CPU": config.search.cpus_per_trial, **({"GPU": gpus} if gpus else {})}
    return TorchTrainer(
        train_worker,
        train_loop_config={"config": to_dict(config), "data": data, "events": events},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.train.workers,
            use_gpu=gpus > 0,
            resources_per_worker=per_worker,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=config.train.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=1,
                checkpoint_score_attribute=config.train.monitor,
                checkpoint_score_order="max",
            ),
            callbacks=list(callbacks),
        ),
    )


def train_worker(settings: dict[str, Any]) -> DivergedError | None:
    """Run the loop on one Ray Train worker.

    A loss that diverges is returned rather than raised: every worker sees the same loss, and
    Ray's next attempt would only see it again.
    """
    config, data = from_dict(settings["config"]), settings["data"]
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    limit_threads(config)
    tell = sender(settings["events"] if rank == 0 else None)
    try:
        with local_folder(ray.train.get_checkpoint()) as resume:
            loop.fit(
                config,
                data.manifest,
                data.feeds(config, share=(rank, workers)),
                device=get_device(),
                emit=tell,
                report=lambda event, folder: report_to_train(event, folder, tell),
                resume=resume,
            )
    except DivergedError as error:
        return error
    return None


@contextmanager
def local_folder(checkpoint: Checkpoint | None) -> Iterator[Path | None]:
    """Have a checkpoint as a local folder, fetched if it lies elsewhere; None if there is none."""
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield Path(folder)


def report_to_train(event: EpochEnded, folder: Path | None, tell: Callable[[Any], None]) -> None:
    """Report an epoch to Ray Train, and to the driver once its checkpoint is safe."""
    checkpoint = Checkpoint.from_directory(str(folder)) if folder else None
    metrics = {**event.metrics, EPOCH: event.epoch, IS_LAST: event.is_last}
    ray.train.report(metrics, checkpoint=checkpoint)
    tell(event)


def limit_threads(config: Config) -> None:
    """Compute on as many threads as the worker has CPUs, so that neighbours don't collide."""
    torch.set_num_threads(max(1, int(config.search.cpus_per_trial)))


def check_workers(workers: int) -> None:
    """Refuse a number of workers that the cluster can never start.

    Raises:
        ResourceError: there are fewer CPUs than workers.
    """
    cpus = ray.cluster_resources().get("CPU", 0)
    if workers > cpus:
        raise ResourceError(
            f"train.workers is {workers}, but this Ray cluster has {cpus:g} CPUs: "
            "ask for fewer workers or a larger cluster"
        )


def _last_line(error: TrainingFailedError) -> str:
    """Return what the first worker that failed ended with."""
    failures = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else []
    return str(failures[0] if failures else error).strip().splitlines()[-1]
