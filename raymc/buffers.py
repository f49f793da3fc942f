"""Memory of arrays that come and go, used again: a fresh page costs more than to fill it. Pure."""

import math
import weakref

import numpy as np


class Buffers:
    """Arrays of about the same size, in the memory of earlier ones that nothing refers to any more.

    There is never more memory than there were arrays at a time. For one thread; the arrays may
    go to others.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an array of anything, in C order."""
        count = math.prod(shape)
        memory = self._take(max(1, count * dtype.itemsize))
        # Views, and tensors made of them, keep `whole` alive, as its base is no array.
        whole = np.frombuffer(memory.data, dtype, count)
        weakref.finalize(whole, self._free.append, memory).atexit = False
        return whole.reshape(shape)

    def _take(self, size: int) -> np.ndarray:
        """Return free memory that is large enough; else new, in place of some that is free."""
        fitting = [at for at, memory in enumerate(self._free) if len(memory) >= size]
        if fitting:
            return self._free.pop(fitting[0])
        if self._free:
            self._free.pop()
        return np.empty(size, np.uint8)
