"""The losses over many classes: scores made a chunk of classes at a time, never all at once.

Pure torch. A chunk's scores are reduced to a few sums and dropped, and made again when its
gradients are due, so that memory does not grow with B × C. Numbers are those of `compute_loss`.
Axes: B batch (global), C classes, K classes of a chunk, E embedding dim, A anchors (clips or
classes), P pairs of a clip and a label of it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, normalize, softplus

from raymc.config import LossConfig
from raymc.model.losses import compute_loss, head_of
from raymc.model.losses.masked import largest, log_zero, sum_of_means, weighted_mean_of_all
from raymc.model.losses.prototype import margin_of, margin_sums
from raymc.model.losses.proxy_anchor import anchor_sums

# Scores of a chunk: on a CPU what its caches hold, elsewhere what is worth starting kernels for.
CPU_SCORES, OTHER_SCORES = 2**20, 2**24
# A number a clip is kept of every chunk, so chunks of many clips must not become narrow.
LEAST_CLASSES = 256


@dataclass(frozen=True)
class _Chunk:
    """What a batch says of some classes; matrices are views of those of all classes.

    Attributes:
        classes: Which they are, of all.
        marked: Their labels, dense or sparse.
        observed: Which entries are known.
        weights: Of the classes.
    """

    classes: slice
    marked: Bool[Tensor, "B K"]
    observed: Bool[Tensor, "B K"]
    weights: Float[Tensor, " K"]

    @property
    def labels(self) -> Bool[Tensor, "B K"]:
        """The labels of each clip, for as long as they are looked at."""
        return self.marked.to_dense() if self.marked.is_sparse else self.marked

    @cached_property
    def pairs(self) -> tuple[Int64[Tensor, " P"], Int64[Tensor, " P"]]:
        """Each label's clip, and its class as counted from the chunk's first."""
        clips, classes = (self.labels & self.observed).nonzero(as_tuple=True)
        return clips, classes


Parts = Callable[[_Chunk, Tensor], tuple[Tensor, ...]]
Sizes = Sequence[tuple[int, ...]]


def chunk_classes(rows: int, device: torch.device) -> int:
    """Return how many classes' scores are made at a time for a batch of so many rows."""
    scores = CPU_SCORES if device.type == "cpu" else OTHER_SCORES
    return max(LEAST_CLASSES, scores // max(rows, 1))


def chunked_loss(
    config: LossConfig,
    embedding: Float[Tensor, "B E"],
    prototypes: Float[Tensor, "C E"],
    labels: Bool[Tensor, "B C"],
    observed: Bool[Tensor, "B C"],
    *,
    bias: Float[Tensor, " C"] | None = None,
    class_weights: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, ""]:
    """Return what `compute_loss` does of these embeddings' scores, in less memory.

    Beside what it is given and the gradients of that, it needs room for a few matrices of
    `chunk_classes` scores a clip, a number a clip for every chunk, and a few for every label of a
    clip. Scores are computed twice. The idea is that of E. Wijmans et al. 2024, *Cut Your Losses
    in Large-Vocabulary Language Models*, arXiv 2411.09009, for one label a token.

    A matrix of bools is a quarter of one of scores, so with very many classes `labels` and
    `observed` are better not made: give labels as a sparse tensor, and what is observed of whole
    clips as an expanded column, `known[:, None].expand(B, C)`.

    Args:
        config: Which loss, and its constants.
        embedding: Of the clips; normalised here where the head of the loss is cosine.
        prototypes: Of the classes, likewise.
        labels: The labels of each clip, dense or sparse; ignored where unobserved.
        observed: Which entries are known.
        bias: Of the classes, where the head of the loss is linear; None is 0.
        class_weights: As of `compute_loss`.

    Returns:
        The loss, in float32 at least; 0 with zero gradients when nothing is observed.
    """
    embedding = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
    head = (prototypes,)
    if head_of(config.name) == "cosine":
        embedding = normalize(embedding, dim=-1)
    else:
        head = (prototypes, prototypes.new_zeros(len(prototypes)) if bias is None else bias)
    weights = embedding.new_ones(len(prototypes)) if class_weights is None else class_weights
    chunks = list(_chunks(labels, observed, weights))
    if config.name == "prototype_contrast":
        return _contrast(config, chunks, embedding / config.temperature, prototypes)
    if config.name == "prototype_margin":
        return margin_of(_total((4, len(embedding)), config, chunks, embedding, *head))
    means = 2 if config.name == "proxy_anchor" else 1
    return sum_of_means(_total((2, means), config, chunks, embedding, *head))


def _chunks(
    labels: Bool[Tensor, "B C"], observed: Bool[Tensor, "B C"], weights: Float[Tensor, " C"]
) -> Iterator[_Chunk]:
    rows, count = labels.shape
    size = chunk_classes(rows, labels.device)
    for first in range(0, count, size):
        at = slice(first, min(first + size, count))
        part = (1, first, at.stop - first)
        marked = labels.narrow_copy(*part) if labels.is_sparse else labels.narrow(*part)
        yield _Chunk(at, marked, observed[:, at], weights[at])


class _Reduced(torch.autograd.Function):
    """A few parts of every chunk's scores, which are made again when gradients are due.

    Takes `parts_of`, which makes flat parts of a chunk and its scores; the chunks; the parts'
    sizes for every chunk; embeddings, prototypes and, for a linear head, biases. Returns each part
    of all chunks, concatenated. All chunks are one function and all they leave behind has its
    place from the start: what is made between one chunk and the next would leave holes of a
    chunk's size in memory.
    """

    @staticmethod
    def forward(
        ctx: Any, parts_of: Parts, chunks: Sequence[_Chunk], sizes: Sizes, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.parts_of, ctx.chunks, ctx.sizes = parts_of, chunks, sizes
        ctx.save_for_backward(*tensors)
        columns = tuple(tensors[0].new_empty(sum(column)) for column in zip(*sizes))
        for chunk, places in zip(chunks, _by_chunk(columns, sizes)):
            parts = parts_of(chunk, _scores(*_rows_of(chunk, tensors)))
            for place, part in zip(places, parts):
                place.copy_(part)
        return columns

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]: the decorator is untyped
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        totals = [torch.zeros_like(x) for x in ctx.saved_tensors]
        for chunk, given in zip(ctx.chunks, _by_chunk(gradients, ctx.sizes)):
            leaves = [x.detach().requires_grad_() for x in _rows_of(chunk, ctx.saved_tensors)]
            with torch.enable_grad():
                parts = ctx.parts_of(chunk, _scores(*leaves))
            found = torch.autograd.grad(parts, leaves, given)
            for total, gradient in zip(_rows_of(chunk, totals), found):
                total += gradient
        return None, None, None, *totals


def _by_chunk(columns: Sequence[Tensor], sizes: Sizes) -> Iterator[tuple[Tensor, ...]]:
    """Cut concatenated parts into those of each chunk, which are views."""
    return zip(*(column.split(cuts) for column, cuts in zip(columns, zip(*sizes))))


def _rows_of(chunk: _Chunk, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the embeddings, and views of what belongs to the chunk's classes."""
    embedding, *head = tensors
    return [embedding, *(x[chunk.classes] for x in head)]


def _scores(
    embedding: Float[Tensor, "B E"],
    prototypes: Float[Tensor, "K E"],
    bias: Float[Tensor, " K"] | None = None,
) -> Float[Tensor, "B K"]:
    """Score as the model does, with a linear head if there is a bias.

    For a cosine head the embeddings are normalised already.
    """
    with torch.autocast(embedding.device.type, enabled=False):  # it would round the products
        prototypes = prototypes.to(embedding)
        if bias is None:
            return linear(embedding, normalize(prototypes, dim=-1))
        return linear(embedding, prototypes, bias.to(embedding))


def _total(
    shape: tuple[int, ...], config: LossConfig, chunks: Sequence[_Chunk], *tensors: Tensor
) -> Tensor:
    """Add up the `_sums` over the classes of each chunk, which have this shape."""
    sizes = [(math.prod(shape),)] * len(chunks)
    (sums,) = _Reduced.apply(partial(_sums, config), chunks, sizes, *tensors)
    return sums.reshape(len(chunks), *shape).sum(dim=0)


def _sums(config: LossConfig, chunk: _Chunk, scores: Float[Tensor, "B K"]) -> tuple[Tensor]:
    """Return sums over classes from which the loss is made: of clips, or of weighted means."""
    batch = (scores, chunk.labels, chunk.observed, chunk.weights)
    constants = {"margin": config.margin, "temperature": config.temperature}
    match config.name:
        case "prototype_margin":
            sums = margin_sums(*batch, **constants)
        case "proxy_anchor":
            sums = anchor_sums(*batch, **constants)
        case _:  # the mean over all entries
            mean, entries = compute_loss(config, *batch), chunk.observed.sum()
            sums = torch.stack([mean * entries, entries.to(mean)])
    return (sums.flatten(),)


def _contrast(
    config: LossConfig,
    chunks: Sequence[_Chunk],
    embedding: Float[Tensor, "B E"],
    prototypes: Float[Tensor, "C E"],
) -> Float[Tensor, ""]:
    """Return `prototype_contrast`: the rivals of an anchor come down to one number of theirs.

    The embeddings' length is 1 / temperature, so that scores are logits.
    """
    sizes = [(len(chunk.pairs[0]), *chunk.marked.shape)[: 2 + config.two_way] for chunk in chunks]
    parts_of = partial(_contrast_parts, config)
    pulls, rivals, *others = _Reduced.apply(parts_of, chunks, sizes, embedding, prototypes)
    clips = torch.cat([chunk.pairs[0] for chunk in chunks])
    classes = torch.cat([chunk.classes.start + chunk.pairs[1] for chunk in chunks])
    weights = torch.cat([chunk.weights for chunk in chunks]).to(embedding)
    shift = config.margin / config.temperature
    pulls, rivals = pulls - shift, torch.logsumexp(rivals.reshape(len(chunks), -1), dim=0)
    terms, _, counted = _contrast_terms(rivals, clips, pulls, weights[classes], virtual=-shift)
    loss = weighted_mean_of_all(terms, counted)
    if config.two_way:
        (rivals,), even = others, torch.ones_like(pulls)
        terms, labelled, counted = _contrast_terms(rivals, classes, pulls, even, virtual=-shift)
        anchor_weights = torch.where(labelled, weights, 1.0) * counted
        loss = config.clip_weight * loss + weighted_mean_of_all(terms, anchor_weights)
    return loss


def _contrast_parts(
    config: LossConfig, chunk: _Chunk, logits: Float[Tensor, "B K"]
) -> tuple[Tensor, ...]:
    """Return the labels' logits, and the log-sum-exp of each clip's rivals, of each class's."""
    negative = ~chunk.labels & chunk.observed
    rivals = torch.where(negative, logits, log_zero(logits.dtype))
    parts = (logits[chunk.pairs], rivals.logsumexp(dim=1))
    if not config.two_way:
        return parts
    return (*parts, largest(rivals, config.hard_clips, dim=0).logsumexp(dim=0))


def _contrast_terms(
    rivals: Float[Tensor, " A"],
    anchors: Int64[Tensor, " P"],
    pulls: Float[Tensor, " P"],
    weights: Float[Tensor, " P"],
    *,
    virtual: float,
) -> tuple[Float[Tensor, " A"], Bool[Tensor, " A"], Bool[Tensor, " A"]]:
    """Return each anchor's term, whether it has a label, and whether anything of it is known.

    Args:
        rivals: Log-sum-exp of the logits of the anchor's negatives.
        anchors: The anchor of each label.
        pulls: The label's logit, less the margin's.
        weights: The label's weight among those of its anchor.
        virtual: What stands for a label's where the anchor has none.
    """
    nothing = torch.zeros_like(rivals)
    labelled = nothing.bool().index_fill(0, anchors, True)
    opposed = ~(rivals <= log_zero(rivals.dtype))
    total = nothing.index_add(0, anchors, weights)
    terms = softplus(rivals[anchors] - pulls)
    matched = nothing.index_add(0, anchors, terms * weights) / torch.where(total > 0, total, 1.0)
    term = torch.where(labelled, matched, softplus(rivals - virtual))
    return torch.where(opposed, term, 0.0), labelled, labelled | opposed
