"""raymc: prototype-contrastive classifiers of multi-label, fine-grained educational videos.

Start with `config/` for the settings, `training/` for a run, `cli/main.py` for the commands, and
`api.py` for the same from Python. What this module offers is imported when it is first used.
Until then nothing is: Ctrl-C would end a command with a traceback while its first modules load.
"""

TYPE_CHECKING = False  # as `typing` has it, for type checkers
if TYPE_CHECKING:
    from typing import Any

    from raymc.api import (
        add_class,
        annotations,
        evaluate,
        export,
        extract,
        load,
        predict,
        review,
        serve,
        timeline,
        train,
        tune,
    )

__version__ = "0.1.0"
__all__ = [
    "add_class",
    "annotations",
    "evaluate",
    "export",
    "extract",
    "load",
    "predict",
    "review",
    "serve",
    "timeline",
    "train",
    "tune",
]


def __getattr__(name: str) -> "Any":
    if name not in __all__:
        raise AttributeError(f"module 'raymc' has no attribute {name!r}")
    from raymc import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
