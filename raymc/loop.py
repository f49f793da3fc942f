"""Training as such: one epoch, one evaluation, one run.

The same `fit` serves a bare process, a Ray Train worker and a Tune trial; what differs between
them is passed in: feeds, a device, and two callables that carry news out. Pure: no Ray, no
MLflow.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raymc import checkpoint
from raymc.batches import Feed, Feeds
from raymc.calibration import fit_calibration
from raymc.checkpoint import Progress
from raymc.config import Config, TrainConfig, to_dict
from raymc.errors import CheckpointError, DivergedError
from raymc.events import Ended, EpochEnded, Event, Started, Stepped
from raymc.hierarchy import family_metrics
from raymc.labels import Vocabulary
from raymc.learner import Learner, make_learner, train_step
from raymc.metrics import evaluate_scores
from raymc.scoring import Predictions, predict, split_loss
from raymc.shards import Manifest
from raymc.thresholds import thresholds_at_precision

SECONDS_BETWEEN_STEP_EVENTS = 0.25

Emit = Callable[[Event], None]
Report = Callable[[EpochEnded, Path | None], None]


def fit(
    config: Config,
    manifest: Manifest,
    feeds: Feeds,
    *,
    device: torch.device,
    emit: Emit,
    report: Report,
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
            worker 0 and None elsewhere; the folder is gone once it returns.
        resume: checkpoint to go on from.

    Returns:
        The progress at the end.

    Raises:
        DivergedError: the loss or the scores are no longer finite.
        CheckpointError: `resume` is torn or belongs to other settings.
    """
    learner = make_learner(config, manifest, feeds, device=device)
    progress = _restore(learner, config, manifest, resume) if resume else None
    first_epoch = progress.epoch + 1 if progress else 1
    tell = emit if learner.workers.rank == 0 else _silent
    tell(
        Started(
            epochs=config.train.epochs,
            steps_per_epoch=feeds.train.steps,
            rows=feeds.train.rows,
            parameters=sum(p.numel() for p in learner.model.parameters()),
            first_epoch=first_epoch,
        )
    )
    if progress and progress.is_over:
        _report(learner, progress, report, seconds=0.0)
    for epoch in range(first_epoch, config.train.epochs + 1):
        if progress and progress.is_over:
            break
        started = time.perf_counter()
        trained = train_epoch(learner, config, feeds.train, epoch, emit=tell)
        judged, predictions = _validate(
            learner, config, feeds.val, epoch, vocabulary=manifest.vocabulary
        )
        metrics = {**trained, **judged, "train/lr": learner.optimizer.param_groups[0]["lr"]}
        progress = _advance(progress, epoch, metrics, config.train)
        progress = replace(progress, config=to_dict(config), dataset=describe_dataset(manifest))
        if not metrics[config.train.monitor] < progress.best[config.train.monitor]:
            progress = _decide(progress, predictions, config.train)
        _report(learner, progress, report, seconds=time.perf_counter() - started)
    assert progress is not None
    tell(Ended(reason=progress.reason, best_epoch=progress.best_epoch, best=progress.best))
    return progress


def train_epoch(
    learner: Learner, config: Config, feed: Feed, epoch: int, *, emit: Emit
) -> dict[str, float]:
    """Train on every row once; returns the epoch's `train/` metrics.

    Raises:
        DivergedError: the mean loss of the epoch is not finite.
    """
    learner.model.train()
    total, rows = torch.zeros((), device=learner.device), 0
    started = told = time.perf_counter()
    for step, batch in enumerate(feed.training(epoch)):
        loss = train_step(
            learner, config, batch.to(learner.device), epoch=epoch, step=step, feed=feed
        )
        total += loss
        rows += min(feed.config.size, feed.rows - rows)
        now = time.perf_counter()
        if now - told > SECONDS_BETWEEN_STEP_EVENTS:
            told = now
            emit(Stepped(epoch, step + 1, loss.item(), rows / (now - started)))
    mean = total.item() / feed.steps
    if not np.isfinite(mean):
        raise _diverged(f"the loss became {mean}", epoch, config)
    seconds = time.perf_counter() - started
    return {"train/loss": mean, "train/samples_per_second": rows / seconds}


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
    before: Progress | None, epoch: int, metrics: Mapping[str, float], config: TrainConfig
) -> Progress:
    """Return the progress after an epoch with these metrics.

    Where the split can't tell, because no row of it has a label, the latest epoch is the best.
    """
    monitored = metrics[config.monitor]
    is_best = before is None or not monitored <= before.best[config.monitor]
    best_epoch = epoch if is_best or before is None else before.best_epoch
    gave_up = config.patience > 0 and epoch - best_epoch >= config.patience
    is_last = epoch == config.epochs
    return Progress(
        epoch=epoch,
        best_epoch=best_epoch,
        metrics=dict(metrics),
        best=dict(metrics) if is_best or before is None else before.best,
        thresholds=[],
        is_over=is_last or gave_up,
        reason="finished" if is_last else "early stop" if gave_up else "",
    )


def _report(learner: Learner, progress: Progress, report: Report, *, seconds: float) -> None:
    """Pass an epoch on, with a checkpoint on worker 0."""
    event = EpochEnded(
        epoch=progress.epoch,
        metrics=progress.metrics,
        is_best=progress.epoch == progress.best_epoch,
        seconds=seconds,
        is_last=progress.is_over,
    )
    if learner.workers.rank:
        report(event, None)
        return
    with tempfile.TemporaryDirectory(prefix="raymc-") as folder:
        target = Path(folder) / "checkpoint"
        checkpoint.save(target, learner.result.state_dict(), learner.training_state(), progress)
        report(event, target)


def _restore(learner: Learner, config: Config, manifest: Manifest, folder: Path) -> Progress:
    """Load a checkpoint into the learner.

    Raises:
        CheckpointError: it was made with another dataset or model.
    """
    loaded = checkpoint.load(folder, device=str(learner.device))
    if loaded.progress.dataset.get("digest") != manifest.digest():
        raise CheckpointError(
            f"checkpoint {folder} was trained on another dataset than {config.data.path}: "
            "give the run another name (run.name=…)"
        )
    try:
        learner.restore(loaded.weights, loaded.training_state)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"checkpoint {folder} has another model than this configuration: "
            "give the run another name (run.name=…)"
        ) from error
    return loaded.progress


def _diverged(what: str, epoch: int, config: Config) -> DivergedError:
    return DivergedError(
        f"{what} in epoch {epoch}: try a smaller optimizer.lr ({config.optimizer.lr:g}) or a "
        f"larger loss.temperature ({config.loss.temperature:g}); `raymc data check "
        f"{config.data.path}` tells whether tokens hold NaN"
    )


def _silent(event: Event) -> None:
    """Hear nothing: only worker 0 speaks."""
