"""What torch does in this process: on how many threads it computes, and whether its memory is full.

Where it isn't loaded, nothing is computed by it, and nothing here loads it: processes that only
decode start in less than half the time.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def computing_threads(number: int) -> Iterator[None]:
    """Compute on so many threads inside the block.

    The number decides how sums are split, and so the last bits of a result: what must be the same
    on every machine is computed on one.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compute_on_one_thread() -> None:
    """Compute on this thread alone from now on, for threads that `computing_threads` waits for.

    OpenMP's number is each thread's own; MKL's, which this sets too, is one for all of them.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that a GPU's memory is full."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)
