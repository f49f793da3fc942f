"""How many threads torch computes on in this process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def computing_threads(number: int) -> Iterator[None]:
    """Compute on so many threads inside the block.

    The number decides how sums are split, and so the last bits of a result: what must be the same
    on every machine is computed on one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
