"""The training loop: `fit` runs epochs of steps and validation, and takes checkpoints.

The same `fit` serves a plain process, a Ray Train worker and a Ray Tune trial. What differs
between them is passed in: feeds, a device, and callables that receive events and checkpoints.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from raymc.config import Config, TrainConfig, to_dict
from raymc.data.feed.batches import Batch
from raymc.data.feed.feed import Feed, Feeds, on_device
from raymc.data.feed.order import PADDING_ROW
from raymc.data.shards import Manifest
from raymc.errors import CheckpointError
from raymc.events import Ended, EpochEnded, Event, Saved, Started, Stepped
from raymc.features.recipe import recipe_in
from raymc.training import checkpoint
from raymc.training.checkpoint import Part, Progress
from raymc.training.learner import Learner, make_learner, train_step
from raymc.training.row_log import RowLog
from raymc.training.validation import decide, diverged, validate

SECONDS_BETWEEN_STEP_EVENTS = 0.25
Emit = Callable[[Event], None]
Report = Callable[[EpochEnded, Path | None], None]
Write = Callable[[Path], None]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Store:
    """Takes checkpoints after epochs and within them, while training continues.

    Attributes:
        is_due: called by every worker after every step; says whether a checkpoint is due besides
            those of `train.checkpoint_steps`. All workers must get the same answer.
        keep: called by every worker with each checkpoint. On worker 0 it gets a function that
            copies the current state at once and returns what writes that copy to a folder, at
            any later time; elsewhere None.
    """

    is_due: Callable[[], bool]
    keep: Callable[[EpochEnded | Saved, Callable[[], Write] | None], None]


def fit(
    config: Config,
    manifest: Manifest,
    feeds: Feeds,
    *,
    device: torch.device,
    emit: Emit,
    report: Report | Store,
    resume: Path | None = None,
) -> Progress:
    """Train to the last epoch, or until the monitored metric stops improving.

    Args:
        config: all settings.
        manifest: of the dataset.
        feeds: this worker's feeds.
        device: where this worker computes.
        emit: receives the start, some steps and the end, on worker 0 only.
        report: called after every epoch by every worker, with the folder of a checkpoint on
            worker 0 and None elsewhere; the folder is deleted when the call returns. A `Store`
            also takes checkpoints within epochs, and writes them while training continues.
        resume: checkpoint to resume from.

    Returns:
        The progress at the end.

    Raises:
        DivergedError: the loss or the scores are no longer finite.
        CheckpointError: `resume` is torn or belongs to other settings.
    """
    learner = make_learner(config, manifest, feeds, device=device)
    progress, log = _begin(learner, config, manifest, resume, rows=feeds.train.rows)
    saver = _Saver(learner, log, report, interval=config.train.checkpoint_steps)
    emit = emit if learner.workers.rank == 0 else lambda event: None
    emit(
        Started(
            epochs=config.train.epochs,
            steps_per_epoch=feeds.train.steps,
            rows=feeds.train.rows,
            parameters=sum(p.numel() for p in learner.model.parameters()),
            first_epoch=progress.epoch + 1,
            first_step=progress.part.steps,
            workers=learner.workers.count,
        )
    )
    if progress.is_over:
        saver.end_epoch(progress, seconds=0.0)
    while not progress.is_over:
        progress, seconds = _run_epoch(learner, config, feeds, progress, saver=saver, emit=emit)
        saver.end_epoch(progress, seconds=seconds)
    emit(Ended(reason=progress.reason, best_epoch=progress.best_epoch, best=progress.best))
    return progress


def _begin(
    learner: Learner, config: Config, manifest: Manifest, resume: Path | None, *, rows: int
) -> tuple[Progress, RowLog]:
    """Return the progress and the record of rows to start from: fresh, or of a checkpoint.

    Raises:
        CheckpointError: the checkpoint was made with another dataset or model.
    """
    values, dataset = to_dict(config), describe_dataset(manifest)
    if resume is None:
        fresh = Progress(0, 0, metrics={}, best={}, thresholds=[], config=values, dataset=dataset)
        return fresh, RowLog(rows)
    loaded = checkpoint.load(resume, device=str(learner.device))
    if loaded.progress.dataset.get("digest") != manifest.digest():
        raise CheckpointError(
            f"checkpoint {resume} was trained on another dataset than {config.data.path}: "
            "give the run another name (run.name=…)"
        )
    try:
        learner.restore(loaded.weights, loaded.training_state)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"checkpoint {resume} has another model than this configuration: "
            "give the run another name (run.name=…)"
        ) from error
    log = RowLog.from_json(loaded.rows)
    progress = replace(loaded.progress, config=values, dataset=dataset)
    return progress, replace(log, attempt=log.attempt + 1)


def describe_dataset(manifest: Manifest) -> dict[str, Any]:
    """Return what a model needs to know about the dataset it was trained on."""
    recipe = recipe_in(manifest.provenance)
    return {
        "vocabulary": manifest.vocabulary.to_json(),
        "modalities": [asdict(modality) for modality in manifest.modalities],
        "digest": manifest.digest(),
        **({"recipe": recipe} if recipe else {}),
    }


def _run_epoch(
    learner: Learner, config: Config, feeds: Feeds, before: Progress, *, saver: "_Saver", emit: Emit
) -> tuple[Progress, float]:
    """Train and validate one epoch, or the rest of it; also returns the seconds it took."""
    epoch, started = before.epoch + 1, time.perf_counter() - before.part.seconds
    saver.begin_epoch(before)
    trained = train_epoch(
        learner, config, feeds.train, epoch, emit=emit, part=before.part, after=saver.after_step
    )
    validated, predictions = validate(
        learner, config, feeds.val, epoch, vocabulary=feeds.train.manifest.vocabulary
    )
    metrics = {**trained, **validated, "train/lr": learner.optimizer.param_groups[0]["lr"]}
    progress = _advance(before, epoch, metrics, config.train)
    # Thresholds take time and only the best epoch's are used. A tie may be the best, and so may
    # NaN, which compares false.
    if not metrics[config.train.monitor] < progress.best[config.train.monitor]:
        progress = decide(progress, predictions, config.train)
    return progress, time.perf_counter() - started


class Awaited(Generic[Item]):
    """Passes items on and counts the `seconds` spent waiting for them."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items, self.seconds = items, 0.0

    def __iter__(self) -> Iterator[Item]:
        """Yield the items."""
        asked = time.perf_counter()
        for item in self._items:
            self.seconds += time.perf_counter() - asked
            yield item
            asked = time.perf_counter()


def train_epoch(
    learner: Learner,
    config: Config,
    feed: Feed,
    epoch: int,
    *,
    emit: Emit,
    part: Part | None = None,
    after: Callable[[Batch, Callable[[], Part]], None] = lambda batch, part: None,
) -> dict[str, float]:
    """Train on every row once; returns the epoch's `train/` metrics.

    Args:
        learner: what is trained.
        config: all settings.
        feed: of the training split.
        epoch: its number, from 1.
        emit: receives some of the steps.
        part: what is already done of the epoch; its steps are skipped.
        after: called after every step with its batch and a function that returns what is done.

    Raises:
        DivergedError: the mean loss of the epoch is not finite.
    """
    learner.model.train()
    part = part or Part()
    # The sum stays on the device: reading it in every step would wait for the device.
    total = torch.tensor(part.loss, device=learner.device)
    batches = Awaited(feed.training(epoch, skip=part.steps))
    started = emitted = time.perf_counter()
    copied = on_device(batches, learner.device)
    for step, (batch, moved) in enumerate(copied, start=part.steps):
        loss = train_step(learner, config, moved, epoch=epoch, step=step, feed=feed)
        total += loss
        rows = feed.rows_in(step + 1)
        now = time.perf_counter()
        if now - emitted > SECONDS_BETWEEN_STEP_EVENTS:
            emitted = now
            emit(Stepped(epoch, step + 1, loss.item(), (rows - part.rows) / (now - started)))
        seconds = part.seconds + now - started
        after(batch, lambda: Part(step + 1, total.item(), rows, seconds))  # noqa: B023
    mean = total.item() / feed.steps
    if not np.isfinite(mean):
        raise diverged(f"the loss became {mean}", epoch, config, feed)
    taken = time.perf_counter() - started
    return {
        "train/loss": mean,
        "train/samples_per_second": feed.rows / (part.seconds + taken),
        "train/waiting": batches.seconds / taken,
    }


def _advance(
    before: Progress, epoch: int, metrics: Mapping[str, float], config: TrainConfig
) -> Progress:
    """Return the progress after an epoch with these metrics.

    If the metric is NaN, because no row of the split has a label, the latest epoch is the best.
    """
    monitored = metrics[config.monitor]
    is_best = not before.best or not monitored <= before.best[config.monitor]
    best_epoch = epoch if is_best else before.best_epoch
    gave_up = config.patience > 0 and epoch - best_epoch >= config.patience
    is_last = epoch == config.epochs
    return replace(
        before,
        epoch=epoch,
        best_epoch=best_epoch,
        metrics=dict(metrics),
        best=dict(metrics) if is_best else before.best,
        thresholds=[],
        calibration=None,
        is_over=is_last or gave_up,
        reason="finished" if is_last else "early stop" if gave_up else "",
        part=Part(),
    )


class _Saver:
    """Takes checkpoints after epochs and within them, with the record of rows used.

    Args:
        learner: what is saved.
        log: the rows used so far; kept up to date on all workers.
        report: receives the checkpoints; see `fit`.
        interval: steps between checkpoints within an epoch; 0: none.
    """

    def __init__(
        self, learner: Learner, log: RowLog, report: Report | Store, *, interval: int
    ) -> None:
        self._learner, self._log, self._report = learner, log, report
        self._interval = interval
        self._before: Progress | None = None
        self._rows: list[Tensor] = []
        self._logged_steps = 0

    def begin_epoch(self, before: Progress) -> None:
        """Set the progress at which an epoch begins or resumes."""
        self._before, self._logged_steps = before, before.part.steps

    def after_step(self, batch: Batch, part: Callable[[], Part]) -> None:
        """Note the rows of a step, and take a checkpoint if one is due; on every worker."""
        self._rows.append(batch.rows.clone())  # else all of the batch would stay in memory
        if not isinstance(self._report, Store):
            return
        step = self._logged_steps + len(self._rows)
        is_asked_for = self._report.is_due()  # always asked: it counts the steps
        if is_asked_for or (self._interval and step % self._interval == 0):
            assert self._before is not None
            self._log_rows(self._before.epoch + 1)
            undecided = replace(self._before, thresholds=[], calibration=None)
            progress = replace(undecided, part=part())
            self._keep(self._report, Saved(progress.epoch, step, progress.best_epoch), progress)

    def end_epoch(self, progress: Progress, *, seconds: float) -> None:
        """Report an epoch, with a checkpoint on worker 0."""
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
        """Add to the record what all workers' batches held since the last checkpoint."""
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
        """Return what writes a checkpoint of this moment; with `copy`, training may continue."""
        weights, state = self._learner.result.state_dict(), self._learner.training_state()
        if copy:
            weights, state = _on_cpu(weights), _on_cpu(state)
        rows = self._log.to_json()
        return lambda folder: checkpoint.save(folder, weights, state, progress, rows=rows)


def _on_cpu(value: Any) -> Any:
    """Copy the tensors in nested mappings and sequences to the CPU's memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _on_cpu(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_cpu(inner) for inner in value)
    return value
