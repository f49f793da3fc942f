"""Scores of a whole split, every row once, and the loss they come to. Pure: no Ray, no MLflow.

Axes: B rows of a batch, N rows of a split, C classes.
"""

from dataclasses import dataclass

import numpy as np
import torch

from raymc.config import Config
from raymc.data.feed.feed import Feed
from raymc.model.losses import compute_loss
from raymc.model.transformer import MultimodalTransformer
from raymc.training.workers import Workers


@dataclass(frozen=True)
class Predictions:
    """Scores of a split's rows, each row once, sorted by row.

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
    autocast: bool = False,
) -> Predictions:
    """Score every row of a feed once; all workers return the same."""
    workers = workers or Workers()
    model.eval()
    parts = []
    for batch in feed.evaluation():
        batch = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            fused = model(batch.tokens, batch.lengths).fused
        parts.append((batch.rows, model.scores(fused), batch.labels, batch.observed))
    rows, scores, labels, observed = (
        workers.gather(torch.cat(column)).cpu().numpy() for column in zip(*parts)
    )
    order = np.argsort(rows, kind="stable")[np.count_nonzero(rows < 0) :]
    return Predictions(scores[order], labels[order], observed[order], rows[order])


def split_loss(config: Config, predictions: Predictions) -> float:
    """Return the loss of a split, its rows taken in order in batches of the configured size."""
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
