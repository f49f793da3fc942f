"""Validation: the scores of a whole split, the metrics they give, thresholds and calibration.

Axes: B rows of a batch, N rows of a split, C classes.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from raymc.config import Config, TrainConfig
from raymc.data.feed.feed import Feed, on_device
from raymc.data.labels import Vocabulary
from raymc.data.shards.tokens import LARGEST_VALUE
from raymc.errors import DivergedError
from raymc.metrics.calibration import fit_calibration
from raymc.metrics.families import family_metrics
from raymc.metrics.metrics import evaluate_scores
from raymc.metrics.thresholds import thresholds_at_precision
from raymc.model.losses import compute_loss
from raymc.model.transformer import MultimodalTransformer
from raymc.training.checkpoint import Progress
from raymc.training.learner import Learner, Workers


@dataclass(frozen=True)
class Predictions:
    """Scores of a split's rows, each row once, in the order of the split.

    `scores` is [N, C] float32, `labels` and `observed` are [N, C] bool, `rows` is [N].
    """

    scores: np.ndarray
    labels: np.ndarray
    observed: np.ndarray
    rows: np.ndarray


@torch.inference_mode()
def predict(
    model: MultimodalTransformer,
    feed: Feed,
    *,
    device: torch.device,
    workers: Workers | None = None,
) -> Predictions:
    """Score every row of a feed once; all workers return the same result.

    Scores are computed in float32 whatever the model is trained in, because a bundle computes them
    so. Else its thresholds would belong to other scores.
    """
    workers = workers or Workers()
    model.eval()
    parts = []
    for _, batch in on_device(feed.evaluation(), device):
        _, scores = model.score_batch(batch)
        kept = (x.clone() for x in (batch.rows, batch.labels, batch.observed))  # not their batch
        parts.append((scores, *kept))
    scores, rows, labels, observed = (
        workers.gather(torch.cat(column)).cpu().numpy() for column in zip(*parts)
    )
    # Rows that only pad a batch have negative numbers and sort to the front: drop them.
    order = np.argsort(rows, kind="stable")[np.count_nonzero(rows < 0) :]
    return Predictions(scores[order], labels[order], observed[order], rows[order])


def split_loss(config: Config, predictions: Predictions) -> float:
    """Return the loss of a split: the mean over batches of the configured size, in row order."""
    losses, sizes = [], []
    for at in range(0, len(predictions.rows), config.batch.size):
        part = slice(at, at + config.batch.size)
        scores, labels, observed = (
            torch.from_numpy(x[part])
            for x in (predictions.scores, predictions.labels, predictions.observed)
        )
        losses.append(compute_loss(config.loss, scores, labels, observed).item())
        sizes.append(len(scores))
    return float(np.average(losses, weights=sizes))


def validate(
    learner: Learner, config: Config, feed: Feed, epoch: int, *, vocabulary: Vocabulary
) -> tuple[dict[str, float], Predictions]:
    """Return the `val/` metrics of an epoch, and the scores they are computed from.

    Raises:
        DivergedError: a score is not finite.
    """
    predictions = predict(learner.result, feed, device=learner.device, workers=learner.workers)
    if not np.isfinite(predictions.scores).all():
        raise diverged("scores of the validation split became NaN or infinite", epoch, config, feed)
    scores = evaluate_scores(predictions.scores, predictions.labels, predictions.observed)
    metrics = {f"val/{name}": value for name, value in scores.to_dict().items()}
    metrics["val/loss"] = split_loss(config, predictions)
    metrics |= family_metrics(scores.per_class_AP, vocabulary)
    return metrics, predictions


def decide(progress: Progress, predictions: Predictions, config: TrainConfig) -> Progress:
    """Add thresholds and calibration, fitted on the validation split, to an epoch's progress."""
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


def diverged(what: str, epoch: int, config: Config, feed: Feed) -> DivergedError:
    """Return the error of a run whose loss or scores on a feed are no longer finite."""
    culprit = _overflowing(feed)
    advice = (
        f"{culprit}, and the square of a value beyond {LARGEST_VALUE:g} overflows float32: scale "
        "the features or correct what is wrong with them"
        if culprit
        else f"try a smaller optimizer.lr ({config.optimizer.lr:g}) or a larger "
        f"loss.temperature ({config.loss.temperature:g})"
    )
    return DivergedError(
        f"{what} in epoch {epoch}: {advice}; run `raymc data check {config.data.path}` to see "
        "whether tokens contain NaN or too large values"
    )


def _overflowing(feed: Feed) -> str:
    """Say which row has the first value too large to train on; an empty text if none has."""
    for batch in feed.evaluation():
        for name, tokens in batch.tokens.items():
            if tokens.is_floating_point():
                largest = tokens.abs().flatten(1).amax(1)
                for at in (largest > LARGEST_VALUE).nonzero().flatten().tolist()[:1]:
                    row, split = int(batch.rows[at]), feed.split
                    return f"row {row} of split {split} has {largest[at]:g} in modality {name}"
    return ""
