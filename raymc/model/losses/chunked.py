"""The losses over very many classes: scores are computed a chunk of classes at a time.

A chunk's scores are reduced to a few sums and dropped, and computed again for the gradients, so
that memory does not grow with B × C. The results are those of `compute_loss`. The idea is from
E. Wijmans et al. 2024, *Cut Your Losses in Large-Vocabulary Language Models*, arXiv 2411.09009,
where each token has one label.

Axes: B batch (global), C classes, K classes of a chunk, E embedding dim, A anchors (clips or
classes), P pairs of a clip and a label of it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, normalize, softplus

from raymc.config import LossConfig
from raymc.model.losses import compute_loss, head_of
from raymc.model.losses.masked import hardest, log_zero, sum_of_means, weighted_mean_of_all
from raymc.model.losses.prototype import margin_of, margin_sums, mean_of_classes
from raymc.model.losses.proxy_anchor import anchor_sums

# Scores per chunk: on a CPU as many as fit its caches, elsewhere enough to occupy the device.
CPU_SCORES, OTHER_SCORES = 2**20, 2**24
# One number per clip is kept of every chunk, so chunks of large batches must not become narrow.
LEAST_CLASSES = 256


@dataclass(frozen=True)
class _Chunk:
    """The part of a batch that concerns some classes; matrices are views of the whole ones.

    Attributes:
        classes: Which of all classes.
        marked: Their labels, dense or sparse.
        observed: Which entries are known.
        weights: Weights of the classes.
    """

    classes: slice
    marked: Bool[Tensor, "B K"]
    observed: Bool[Tensor, "B K"]
    weights: Float[Tensor, " K"]

    @property
    def labels(self) -> Bool[Tensor, "B K"]:
        """The labels of each clip, dense; not cached, to save memory."""
        return self.marked.to_dense() if self.marked.is_sparse else self.marked

    @property
    def positive(self) -> Bool[Tensor, "B K"]:
        """Its labels that are observed; not cached either."""
        return self.labels & self.observed


Parts = Callable[[_Chunk, Tensor], tuple[Tensor, ...]]
Sizes = Sequence[tuple[int, ...]]
# The clip of each label, and its class, counted from the first of the chunk.
Pairs = tuple[Int64[Tensor, " P"], Int64[Tensor, " P"]]


def chunk_classes(rows: int, device: torch.device) -> int:
    """Return the number of classes per chunk for a batch of this many rows."""
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
    """Return `compute_loss` of the scores of these embeddings, in less memory.

    Besides its arguments and their gradients it needs memory for a few matrices of
    `chunk_classes` scores per clip, one number per clip and chunk, and a few per label. Scores are
    computed twice.

    Boolean matrices take a quarter of the memory of scores, so with very many classes avoid them:
    pass labels as a sparse tensor and, if clips are observed as a whole, an expanded column,
    `known[:, None].expand(B, C)`.

    Args:
        config: The loss and its constants.
        embedding: Embeddings of the clips; normalised here for losses with a cosine head.
        prototypes: Prototypes of the classes, likewise.
        labels: The labels of each clip, dense or sparse; ignored where unobserved.
        observed: Which entries are known.
        bias: Biases of the classes, for losses with a linear head; None is 0.
        class_weights: As for `compute_loss`.

    Returns:
        The loss, in float32 or float64; 0 with zero gradients when nothing is observed.
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
    """Reduces every chunk's scores to a few parts; recomputes the scores for the gradients.

    Takes `parts_of`, which reduces a chunk and its scores to flat parts; the chunks; the sizes of
    the parts of every chunk; embeddings, prototypes and, for a linear head, biases. Returns each
    part of all chunks, concatenated. One function handles all chunks and allocates all results
    first: allocations between chunks would leave holes of a chunk's size in memory.
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
    """Split concatenated parts into views of those of each chunk."""
    return zip(*(column.split(cuts) for column, cuts in zip(columns, zip(*sizes))))


def _rows_of(chunk: _Chunk, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the embeddings, and the rows of prototypes and biases that belong to the chunk."""
    embedding, *head = tensors
    return [embedding, *(x[chunk.classes] for x in head)]


def _scores(
    embedding: Float[Tensor, "B E"],
    prototypes: Float[Tensor, "K E"],
    bias: Float[Tensor, " K"] | None = None,
) -> Float[Tensor, "B K"]:
    """Score as the model does: with a linear head if there is a bias.

    For a cosine head the embeddings are already normalised.
    """
    with torch.autocast(embedding.device.type, enabled=False):  # which would round the products
        prototypes = prototypes.to(embedding)
        if bias is None:
            return linear(embedding, normalize(prototypes, dim=-1))
        return linear(embedding, prototypes, bias.to(embedding))


def _total(
    shape: tuple[int, ...], config: LossConfig, chunks: Sequence[_Chunk], *tensors: Tensor
) -> Tensor:
    """Add the `_sums` of all chunks, which have this shape."""
    sizes = [(math.prod(shape),)] * len(chunks)
    (sums,) = _Reduced.apply(partial(_sums, config), chunks, sizes, *tensors)
    return sums.reshape(len(chunks), *shape).sum(dim=0)


def _sums(config: LossConfig, chunk: _Chunk, scores: Float[Tensor, "B K"]) -> tuple[Tensor]:
    """Return sums over the chunk's classes from which the loss is made."""
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
    """Return `prototype_contrast`, for which one number describes all rivals of an anchor.

    That number is log Σ_j e^{s_j/τ}; those of several chunks combine by log-sum-exp. The
    embeddings have length 1/τ, so that scores are logits.
    """
    pairs = {chunk.classes.start: found for chunk, found in zip(chunks, _pairs(chunks))}
    sizes = [
        (len(found[0]), *chunk.marked.shape)[: 2 + config.two_way]
        for chunk, found in zip(chunks, pairs.values())
    ]
    known = torch.stack([chunk.observed.any(dim=1) for chunk in chunks]).any(dim=0)
    parts_of = partial(_contrast_parts, config, known, pairs)
    pulls, rivals, *others = _Reduced.apply(parts_of, chunks, sizes, embedding, prototypes)
    clips = torch.cat([clips for clips, _ in pairs.values()])
    classes = torch.cat([first + classes for first, (_, classes) in pairs.items()])
    weights = torch.cat([chunk.weights for chunk in chunks]).to(embedding)
    shift = config.margin / config.temperature
    pulls, rivals = pulls - shift, torch.logsumexp(rivals.reshape(len(chunks), -1), dim=0)
    terms, _, counted = _contrast_terms(rivals, clips, pulls, weights[classes], virtual=-shift)
    loss = weighted_mean_of_all(terms, counted)
    if config.two_way:
        (rivals,), even = others, torch.ones_like(pulls)
        terms, labelled, counted = _contrast_terms(rivals, classes, pulls, even, virtual=-shift)
        loss = config.clip_weight * loss + mean_of_classes(terms, weights, labelled, counted)
    return loss


def _pairs(chunks: Sequence[_Chunk]) -> Iterator[Pairs]:
    """Find the labels of each chunk, waiting for the device once for all of them."""
    counts = torch.stack([chunk.positive.sum() for chunk in chunks]).tolist()
    for chunk, count in zip(chunks, counts):
        clips, classes = chunk.positive.nonzero_static(size=count).unbind(dim=1)
        yield clips, classes


def _contrast_parts(
    config: LossConfig,
    known: Bool[Tensor, " B"],
    pairs: Mapping[int, Pairs],
    chunk: _Chunk,
    logits: Float[Tensor, "B K"],
) -> tuple[Tensor, ...]:
    """Return the logits of labels, and the log-sum-exp of each clip's and each class's rivals.

    `known` are the clips with anything observed, in this chunk or another; `pairs` the labels of
    each chunk, by its first class.
    """
    negative = ~chunk.labels & chunk.observed
    rivals = torch.where(negative, logits, log_zero(logits.dtype))
    parts = (logits[pairs[chunk.classes.start]], rivals.logsumexp(dim=1))
    if not config.two_way:
        return parts
    return (*parts, hardest(rivals, config.hard_clips, known).logsumexp(dim=0))


def _contrast_terms(
    rivals: Float[Tensor, " A"],
    anchors: Int64[Tensor, " P"],
    pulls: Float[Tensor, " P"],
    weights: Float[Tensor, " P"],
    *,
    virtual: float,
) -> tuple[Float[Tensor, " A"], Bool[Tensor, " A"], Bool[Tensor, " A"]]:
    """Return each anchor's term, whether it has a label, and whether it has any known entry.

    Args:
        rivals: Log-sum-exp of the logits of the anchor's negatives.
        anchors: The anchor of each label.
        pulls: The logit of each label, minus the margin in logits.
        weights: The weight of each label among those of its anchor.
        virtual: Stands for `pulls` if the anchor has no label.
    """
    nothing = torch.zeros_like(rivals)
    labelled = nothing.bool().index_fill(0, anchors, True)
    opposed = ~(rivals <= log_zero(rivals.dtype))
    total = nothing.index_add(0, anchors, weights)
    terms = softplus(rivals[anchors] - pulls)
    matched = nothing.index_add(0, anchors, terms * weights) / torch.where(total > 0, total, 1.0)
    term = torch.where(labelled, matched, softplus(rivals - virtual))
    return torch.where(opposed, term, 0.0), labelled, labelled | opposed
