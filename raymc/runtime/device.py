"""Where this process computes, when Ray does not say."""

import torch

from raymc.errors import ResourceError


def uses_gpu(device: str) -> bool:
    """Return whether `auto`, `cpu` or `gpu` means a GPU in this process."""
    return device != "cpu" and torch.cuda.is_available()


def device_here(device: str) -> torch.device:
    """Return what `auto`, `cpu` or `gpu` means in this process.

    Raises:
        ResourceError: A GPU is asked for and there is none.
    """
    if device == "gpu" and not uses_gpu(device):
        raise ResourceError("there is no GPU here: leave out --device, or give --device cpu")
    return torch.device("cuda" if uses_gpu(device) else "cpu")
