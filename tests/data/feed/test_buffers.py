"""Memory that is used again, and never while anything still refers to it."""

import numpy as np
import torch

from raymc.data.feed.batches import Buffers

F2 = np.dtype("<f2")


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_memory_is_used_again_once_nothing_refers_to_it() -> None:
    buffers = Buffers()
    first = buffers.empty((3, 4, 5), F2)
    first[:] = 1
    place, part = address(first), torch.from_numpy(first)[1:, 2]
    del first
    other = buffers.empty((3, 4, 5), F2)
    assert address(other) != place
    other[:] = 2
    assert (part == 1).all()
    del part
    third = buffers.empty((2, 4, 5), F2)
    assert (address(third), third.shape, third.dtype) == (place, (2, 4, 5), F2)
    assert third.flags.c_contiguous
    assert third.flags.writeable


def test_there_is_no_more_memory_than_arrays_at_a_time() -> None:
    buffers = Buffers()
    held = [buffers.empty((size,), F2) for size in (10, 20, 30)]
    del held
    for size in (50, 40, 60, 10, 30):
        held = [buffers.empty((size,), F2) for _ in range(3)]
        assert len({address(array) for array in held}) == 3
        del held
        assert len(buffers._free) == 3
    assert sorted(map(len, buffers._free)) == [120] * 3  # bytes: all have grown to the largest


def test_nothing_is_an_array_too() -> None:
    assert Buffers().empty((0, 4), F2).shape == (0, 4)
