"""What all encoders with weights ask of a machine: a device, a network, a whole file.

Imports torch only. Everything that is missing ends here in one line, within seconds.
"""

import urllib.error
import urllib.request
from pathlib import Path

import torch

from raymc.errors import ConfigError, DataError, ResourceError

PATIENCE_SECONDS = 5.0  # more than a slow network needs, less than a user wants to wait


def checked_device(device: str) -> torch.device:
    """The device of that name, if this machine has it.

    Raises:
        ConfigError: Torch knows no such kind of device.
        ResourceError: This machine, or this torch, has none.
    """
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
    """Ask a server for a sign of life, once: libraries retry for half a minute and more a file.

    Any answer will do, a refusal too; the library that goes there next understands it better.

    Args:
        url: An address on the server; proxies of the environment are used.
        otherwise: What the user is to do without it.

    Raises:
        ResourceError: No answer within `PATIENCE_SECONDS`.
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
    """Check that a file of weights is whole: its header tells how long it must be.

    Raises:
        DataError: It is torn, or something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt"):
            return
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{file}: torn, or not a safetensors file ({one_line(error)}); fetch it again"
        ) from error


def one_line(error: object) -> str:
    """The first line of what a library has to say, at most 200 characters of it."""
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:200] if lines else type(error).__name__
