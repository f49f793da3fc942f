"""A model under training: what it is made of, and one optimizer step. Pure: no Ray, no MLflow.

Axes: B rows of a global batch, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raymc.config import Config, LossConfig, TrainConfig
from raymc.data.feed.batches import Batch
from raymc.data.feed.feed import Feed, Feeds
from raymc.data.shards import Manifest
from raymc.model.losses import class_weights, compute_loss, head_of, supcon
from raymc.model.losses.chunked import chunk_classes, chunked_loss
from raymc.model.transformer import Embeddings, MultimodalTransformer
from raymc.training.accumulation import backward_in_passes
from raymc.training.optimizer import WeightAverage, lr_at, make_average, make_optimizer
from raymc.training.workers import Workers


class Objective(nn.Module):
    """Model and loss as one module, so that DistributedDataParallel sees the whole step."""

    weights: Tensor | None

    def __init__(
        self,
        model: MultimodalTransformer,
        config: LossConfig,
        *,
        weights: Tensor | None,
        workers: Workers,
    ) -> None:
        super().__init__()
        self.model, self.config, self.workers = model, config, workers
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss of the global batch; every worker computes the same number."""
        return self.loss(self.embed(batch), batch)

    def embed(self, batch: Batch) -> Embeddings:
        """Embed this worker's share of a global batch."""
        return self.model(batch.tokens, batch.lengths)

    def loss(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """Return the loss of the global batch, given the embeddings of this worker's share.

        Rows that only pad a share are observed in nothing, and so count nowhere. In the loss of
        a modality alone count the rows that have it.
        """
        labels, observed = self.workers.gather(batch.labels), self.workers.gather(batch.observed)
        loss = self._loss(embeddings.fused, labels, observed)
        if not self.config.modality_weight:
            return loss
        own = []
        for name, embedding in embeddings.by_modality.items():
            present = self.workers.gather(embeddings.present[name])
            own.append(self._loss(embedding, labels, observed & present[:, None]))
        return loss + self.config.modality_weight * torch.stack(own).mean()

    def _loss(self, embedding: Tensor, labels: Tensor, observed: Tensor) -> Tensor:
        """Return the loss of this worker's embeddings, gathered, against the global labels."""
        gathered = self.workers.gather_with_gradients(embedding.float())
        if self.config.name != "supcon":
            return self._loss_of_scores(gathered, labels, observed)
        contrast = supcon(gathered, labels, observed, temperature=self.config.temperature)
        return contrast + self._loss_of_scores(gathered.detach(), labels, observed)

    def _loss_of_scores(self, gathered: Tensor, labels: Tensor, observed: Tensor) -> Tensor:
        """Return the loss of what the head makes of the global batch's embeddings."""
        if labels.shape[1] <= chunk_classes(len(labels), labels.device):
            scores = self.model.scores(gathered)
            return compute_loss(self.config, scores, labels, observed, self.weights)
        return chunked_loss(
            self.config,
            gathered,
            self.model.prototypes,
            labels,
            observed,
            bias=self.model.bias,
            class_weights=self.weights,
        )


@dataclass
class Learner:
    """What changes while a run trains, and where it does so.

    `average` is the running average of the model's weights, where one is kept.
    """

    model: MultimodalTransformer
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    workers: Workers
    autocast: bool
    average: WeightAverage | None = None

    @property
    def result(self) -> MultimodalTransformer:
        """The model that is validated and kept."""
        if self.average is None:
            return self.model
        averaged = self.average.model
        assert isinstance(averaged, MultimodalTransformer)
        return averaged

    def training_state(self) -> dict[str, Any]:
        """Return what going on needs besides the weights of `result`."""
        state = {"optimizer": self.optimizer.state_dict()}
        return state if self.average is None else state | {"weights": self.model.state_dict()}

    def restore(self, weights: Mapping[str, Tensor], training_state: Mapping[str, Any]) -> None:
        """Go on from the weights of `result` and what `training_state` returned beside them.

        Raises:
            RuntimeError, ValueError, KeyError: they are another model's.
        """
        self.result.load_state_dict(weights)
        self.optimizer.load_state_dict(training_state["optimizer"])
        if self.average is not None:
            self.model.load_state_dict(training_state["weights"])
            self.average.has_begun = True


def make_learner(
    config: Config, manifest: Manifest, feeds: Feeds, *, device: torch.device
) -> Learner:
    """Initialise model and optimizer, the same on every worker."""
    workers = Workers.current()
    torch.manual_seed(config.train.seed)
    model = make_model(config, manifest).to(device)
    average = make_average(model, config.optimizer, steps_per_epoch=feeds.train.steps)
    weights = None
    if config.loss.balance:
        weights = class_weights(torch.from_numpy(feeds.class_counts), config.loss.balance)
        weights = weights.to(device)
    objective: nn.Module = Objective(model, config.loss, weights=weights, workers=workers)
    if config.train.compile:
        model.compile()
    if workers.count > 1:
        objective = DistributedDataParallel(objective)
    return Learner(
        model=model,
        objective=objective,
        optimizer=make_optimizer(model, config.optimizer, device),
        device=device,
        workers=workers,
        autocast=wants_bfloat16(config.train, device),
        average=average,
    )


def make_model(config: Config, manifest: Manifest) -> MultimodalTransformer:
    """Return the freshly initialised model that a configuration and a dataset ask for."""
    return MultimodalTransformer(
        config.model,
        manifest.modalities,
        classes=len(manifest.vocabulary.names),
        head=head_of(config.loss.name),
    )


def wants_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Say whether to compute in bfloat16: where asked, or by default where a GPU has it."""
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bfloat16"


def step_seed(config: Config, *, epoch: int, step: int, rank: int) -> int:
    """Return what a worker's random numbers of a step start from."""
    sequence = np.random.SeedSequence([config.train.seed, epoch, step, rank])
    return int(sequence.generate_state(1)[0])


def train_step(
    learner: Learner, config: Config, batch: Batch, *, epoch: int, step: int, feed: Feed
) -> Tensor:
    """Take one optimizer step; returns the loss, still on its device.

    The random numbers of dropout depend on seed, epoch, step and worker alone, so a resumed
    run draws what the uninterrupted one would have.
    """
    torch.manual_seed(step_seed(config, epoch=epoch, step=step, rank=learner.workers.rank))
    number = (epoch - 1) * feed.steps + step
    for group in learner.optimizer.param_groups:
        group["lr"] = lr_at(
            number, config.optimizer, steps_per_epoch=feed.steps, epochs=config.train.epochs
        )
    learner.optimizer.zero_grad(set_to_none=True)
    loss = add_gradients(learner, batch, config.batch.rows_per_pass)
    if config.optimizer.clip_norm:
        nn.utils.clip_grad_norm_(learner.model.parameters(), config.optimizer.clip_norm)
    learner.optimizer.step()
    if learner.average is not None:
        learner.average.update(learner.model)
    return loss


def add_gradients(learner: Learner, batch: Batch, rows_per_pass: int) -> Tensor:
    """Add the gradients of a global batch's loss to the parameters; returns the loss.

    Args:
        learner: what is trained.
        batch: this worker's share.
        rows_per_pass: rows that may be embedded at a time; 0: all.
    """
    objective = learner.objective
    cast = torch.autocast(learner.device.type, torch.bfloat16, enabled=learner.autocast)
    if not 0 < rows_per_pass < len(batch.rows):
        with cast:
            loss = objective(batch)
        loss.backward()
        return loss.detach()
    plain = objective.module if isinstance(objective, DistributedDataParallel) else objective
    assert isinstance(plain, Objective)
    loss = backward_in_passes(cast(plain.embed), cast(plain.loss), batch, rows_per_pass)
    learner.workers.average([p.grad for p in plain.parameters() if p.grad is not None])
    return loss
