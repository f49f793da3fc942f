"""On Ray: what each worker of a run does: resume, run the loop, report checkpoints.

A run resumes from the newest intact checkpoint in storage, not from Ray's list of checkpoints: an
incomplete checkpoint, or an incomplete list, then costs only the steps since the one before.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import ray.train
import ray.train.collective
import torch
from ray.train import Checkpoint, CheckpointConsistencyMode
from ray.train import CheckpointUploadMode as UploadMode
from ray.train.torch import get_device

from raymc.config import Config, from_dict
from raymc.errors import DivergedError
from raymc.events import EpochEnded, Event, Saved
from raymc.runtime.channel import sender
from raymc.training import loop
from raymc.training.keeping import keep_score, newest_intact, patient_storing
from raymc.training.loop import Store, Write

# Keys of an epoch's report besides its metrics.
EPOCH, IS_LAST = "epoch", "is_last"
KEEP = "keep"  # the score by which Ray Train keeps checkpoints
SECONDS_BETWEEN_QUESTIONS = 1.0
SECONDS_BETWEEN_CHECKPOINTS = 5.0


class PreemptionWatch:
    """Says after which steps a checkpoint is due because a node is about to be taken away.

    Training continues until the node ends, with a checkpoint every few seconds. Asking Ray is a
    barrier for all workers, so they ask after the same number of steps: about once a second by
    worker 0's clock.
    """

    def __init__(self) -> None:
        self._steps, self._steps_to_go = 0, 1
        self._asked = time.monotonic()
        self._saved = float("-inf")

    def is_due(self) -> bool:
        """Return whether a checkpoint is due; all workers must call this after every step."""
        self._steps += 1
        if self._steps < self._steps_to_go:
            return False
        notice = ray.train.get_preemption_info()
        now = time.monotonic()
        seconds_per_step = (now - self._asked) / self._steps
        steps = max(1, round(SECONDS_BETWEEN_QUESTIONS / max(seconds_per_step, 1e-6)))
        is_due = notice is not None and now - self._saved >= SECONDS_BETWEEN_CHECKPOINTS
        steps, is_due = ray.train.collective.broadcast_from_rank_zero((steps, is_due))
        self._steps, self._steps_to_go, self._asked = 0, steps, now
        if is_due:
            self._saved = now
        return is_due


def train_worker(settings: dict[str, Any]) -> DivergedError | None:
    """Run the loop on one Ray Train worker.

    If the loss diverges, its error is returned, not raised: Ray would retry, and the loss would
    diverge again.
    """
    config, data = from_dict(settings["config"]), settings["data"]
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    limit_threads(config)
    tell = sender(settings["events"] if rank == 0 else None)
    reporter = Reporter(tell)
    try:
        with last_checkpoint(tell) as resume:
            loop.fit(
                config,
                data.manifest,
                data.feeds(config, share=(rank, workers)),
                device=get_device(),
                emit=tell,
                report=Store(PreemptionWatch().is_due, reporter.keep),
                resume=resume,
            )
    except DivergedError as error:
        return error
    return None


@contextmanager
def last_checkpoint(tell: Callable[[Event], None]) -> Iterator[Path | None]:
    """Yield the run's last intact checkpoint as a local folder; None if there is none.

    Worker 0 looks for it, and the other workers use the same.

    Raises:
        CheckpointError: There are checkpoints, but none is intact.
    """
    storage: Any = ray.train.get_context().get_storage()
    with ExitStack() as stack:
        path = None
        if ray.train.get_context().get_world_rank() == 0:
            path, unneeded = newest_intact(
                storage.storage_filesystem,
                storage.experiment_fs_path,
                fetch=lambda path: _local(path, storage, stack),
                tell=tell,
            )
            _delete_leftovers(storage, unneeded)
        path = ray.train.collective.broadcast_from_rank_zero(path)
        yield _local(path, storage, stack) if path else None


def _delete_leftovers(storage: Any, paths: Collection[str]) -> None:
    """Delete checkpoints that crashes left behind; Ray Train deletes those in its list itself."""
    listed = ray.train.get_all_reported_checkpoints(
        consistency_mode=CheckpointConsistencyMode.COMMITTED
    )
    for path in set(paths) - {one.checkpoint.path for one in listed}:
        storage.storage_filesystem.delete_dir(path)


def _local(path: str, storage: Any, stack: ExitStack) -> Path:
    """Return a checkpoint's folder on this node; it is downloaded if needed."""
    there = Checkpoint(path, storage.storage_filesystem)
    return Path(stack.enter_context(there.as_directory()))


class Reporter:
    """Reports to Ray Train, and stores checkpoints in the background while training continues.

    Args:
        tell: Called with events; with that of an epoch once its checkpoint is stored.
    """

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._is_idle = threading.Event()
        self._is_idle.set()
        self._patient = patient_storing(tell)

    def keep(self, event: EpochEnded | Saved, take: Callable[[], Write] | None) -> None:
        """Report a checkpoint; returns at once, or after storing it if it is the run's last."""
        self._is_idle.wait()  # one at a time, or slow storage would pile them up
        empty = write = None
        if take is not None:
            self._is_idle.clear()
            write = take()
            empty = Checkpoint.from_directory(mkdtemp(prefix="raymc-"))

        def store(local: Checkpoint, name: str) -> Checkpoint:
            try:
                stored = self._patient(_stored, local, name, write)
                self._tell(event)
                return stored
            finally:
                self._is_idle.set()

        is_last = isinstance(event, EpochEnded) and event.is_last
        ray.train.report(
            _metrics_of(event),
            checkpoint=empty,
            checkpoint_upload_mode=UploadMode.SYNC if is_last else UploadMode.ASYNC,
            checkpoint_upload_fn=store,
            delete_local_checkpoint_after_upload=True,
        )


def _stored(local: Checkpoint, name: str, write: Write | None) -> Checkpoint:
    """Write a checkpoint to its local folder, and copy that to storage."""
    assert write is not None
    made = Path(local.path) / "checkpoint"
    write(made)
    storage: Any = ray.train.get_context().get_storage()
    return storage.persist_current_checkpoint(Checkpoint.from_directory(str(made)), name)


def _metrics_of(event: EpochEnded | Saved) -> dict[str, Any]:
    if isinstance(event, Saved):
        return {KEEP: keep_score(event.epoch, event.step, event.best_epoch)}
    score = keep_score(event.epoch, 0, event.best_epoch)
    return {**event.metrics, EPOCH: event.epoch, IS_LAST: event.is_last, KEEP: score}


def limit_threads(config: Config) -> None:
    """Compute on as many threads as the worker has CPUs, and leave the rest to its neighbours."""
    torch.set_num_threads(max(1, int(config.search.cpus_per_trial)))
