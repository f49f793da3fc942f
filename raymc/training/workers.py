"""What several workers do together: gather rows, with gradients, and find out who they are.

Plain torch.distributed; one worker needs none of it. Pure: no Ray, no MLflow.

Axes: b rows of one worker, B rows of all workers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Workers:
    """This process among those that share a global batch."""

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> "Workers":
        """Read rank and count from torch.distributed; one worker where it isn't set up."""
        if dist.is_available() and dist.is_initialized():
            return cls(rank=dist.get_rank(), count=dist.get_world_size())
        return cls()

    def gather(self, x: Tensor) -> Tensor:
        """Concatenate equally shaped tensors [b, …] of all workers to [B, …], without gradients."""
        if self.count == 1:
            return x
        plain = x.to(torch.uint8) if x.dtype == torch.bool else x
        parts = [torch.empty_like(plain) for _ in range(self.count)]
        dist.all_gather(parts, plain.contiguous())
        return torch.cat(parts).to(x.dtype)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, alike in shape on all workers, by their means over workers."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([x.flatten() for x in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        for x, mean in zip(tensors, flat.split([x.numel() for x in tensors]), strict=True):
            x.copy_(mean.view_as(x))

    def gather_with_gradients(self, x: Tensor) -> Tensor:
        """Concatenate like `gather`, with gradients.

        They are right, once DistributedDataParallel has averaged them, for a loss of the result
        that all workers compute alike.
        """
        return x if self.count == 1 else _Gather.apply(x, self)


class _Gather(torch.autograd.Function):
    """All-gather whose backward keeps this worker's rows.

    Every worker computes the same global loss, so all hold the same gradient for the gathered
    rows: no communication is needed, but what averaging over workers will divide by their
    number must be multiplied by it here.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, workers: Workers) -> Tensor:
        ctx.workers, ctx.rows = workers, len(x)
        return workers.gather(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        first = ctx.workers.rank * ctx.rows
        return gradients[0][first : first + ctx.rows] * ctx.workers.count, None
