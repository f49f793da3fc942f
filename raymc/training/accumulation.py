"""Steps on more rows than a device can hold at once, with the gradients of all of them together.

The loss needs the embeddings of the whole global batch, so gradients of parts can't just be
added up. Gradient caching (L. Gao et al., *Scaling Deep Contrastive Learning Batch Size under
Memory Limited Setup*, 2021, arXiv 2101.06983): embed all parts without a graph; take the loss and
its gradient at the embeddings; embed each part again, now with a graph, and hand that gradient
down. It costs one more forward pass, and memory for one part. Pure.

Axes: b rows of one worker.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from raymc.data.feed.batches import Batch
from raymc.model.transformer import Embeddings


def backward_in_passes(
    embed: Callable[[Batch], Embeddings],
    loss_of: Callable[[Embeddings, Batch], Tensor],
    batch: Batch,
    rows_per_pass: int,
) -> Tensor:
    """Add the gradients of a batch's loss to the parameters.

    Args:
        embed: the part that works row by row.
        loss_of: the loss of all of the batch's rows, given their embeddings.
        batch: this worker's share of the global batch, b rows.
        rows_per_pass: rows that are embedded at a time.

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
        _set_random_state(state, part.rows.device)
        _hand_down(embed(part), joined, first)
        first += len(part.rows)
    return loss.detach()


def parts_of(batch: Batch, rows: int) -> Iterator[Batch]:
    """Yield a batch's rows, so many at a time; nothing is copied."""
    for first in range(0, len(batch.rows), rows):
        part = slice(first, first + rows)
        yield Batch(
            tokens={name: x[part] for name, x in batch.tokens.items()},
            lengths={name: x[part] for name, x in batch.lengths.items()},
            labels=batch.labels[part],
            observed=batch.observed[part],
            rows=batch.rows[part],
        )


def _joined(made: list[Embeddings]) -> Embeddings:
    """Return the parts' embeddings as one, as leaves that gradients end at."""
    names = made[0].by_modality
    return Embeddings(
        fused=torch.cat([one.fused for one in made]).requires_grad_(),
        by_modality={
            name: torch.cat([one.by_modality[name] for one in made]).requires_grad_()
            for name in names
        },
        present={name: torch.cat([one.present[name] for one in made]) for name in names},
    )


def _hand_down(again: Embeddings, joined: Embeddings, first: int) -> None:
    """Hand the loss's gradient at a part's embeddings down to the parameters."""
    pairs = [(again.fused, joined.fused)]
    pairs += [(again.by_modality[name], leaf) for name, leaf in joined.by_modality.items()]
    reached = [(x, leaf.grad) for x, leaf in pairs if leaf.grad is not None]
    torch.autograd.backward(
        [x for x, _ in reached], [g[first : first + len(x)].to(x.dtype) for x, g in reached]
    )


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    is_cuda = device.type == "cuda"
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if is_cuda else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
