"""Training as such: one epoch, one evaluation, one run.

The same `fit` serves a bare process, a Ray Train worker and a Tune trial; what differs between
them is passed in: feeds, a device, and callables that carry news out. Pure: no Ray, no MLflow.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from raymc.config import Config, TrainConfig, to_dict
from raymc.data.feed.batches import Batch
from raymc.data.feed.feed import Feed, Feeds
from raymc.data.labels import Vocabulary
from raymc.data.shards import Manifest
from raymc.errors import CheckpointError, DivergedError
from raymc.events import Ended, Event, Started, Stepped
from raymc.metrics.calibration import fit_calibration
from raymc.metrics.families import family_metrics
from raymc.metrics.metrics import evaluate_scores
from raymc.metrics.thresholds import thresholds_at_precision
from raymc.training import checkpoint
from raymc.training.checkpoint import Part, Progress
from raymc.training.learner import Learner, make_learner, train_step
from raymc.training.row_log import RowLog
from raymc.training.saving import Report, Saver, Store
from raymc.training.scoring import Predictions, predict, split_loss

SECONDS_BETWEEN_STEP_EVENTS = 0.25
Emit = Callable[[Event], None]
Item = TypeVar("Item")


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
    """Train to the end, or until the monitored metric stops improving.

    Args:
        config: all settings.
        manifest: of the dataset.
        feeds: this worker's feeds.
        device: where this worker computes.
        emit: is told of starts, steps and the end, by worker 0 alone.
        report: is called after every epoch by every worker, with a checkpoint's folder on
            worker 0 and None elsewhere; the folder is gone once it returns. A `Store` takes
            checkpoints within epochs, too, and writes them while training goes on.
        resume: checkpoint to go on from.

    Returns:
        The progress at the end.

    Raises:
        DivergedError: the loss or the scores are no longer finite.
        CheckpointError: `resume` is torn or belongs to other settings.
    """
    learner = make_learner(config, manifest, feeds, device=device)
    progress, log = _begin(learner, config, manifest, resume, rows=feeds.train.rows)
    saver = Saver(learner, log, report, interval=config.train.checkpoint_steps)
    tell = emit if learner.workers.rank == 0 else _silent
    tell(
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
        progress, seconds = _run_epoch(learner, config, feeds, progress, saver=saver, emit=tell)
        saver.end_epoch(progress, seconds=seconds)
    tell(Ended(reason=progress.reason, best_epoch=progress.best_epoch, best=progress.best))
    return progress


def _run_epoch(
    learner: Learner, config: Config, feeds: Feeds, before: Progress, *, saver: Saver, emit: Emit
) -> tuple[Progress, float]:
    """Train and validate one epoch, or what is left of it; returns the seconds it took, too."""
    epoch, started = before.epoch + 1, time.perf_counter() - before.part.seconds
    saver.begin_epoch(before)
    trained = train_epoch(
        learner, config, feeds.train, epoch, emit=emit, part=before.part, after=saver.after_step
    )
    judged, predictions = _validate(
        learner, config, feeds.val, epoch, vocabulary=feeds.train.manifest.vocabulary
    )
    metrics = {**trained, **judged, "train/lr": learner.optimizer.param_groups[0]["lr"]}
    progress = _advance(before, epoch, metrics, config.train)
    if not metrics[config.train.monitor] < progress.best[config.train.monitor]:
        progress = _decide(progress, predictions, config.train)
    return progress, time.perf_counter() - started


class Awaited(Generic[Item]):
    """Passes items on; `seconds` is how long they were waited for."""

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
        epoch: which, from 1.
        emit: is told of some of the steps.
        part: what is done of the epoch; its steps are left out here.
        after: is called after every step with its batch and a function that says what is done.

    Raises:
        DivergedError: the mean loss of the epoch is not finite.
    """
    learner.model.train()
    part = part or Part()
    total, rows = torch.tensor(part.loss, device=learner.device), part.rows
    batches = Awaited(feed.training(epoch, skip=part.steps))
    started = told = time.perf_counter()
    for step, batch in enumerate(batches, start=part.steps):
        loss = train_step(
            learner, config, batch.to(learner.device), epoch=epoch, step=step, feed=feed
        )
        total += loss
        rows += min(feed.config.size, feed.rows - rows)
        now = time.perf_counter()
        if now - told > SECONDS_BETWEEN_STEP_EVENTS:
            told = now
            emit(Stepped(epoch, step + 1, loss.item(), (rows - part.rows) / (now - started)))
        seconds = part.seconds + now - started
        after(batch, lambda: Part(step + 1, total.item(), rows, seconds))  # noqa: B023
    mean = total.item() / feed.steps
    if not np.isfinite(mean):
        raise _diverged(f"the loss became {mean}", epoch, config)
    taken = time.perf_counter() - started
    return {
        "train/loss": mean,
        "train/samples_per_second": rows / (part.seconds + taken),
        "train/waiting": batches.seconds / taken,
    }


def describe_dataset(manifest: Manifest) -> dict[str, Any]:
    """Return what a model must remember of the dataset it was trained on."""
    return {
        "vocabulary": manifest.vocabulary.to_json(),
        "modalities": [asdict(modality) for modality in manifest.modalities],
        "digest": manifest.digest(),
    }


def _validate(
    learner: Learner, config: Config, feed: Feed, epoch: int, *, vocabulary: Vocabulary
) -> tuple[dict[str, float], Predictions]:
    """Return the `val/` metrics, and the scores that they are of.

    Raises:
        DivergedError: a score is not finite.
    """
    predictions = predict(
        learner.result,
        feed,
        device=learner.device,
        workers=learner.workers,
        autocast=learner.autocast,
    )
    if not np.isfinite(predictions.scores).all():
        raise _diverged("scores of the validation split became NaN or infinite", epoch, config)
    scores = evaluate_scores(predictions.scores, predictions.labels, predictions.observed)
    metrics = {f"val/{name}": value for name, value in scores.to_dict().items()}
    metrics["val/loss"] = split_loss(config, predictions)
    metrics |= family_metrics(scores.per_class_AP, vocabulary)
    return metrics, predictions


def _decide(progress: Progress, predictions: Predictions, config: TrainConfig) -> Progress:
    """Add what turns scores into labels and probabilities, for no epoch that is beaten already."""
    judged = (predictions.scores, predictions.labels, predictions.observed)
    thresholds = thresholds_at_precision(
        *judged, precision=config.target_precision, confidence=config.threshold_confidence
    )
    calibration = fit_calibration(*judged, name=config.calibration)
    return replace(
        progress,
        thresholds=[float(t) if np.isfinite(t) else None for t in thresholds],
        calibration=calibration.to_json() if calibration else None,
    )


def _advance(
    before: Progress, epoch: int, metrics: Mapping[str, float], config: TrainConfig
) -> Progress:
    """Return the progress after an epoch with these metrics.

    Where the split can't tell, because no row of it has a label, the latest epoch is the best.
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


def _begin(
    learner: Learner, config: Config, manifest: Manifest, resume: Path | None, *, rows: int
) -> tuple[Progress, RowLog]:
    """Return where a run begins, and the record of its rows: from a checkpoint, or fresh.

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


def _diverged(what: str, epoch: int, config: Config) -> DivergedError:
    return DivergedError(
        f"{what} in epoch {epoch}: try a smaller optimizer.lr ({config.optimizer.lr:g}) or a "
        f"larger loss.temperature ({config.loss.temperature:g}); `raymc data check "
        f"{config.data.path}` tells whether tokens hold NaN"
    )


def _silent(event: Event) -> None:
    """Hear nothing: only worker 0 speaks."""
