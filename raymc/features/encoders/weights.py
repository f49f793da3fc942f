"""What all encoders with weights share: checks of device, network and files, and how they compute.

What is missing is reported in one line, within seconds.
"""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from raymc.errors import ConfigError, DataError, ResourceError

PATIENCE_SECONDS = 5.0  # enough for a slow network
# Pictures or texts: on a CPU, more need only more memory; a GPU is busy with many.
AT_A_TIME, AT_A_TIME_ON_GPU = 32, 256
HALVED = ("cuda",)  # devices whose products of float16 are faster


def checked_device(device: str) -> torch.device:
    """Return the device of that name, if this machine and this torch have it."""
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"unknown device '{device}'; expected cpu, cuda or cuda:0") from error
    try:
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        raise ResourceError(
            f"device {device} can't be used here ({one_line(error)}); use device cpu, or a "
            "machine and a torch with it"
        ) from error
    return found


def check_reachable(url: str, *, otherwise: str) -> None:
    """Check once that a server answers: libraries retry for half a minute or more per file.

    Any answer is enough, even an error; the library that uses the server next explains it better.
    Proxies of the environment are used. `otherwise` is what the user is to do without it.
    """
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PATIENCE_SECONDS).close()
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError) as error:
        reason = one_line(getattr(error, "reason", error))
        raise ResourceError(f"{url} can't be reached ({reason}); {otherwise}") from error


def check_safetensors(file: Path) -> None:
    """Check that a safetensors file is complete: its header gives its length."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt"):
            return
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{file}: damaged, or not a safetensors file ({one_line(error)}); fetch it again"
        ) from error


def digest_of_files(files: Iterable[Path]) -> str:
    """Return the SHA-256 of the names and contents of a model's files, in hex."""
    total = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        total.update(f"{file.name} {content}\n".encode())
    return total.hexdigest()


@torch.inference_mode()
def computed(
    run: Callable[[Any], Tensor], given: Any, device: torch.device
) -> Float32[np.ndarray, "..."]:
    """Return what a model on this device makes of something.

    On a GPU, products of matrices are of float16, many times as fast there: EfficientNet's tokens
    differ by 0.7 % of their length, MiniLM's by 0.07 %, and most datasets store no more digits.
    Where a number is too large for float16, all are computed again in float32.
    """
    halves = device.type in HALVED
    with torch.autocast(device.type, torch.float16, enabled=halves):
        made = run(given).float().cpu().numpy()
    if halves and not np.isfinite(made).all():
        made = run(given).float().cpu().numpy()
    return made


def in_batches(
    items: Any, run: Callable[[Any], Tensor], device: torch.device
) -> Float32[np.ndarray, "N D"]:
    """Return what a model on this device makes of a list or array of items, some at a time.

    If the GPU's memory is too small for them, they are halved until one item alone doesn't fit.

    Raises:
        torch.OutOfMemoryError: One item needs more memory than there is.
    """
    made, at = [], 0
    most = AT_A_TIME if device.type == "cpu" else AT_A_TIME_ON_GPU
    while at < len(items):
        try:
            made.append(computed(run, items[at : at + most], device))
        except torch.OutOfMemoryError:
            if most == 1:
                raise
            most = (most + 1) // 2
            continue
        at += most
    return np.concatenate(made)


def one_line(error: object) -> str:
    """The first line of a library's error, at most 200 characters."""
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:200] if lines else type(error).__name__
