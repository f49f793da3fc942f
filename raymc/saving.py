"""When a run is saved, and what goes into it: every worker's part of taking a checkpoint. Pure."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from raymc import checkpoint
from raymc.audit import RowLog
from raymc.batches import Batch
from raymc.checkpoint import Part, Progress
from raymc.events import EpochEnded, Saved
from raymc.learner import Learner
from raymc.order import PADDING_ROW

Report = Callable[[EpochEnded, Path | None], None]


@dataclass(frozen=True)
class Midway:
    """What takes checkpoints within epochs.

    Attributes:
        is_due: is asked by every worker after every step whether a checkpoint is to be taken
            there besides those of `train.checkpoint_steps`; all must get the same answer.
        report: is called with each checkpoint, as after epochs.
    """

    is_due: Callable[[], bool]
    report: Callable[[Saved, Path | None], None]


class Saver:
    """Takes checkpoints at the ends of epochs and within them, with the rows that were used.

    Args:
        learner: what is saved.
        log: which rows were used before; worker 0's is kept up to date.
        report: takes what is saved after epochs; see `loop.fit`.
        midway: takes what is saved within them.
        interval: steps between checkpoints within an epoch; 0: none.
    """

    def __init__(
        self,
        learner: Learner,
        log: RowLog,
        report: Report,
        midway: Midway | None,
        *,
        interval: int,
    ) -> None:
        self._learner, self._log, self._report = learner, log, report
        self._midway, self._interval = midway, interval
        self._before: Progress | None = None
        self._rows: list[Tensor] = []
        self._logged_steps = 0

    def begin_epoch(self, before: Progress) -> None:
        """Take note of where a run stands as an epoch begins, or goes on."""
        self._before, self._logged_steps = before, before.part.steps

    def after_step(self, batch: Batch, part: Callable[[], Part]) -> None:
        """Note a step's rows, and take a checkpoint if one is due; every worker does."""
        self._rows.append(batch.rows)
        if self._midway is None:
            return
        step = self._logged_steps + len(self._rows)
        is_asked_for = self._midway.is_due()
        if is_asked_for or (self._interval and step % self._interval == 0):
            assert self._before is not None
            self._log_rows(self._before.epoch + 1)
            undecided = replace(self._before, thresholds=[], calibration=None)
            progress = replace(undecided, part=part())
            with self._saved(progress) as folder:
                self._midway.report(Saved(progress.epoch, step, progress.best_epoch), folder)

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
        with self._saved(progress) as folder:
            self._report(event, folder)

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

    @contextmanager
    def _saved(self, progress: Progress) -> Iterator[Path | None]:
        """Have a checkpoint's folder on worker 0 for a while, None elsewhere."""
        learner = self._learner
        if learner.workers.rank:
            yield None
            return
        with tempfile.TemporaryDirectory(prefix="raymc-") as folder:
            target = Path(folder) / "checkpoint"
            checkpoint.save(
                target,
                learner.result.state_dict(),
                learner.training_state(),
                progress,
                rows=self._log.to_json(),
            )
            yield target
