"""A model in training: what it consists of, its global loss, and one optimizer step.

Start with `train_step`, then `Objective`, which computes the loss of the global batch from all
workers' embeddings. Further down: batches that do not fit in memory, and gathering over workers.

Axes: b rows of one worker, B rows of a global batch, C classes.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from raymc.config import Config, LossConfig, TrainConfig
from raymc.data.feed.batches import Batch
from raymc.data.feed.feed import Feed, Feeds
from raymc.data.feed.looks import group_look_alikes
from raymc.data.shards import Manifest
from raymc.model.losses import class_weights, compute_loss, head_of, supcon
from raymc.model.losses.chunked import chunk_classes, chunked_loss
from raymc.model.transformer import Embeddings, MultimodalTransformer
from raymc.training.optimizer import WeightAverage, lr_at, make_average, make_optimizer

# Tokens, with the readout token. Compiled code for any length is slower on odd ones, and a length
# of 1 would get code of its own.
BUCKET = 8
# A minute of compiling is repaid by about ten milliseconds a step.
COMPILED_FROM_STEPS = 5000


@dataclass(frozen=True)
class Workers:
    """This process among those that share a global batch."""

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> "Workers":
        """Read rank and count from torch.distributed; one worker if it is not initialised."""
        if dist.is_available() and dist.is_initialized():
            return cls(rank=dist.get_rank(), count=dist.get_world_size())
        return cls()

    def gather(self, x: Tensor) -> Tensor:
        """Concatenate equally shaped tensors [b, …] of all workers to [B, …], without gradients."""
        if self.count == 1:
            return x
        plain = (x.to(torch.uint8) if x.dtype == torch.bool else x).contiguous()
        parts = [torch.empty_like(plain) for _ in range(self.count)]
        dist.all_gather(parts, plain)
        return torch.cat(parts).to(x.dtype)

    def gather_step(
        self, numbers: Sequence[Tensor], flags: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Concatenate like `gather`, in one exchange, with gradients of the numbers.

        The gradients are right for a loss of the result that all workers compute alike, once
        DistributedDataParallel has averaged them.

        Args:
            numbers: [b, n], float32; n may differ.
            flags: [b, n], bool.
        """
        if self.count == 1:
            return numbers, flags
        whole = _Gather.apply(torch.cat([*numbers], dim=1), torch.cat([*flags], dim=1), self)
        return tuple(
            part.split([x.shape[1] for x in given], dim=1)
            for part, given in zip(whole, (numbers, flags))
        )


class _Gather(torch.autograd.Function):
    """All-gather whose backward keeps this worker's rows.

    Every worker computes the same global loss and so holds the same gradient for all gathered
    rows: no communication is needed. DistributedDataParallel divides by the number of workers
    afterwards, so the gradient is multiplied by it here.
    """

    @staticmethod
    def forward(
        ctx: Any, numbers: Tensor, flags: Tensor, workers: Workers
    ) -> tuple[Tensor, Tensor]:
        ctx.workers, ctx.rows = workers, len(numbers)
        whole = workers.gather(
            torch.cat([numbers.view(torch.uint8), flags.view(torch.uint8)], dim=1)
        )
        of_numbers, of_flags = whole.tensor_split([numbers.element_size() * numbers.shape[1]], 1)
        gathered = of_flags.bool()
        ctx.mark_non_differentiable(gathered)
        return of_numbers.contiguous().view(numbers.dtype), gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        first = ctx.workers.rank * ctx.rows
        return gradients[0][first : first + ctx.rows] * ctx.workers.count, None, None


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
        compiled: bool = False,
    ) -> None:
        """Join a model and a loss; `compiled` compiles both, for training only."""
        super().__init__()
        self.model, self.config, self.workers = model, config, workers
        self.weights = weights
        self._compiled_model = torch.compile(model.forward, dynamic=True) if compiled else None
        if compiled:
            self._loss_of_all = torch.compile(self._loss_of_all, dynamic=True)

    def forward(self, batch: Batch, *, wants_loss: bool = True) -> Tensor | Embeddings:
        """Return the loss of the global batch; every worker computes the same number.

        Without `wants_loss` return the embeddings of this worker's share.
        """
        embeddings = self.embed(batch)
        return self.loss(embeddings, batch) if wants_loss else embeddings

    def embed(self, batch: Batch) -> Embeddings:
        """Embed this worker's share of a global batch."""
        if self._compiled_model is None:
            return self.model(batch.tokens, batch.lengths, padded=batch.padded)
        batch = bucketed(batch)
        return self._compiled_model(batch.tokens, batch.lengths, padded=batch.padded)

    @property
    def head(self) -> list[Tensor]:
        """What is trained by the loss of embeddings alone, and not by making them."""
        return [x for x in (self.model.prototypes, self.model.bias) if x.requires_grad]

    def loss(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """Return the loss of the global batch, given the embeddings of this worker's share.

        Rows that only pad a share have no observed class and so do not count. A modality's own
        loss counts the rows that have the modality.
        """
        names = embeddings.by_modality if self.config.modality_weight else ()
        (fused, *own), (labels, observed, *present) = self.workers.gather_step(
            [x.float() for x in (embeddings.fused, *(embeddings.by_modality[n] for n in names))],
            [batch.labels, batch.observed, *(embeddings.present[n][:, None] for n in names)],
        )
        loss = self._loss(fused, labels, observed)
        if not own:
            return loss
        losses = [self._loss(x, labels, observed & there) for x, there in zip(own, present)]
        return loss + self.config.modality_weight * torch.stack(losses).mean()

    def _loss(self, gathered: Tensor, labels: Tensor, observed: Tensor) -> Tensor:
        if self.config.name != "supcon":
            return self._loss_of_scores(gathered, labels, observed)
        contrast = supcon(gathered, labels, observed, temperature=self.config.temperature)
        # The probe must not shape the embedding: its input is detached.
        return contrast + self._loss_of_scores(gathered.detach(), labels, observed)

    def _loss_of_scores(self, gathered: Tensor, labels: Tensor, observed: Tensor) -> Tensor:
        is_small = labels.shape[1] <= chunk_classes(len(labels), labels.device)
        if is_small or self.model.groups:  # chunks of classes have one embedding a clip
            return self._loss_of_all(gathered, labels, observed)
        return chunked_loss(
            self.config,
            gathered,
            self.model.prototypes,
            labels,
            observed,
            bias=self.model.bias,
            class_weights=self.weights,
        )

    def _loss_of_all(self, gathered: Tensor, labels: Tensor, observed: Tensor) -> Tensor:
        scores = self.model.scores(gathered)
        return compute_loss(self.config, scores, labels, observed, self.weights)


def bucketed(batch: Batch) -> Batch:
    """Pad a batch further, so that lengths with the readout token are multiples of `BUCKET`.

    A batch without padding stays without.
    """
    if not batch.padded:
        return batch
    tokens = {
        name: functional.pad(x, (0, 0, 0, -(x.shape[1] + 1) % BUCKET))
        for name, x in batch.tokens.items()
    }
    return replace(batch, tokens=tokens, memory=None)


@dataclass
class Learner:
    """What changes during training, and where it is computed.

    `average` is the running average of the model's weights, if one is kept.
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
        """The model that is validated and saved."""
        if self.average is None:
            return self.model
        averaged = self.average.model
        assert isinstance(averaged, MultimodalTransformer)
        return averaged

    def training_state(self) -> dict[str, Any]:
        """Return what resuming needs besides the weights of `result`."""
        state = {"optimizer": self.optimizer.state_dict()}
        return state if self.average is None else state | {"weights": self.model.state_dict()}

    def restore(self, weights: Mapping[str, Tensor], training_state: Mapping[str, Any]) -> None:
        """Load the weights of `result` and the `training_state` that belongs to them.

        Raises:
            RuntimeError, ValueError, KeyError: they belong to another model.
        """
        self.result.load_state_dict(weights)
        self.optimizer.load_state_dict(training_state["optimizer"])
        if self.average is not None:
            self.model.load_state_dict(training_state["weights"])


def _seed(seed: int, device: torch.device) -> None:
    """Seed the random numbers that a device draws.

    On a CPU, `torch.manual_seed` formats a stack trace for each kind of device that it might seed
    later, which takes longer than a small model's optimizer.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def make_learner(
    config: Config, manifest: Manifest, feeds: Feeds, *, device: torch.device
) -> Learner:
    """Initialise model and optimizer, identically on every worker."""
    workers = Workers.current()
    _seed(config.train.seed, device)
    model = make_model(config, manifest)
    model.centre(feeds.means)
    model.to(device)
    if feeds.looks is not None and 0 < model.groups < len(feeds.looks):
        groups = group_look_alikes(feeds.looks, feeds.class_counts, model.groups)
        # Those of the first worker: on other machines, other last bits might end in other groups.
        agreed = workers.gather(torch.from_numpy(groups).to(device))[: len(groups)]
        model.share_queries(agreed)
    average = make_average(model, config.optimizer, steps_per_epoch=feeds.train.steps)
    weights = None
    if config.loss.balance:
        weights = class_weights(torch.from_numpy(feeds.class_counts), config.loss.balance)
        weights = weights.to(device)
    steps = config.train.epochs * feeds.train.steps
    objective: nn.Module = Objective(
        model,
        config.loss,
        weights=weights,
        workers=workers,
        compiled=wants_compiled(config.train, device, steps=steps),
    )
    if workers.count > 1:
        # Buffers are the same everywhere, and need not be sent in every step.
        objective = DistributedDataParallel(objective, broadcast_buffers=False)
    return Learner(
        model=model,
        objective=objective,
        optimizer=make_optimizer(model, config.optimizer, device, is_cosine=model.head == "cosine"),
        device=device,
        workers=workers,
        autocast=wants_bfloat16(config.train, device),
        average=average,
    )


def make_model(config: Config, manifest: Manifest) -> MultimodalTransformer:
    """Return a freshly initialised model for a configuration and a dataset."""
    return MultimodalTransformer(
        config.model,
        manifest.modalities,
        classes=len(manifest.vocabulary.names),
        head=head_of(config.loss.name),
    )


def wants_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Whether to compute in bfloat16: as configured; `auto` means on GPUs that support it."""
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bfloat16"


def wants_compiled(config: TrainConfig, device: torch.device, *, steps: int) -> bool:
    """Whether to compile a run of so many steps: as configured, `auto` on GPUs where it pays."""
    if config.compile != "auto":
        return config.compile
    return device.type == "cuda" and steps >= COMPILED_FROM_STEPS and _has_compiler()


def _has_compiler() -> bool:
    """Whether torch.compile finds what it needs for GPUs: Triton, which needs a C compiler."""
    compilers = (os.environ.get("CC", "cc"), "gcc", "clang")
    return find_spec("triton") is not None and any(map(shutil.which, compilers))


def train_step(
    learner: Learner, config: Config, batch: Batch, *, epoch: int, step: int, feed: Feed
) -> Tensor:
    """Take one optimizer step; returns the loss, still on its device.

    The random numbers of dropout depend only on seed, epoch, step and worker, so that a resumed
    run draws the same ones as an uninterrupted run.
    """
    seed = step_seed(config, epoch=epoch, step=step, rank=learner.workers.rank)
    _seed(seed, learner.device)
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
        learner.average.update(learner.model, step=number + 1)
    return loss


def step_seed(config: Config, *, epoch: int, step: int, rank: int) -> int:
    """Return the seed of a worker's random numbers in one step."""
    sequence = np.random.SeedSequence([config.train.seed, epoch, step, rank])
    return int(sequence.generate_state(1)[0])


def add_gradients(learner: Learner, batch: Batch, rows_per_pass: int) -> Tensor:
    """Add the gradients of a global batch's loss to the parameters; returns the loss.

    Args:
        learner: what is trained.
        batch: this worker's share, b rows.
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
    shared = partial(objective, wants_loss=False) if objective is not plain else None
    return backward_in_passes(
        cast(plain.embed),
        cast(plain.loss),
        batch,
        rows_per_pass,
        embed_last=cast(shared) if shared else None,
        head=plain.head if shared else (),
    )


def backward_in_passes(
    embed: Callable[[Batch], Embeddings],
    loss_of: Callable[[Embeddings, Batch], Tensor],
    batch: Batch,
    rows_per_pass: int,
    *,
    embed_last: Callable[[Batch], Embeddings] | None = None,
    head: Sequence[Tensor] = (),
) -> Tensor:
    """Add the gradients of a batch's loss to the parameters, for a batch that exceeds memory.

    The loss L needs the embeddings z of all rows, so gradients of parts of a batch can't simply be
    added up. Gradient caching (L. Gao et al. 2021, *Scaling Deep Contrastive Learning Batch Size
    under Memory Limited Setup*, section 3.2, arXiv 2101.06983) uses the chain rule,
    dL/dθ = Σ_parts (dL/dz_part) · (dz_part/dθ): embed all parts without a graph; compute L and
    dL/dz from the joined embeddings; embed each part again with a graph, and propagate its
    dL/dz to the parameters θ. It costs one more forward pass, and memory for one part.

    Args:
        embed: embeds rows, each independently of the others.
        loss_of: the loss of all rows of the batch, given their embeddings.
        batch: this worker's share of the global batch, b rows.
        rows_per_pass: rows that are embedded at a time.
        embed_last: embeds the last part in place of `embed`, for DistributedDataParallel, which
            averages gradients over workers while the backward pass of that part still runs.
        head: parameters that only the loss reaches. DistributedDataParallel waits for the
            gradients of all parameters, so with `embed_last` it is told that theirs are ready.

    Returns:
        The loss.
    """
    states, made = [], []
    with torch.no_grad():
        for part in parts_of(batch, rows_per_pass):
            states.append(_random_state(part.rows.device))
            made.append(embed(part))
    joined = _joined(made)
    loss = loss_of(joined, batch)
    loss.backward()
    first = 0
    for part, state in zip(parts_of(batch, rows_per_pass), states, strict=True):
        _set_random_state(state, part.rows.device)  # dropout must draw the same numbers again
        is_last = first + len(part.rows) == len(batch.rows)
        if is_last and embed_last is not None:
            _propagate(embed_last(part), joined, first, head)
        else:
            _propagate(embed(part), joined, first)
        first += len(part.rows)
    return loss.detach()


def parts_of(batch: Batch, rows: int) -> Iterator[Batch]:
    """Split a batch into parts of at most `rows` rows, which are views."""
    for first in range(0, len(batch.rows), rows):
        part = slice(first, first + rows)
        yield Batch(
            tokens={name: x[part] for name, x in batch.tokens.items()},
            lengths={name: x[part] for name, x in batch.lengths.items()},
            labels=batch.labels[part],
            observed=batch.observed[part],
            rows=batch.rows[part],
            padded=batch.padded,
        )


def _joined(made: list[Embeddings]) -> Embeddings:
    """Concatenate the embeddings of all parts, as leaves that collect gradients."""
    names = made[0].by_modality
    return Embeddings(
        fused=torch.cat([one.fused for one in made]).requires_grad_(),
        by_modality={
            name: torch.cat([one.by_modality[name] for one in made]).requires_grad_()
            for name in names
        },
        present={name: torch.cat([one.present[name] for one in made]) for name in names},
    )


def _propagate(
    again: Embeddings, joined: Embeddings, first: int, head: Sequence[Tensor] = ()
) -> None:
    """Propagate the loss's gradient at a part's embeddings to the parameters; nothing to `head`."""
    pairs = [(again.fused, joined.fused)]
    pairs += [(again.by_modality[name], leaf) for name, leaf in joined.by_modality.items()]
    reached = [(x, leaf.grad) for x, leaf in pairs if leaf.grad is not None]
    gradients = [g[first : first + len(x)].to(x.dtype) for x, g in reached]
    torch.autograd.backward(
        [*(x for x, _ in reached), *head], [*gradients, *map(torch.zeros_like, head)]
    )


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    is_cuda = device.type == "cuda"
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if is_cuda else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
