"""When a run is saved, and what goes into it: every worker's part of taking a checkpoint. Pure."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raymc.data.feed.batches import Batch
from raymc.data.feed.order import PADDING_ROW
from raymc.events import EpochEnded, Saved
from raymc.training import checkpoint
from raymc.training.checkpoint import Part, Progress
from raymc.training.learner import Learner
from raymc.training.row_log import RowLog

Report = Callable[[EpochEnded, Path | None], None]
Write = Callable[[Path], None]


@dataclass(frozen=True)
class Store:
    """What keeps checkpoints, at the ends of epochs and within them, while training goes on.

    Attributes:
        is_due: is asked by every worker after every step whether a checkpoint is to be taken
            there besides those of `train.checkpoint_steps`; all must get the same answer.
        keep: is called by every worker with each checkpoint: on worker 0 with a function that
            copies the state of training at once, and returns what writes the copy to a folder
            whenever it suits; with None elsewhere.
    """

    is_due: Callable[[], bool]
    keep: Callable[[EpochEnded | Saved, Callable[[], Write] | None], None]


class Saver:
    """Takes checkpoints at the ends of epochs and within them, with the rows that were used.

    Args:
        learner: what is saved.
        log: which rows were used before; worker 0's is kept up to date.
        report: takes what is saved; see `loop.fit`.
        interval: steps between checkpoints within an epoch; 0: none.
    """

    def __init__(
        self,
        learner: Learner,
        log: RowLog,
        report: Report | Store,
        *,
        interval: int,
    ) -> None:
        self._learner, self._log, self._report = learner, log, report
        self._interval = interval
        self._before: Progress | None = None
        self._rows: list[Tensor] = []
        self._logged_steps = 0

    def begin_epoch(self, before: Progress) -> None:
        """Take note of where a run stands as an epoch begins, or goes on."""
        self._before, self._logged_steps = before, before.part.steps

    def after_step(self, batch: Batch, part: Callable[[], Part]) -> None:
        """Note a step's rows, and take a checkpoint if one is due; every worker does."""
        self._rows.append(batch.rows)
        if not isinstance(self._report, Store):
            return
        step = self._logged_steps + len(self._rows)
        is_asked_for = self._report.is_due()
        if is_asked_for or (self._interval and step % self._interval == 0):
            assert self._before is not None
            self._log_rows(self._before.epoch + 1)
            undecided = replace(self._before, thresholds=[], calibration=None)
            progress = replace(undecided, part=part())
            self._keep(self._report, Saved(progress.epoch, step, progress.best_epoch), progress)

    def end_epoch(self, progress: Progress, *, seconds: float) -> None:
        """Pass an epoch on, with a checkpoint on worker 0."""
        self._log_rows(progress.epoch)
        event = EpochEnded(
            epoch=progress.epoch,
            metrics=progress.metrics,
            is_best=progress.epoch == progress.best_epoch,
            seconds=seconds,
            is_last=progress.is_over,
            best_epoch=progress.best_epoch,
        )
        if isinstance(self._report, Store):
            self._keep(self._report, event, progress)
        elif self._learner.workers.rank:
            self._report(event, None)
        else:
            with tempfile.TemporaryDirectory(prefix="raymc-") as folder:
                target = Path(folder) / "checkpoint"
                self._snapshot(progress, copy=False)(target)
                self._report(event, target)

    def _log_rows(self, epoch: int) -> None:
        """Gather what all workers' batches held since the last checkpoint."""
        if not self._rows:
            return
        workers, steps = self._learner.workers, self._logged_steps + len(self._rows)
        rows = workers.gather(torch.cat(self._rows).to(self._learner.device)).cpu().numpy()
        self._log.add(
            epoch,
            rows[rows != PADDING_ROW],
            first_step=self._logged_steps,
            steps=steps,
            workers=workers.count,
        )
        self._rows, self._logged_steps = [], steps

    def _keep(self, store: Store, event: EpochEnded | Saved, progress: Progress) -> None:
        is_first = self._learner.workers.rank == 0
        store.keep(event, partial(self._snapshot, progress, copy=True) if is_first else None)

    def _snapshot(self, progress: Progress, *, copy: bool) -> Write:
        """Return what writes a checkpoint of now; of what training goes on to change, a copy."""
        weights, state = self._learner.result.state_dict(), self._learner.training_state()
        if copy:
            weights, state = on_cpu(weights), on_cpu(state)
        rows = self._log.to_json()
        return lambda folder: checkpoint.save(folder, weights, state, progress, rows=rows)


def on_cpu(value: Any) -> Any:
    """Copy the tensors of nested mappings and sequences to the CPU's memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: on_cpu(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_cpu(inner) for inner in value)
    return value
