"""Training in this process: enough for one worker and few rows, and without Ray's start.

It runs the same loop on the same batches as a worker of Ray Train and keeps its checkpoints in the
same place, so the weights are the same, and either can resume what the other began.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pyarrow import fs

from raymc.config import Config
from raymc.data.feed.shared import data_here
from raymc.data.shards import Dataset
from raymc.data.storage import reaching
from raymc.errors import TrainingError, first_line
from raymc.events import EpochEnded, Event, Listener, Saved, tell_each
from raymc.runtime.device import uses_gpu
from raymc.runtime.threads import computing_threads
from raymc.training import checkpoint, loop
from raymc.training.checkpoint import FOLDER_PREFIX, Found
from raymc.training.keeping import (
    KEPT,
    NOT_STORED,
    SNAPSHOT,
    best_checkpoint,
    check_writable,
    keep_score,
    newest_intact,
    patient_storing,
)
from raymc.training.loop import Store, Write
from raymc.training.runs import Run

ROWS_HERE = 2000  # of the training split; a run on more can spare the seconds that Ray takes


def is_enough(run: Run, dataset: Dataset) -> bool:
    """Whether a run can train in this process: no Ray cluster is named, and nothing asks for more.

    Ray also restarts a worker that dies, which matters for long runs.
    """
    config = run.config
    return (
        not os.environ.get("RAY_ADDRESS")
        and config.train.workers == 1
        and not config.train.worker_resources
        and config.search.cpus_per_trial <= (os.cpu_count() or 1)
        and (_device_kind(config) != "gpu" or torch.cuda.is_available())
        and config.data.cache != "object_store"
        and "://" not in run.storage
        and dataset.manifest.rows(config.data.train) <= ROWS_HERE
    )


def equip(run: Run) -> Run:
    """Return the run with the resources of this process."""
    gpus = {"GPU": 1.0} if _on_gpu(run.config) else {}
    return replace(run, resources={"CPU": run.config.search.cpus_per_trial, **gpus})


def train(run: Run, dataset: Dataset, *, listeners: Sequence[Listener] = ()) -> Path:
    """Train a run; resumes from the last checkpoint if it was interrupted.

    Args:
        run: The run.
        dataset: The dataset to train on.
        listeners: Called with each event in order. An error of one is raised at the end.

    Returns:
        The folder of the best epoch's checkpoint.

    Raises:
        DataError: The dataset can't be used, or storage can't be written to.
        DivergedError: The loss is no longer finite.
        TrainingError: A checkpoint could not be stored, or memory is short.
    """
    config, errors = run.config, list[Exception]()

    def tell(event: Event) -> None:
        tell_each(listeners, event, errors)

    data = data_here(dataset, config)
    check_writable(run.storage)
    resume = _last_checkpoint(Path(run.storage), tell)
    try:
        # As many threads as a worker of Ray Train has: they decide the last bits of the weights.
        with computing_threads(max(1, int(config.search.cpus_per_trial))):
            loop.fit(
                config,
                data.manifest,
                data.feeds(config),
                device=torch.device("cuda" if _on_gpu(config) else "cpu"),
                emit=tell,
                report=Store(lambda: False, _Keeper(Path(run.storage), tell).keep),
                resume=resume,
            )
    except NOT_STORED as error:
        raise TrainingError(f"training failed: {first_line(error)}") from error
    if errors:
        raise errors[0]
    return best_checkpoint(run.storage, run.folder)


def _device_kind(config: Config) -> str:
    """Return `auto`, `cpu` or `gpu`; who asks for a share of a GPU asks for a GPU."""
    device = config.train.device
    return "gpu" if device == "auto" and config.search.gpus_per_trial else device


def _on_gpu(config: Config) -> bool:
    return uses_gpu(config.train.device)


def _last_checkpoint(folder: Path, tell: Callable[[Event], None]) -> Path | None:
    """Return the run's last intact checkpoint, and delete those that are not needed.

    Raises:
        CheckpointError: There are checkpoints, but none is intact.
    """
    path, unneeded = newest_intact(fs.LocalFileSystem(), str(folder), fetch=Path, tell=tell)
    with reaching(str(folder)):
        (folder / SNAPSHOT).unlink(missing_ok=True)  # Ray's list would name what is deleted here
        for leftover in unneeded:
            shutil.rmtree(leftover)
    return Path(path) if path else None


class _Keeper:
    """Stores checkpoints in a folder, and deletes those that are no longer kept."""

    def __init__(self, folder: Path, tell: Callable[[Event], None]) -> None:
        self._folder, self._tell = folder, tell
        self._patient = patient_storing(tell)

    def keep(self, event: EpochEnded | Saved, take: Callable[[], Write] | None) -> None:
        """Store a checkpoint before training continues."""
        assert take is not None  # this is worker 0
        step = event.step if isinstance(event, Saved) else 0
        name = f"{FOLDER_PREFIX}{event.epoch:06d}_{step:08d}"
        self._patient(take(), self._folder / name)
        found, _ = checkpoint.find(fs.LocalFileSystem(), str(self._folder))
        for one in sorted(found, key=_keep_score)[:-KEPT]:
            shutil.rmtree(one.path)
        self._tell(event)


def _keep_score(found: Found) -> float:
    return keep_score(*found.position, found.progress.best_epoch)
