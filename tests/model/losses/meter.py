"""What a computation allocates: every tensor it makes, and how long that is held."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def dense_tensors(tree: Any) -> list[torch.Tensor]:
    """Return the tensors of nested values, but for sparse ones, which have no storage to ask."""
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor) and not x.is_sparse]


class Meter(TorchDispatchMode):
    """The largest tensor made inside, in numbers, and the most bytes of tensors held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.held_bytes = self.peak_bytes = 0
        self._held: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {self._key(x) for x in dense_tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for x in dense_tensors(result):
            if self._key(x) not in given:
                self._hold(x)
        return result

    def _hold(self, x: torch.Tensor) -> None:
        storage, key = x.untyped_storage(), self._key(x)
        self.largest = max(self.largest, x.numel())
        if key not in self._held:
            self._held.add(key)
            self.held_bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self.held_bytes)
            weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self._held.discard(key)
        self.held_bytes -= size

    @staticmethod
    def _key(x: torch.Tensor) -> int:
        return x.untyped_storage().data_ptr() or id(x)
