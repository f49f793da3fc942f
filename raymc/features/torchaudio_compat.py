"""The only way to import torchaudio, which also works with a CPU-only torch.

The native extension of torchaudio's only wheel links CUDA, so with a CPU-only torch a plain
`import torchaudio` fails for a missing library.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

import torch

from raymc.errors import ResourceError


def load_torchaudio() -> ModuleType:
    """Import torchaudio, with an empty native extension if the real one can't be loaded.

    The empty one is used only if the real extension fails and torch was built without CUDA. All
    of torchaudio's Python code (transforms, resampling, models) then works, and only forced
    alignment raises. Call this before importing a library that itself imports torchaudio, such
    as transformers.

    Returns:
        The module `torchaudio`.

    Raises:
        ResourceError: Torch has CUDA and the extension doesn't fit it.
        ModuleNotFoundError: Torchaudio isn't installed.
    """
    try:
        return importlib.import_module("torchaudio")
    except OSError as error:
        if torch.version.cuda is not None:
            raise ResourceError(
                f"torchaudio's extension can't be loaded beside torch {torch.__version__} "
                f"({error}); install the torchaudio that was built for this torch."
            ) from error
    _forget_torchaudio()
    sys.modules["torchaudio._extension"] = _stand_in()
    return importlib.import_module("torchaudio")


def _forget_torchaudio() -> None:
    """Remove the modules of a failed import, so that the next one starts from scratch."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]


def _stand_in() -> ModuleType:
    """Return a `torchaudio._extension` that reports that there is no native code."""
    spec = importlib.machinery.ModuleSpec("torchaudio._extension", loader=None)
    module = importlib.util.module_from_spec(spec)
    vars(module).update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        _check_cuda_version=lambda: None,
        fail_if_no_align=_without_extension,
    )
    return module


def _without_extension(function: Callable[..., object]) -> Callable[..., NoReturn]:

    def unavailable(*args: object, **kwargs: object) -> NoReturn:
        raise ResourceError(
            f"torchaudio's {function.__name__} needs its native extension, which can't be loaded "
            "beside a torch without CUDA; run it where torch has CUDA."
        )

    return unavailable
