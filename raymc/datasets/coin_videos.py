"""COIN.json to videos, checked: their task, their split, and their steps in time.

May import `joined.py`; `coin.py` decides what becomes of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raymc.datasets.joined import kind_of, parse_object
from raymc.errors import DataError

_SUBSETS = {"training": "train", "testing": "test"}


@dataclass(frozen=True)
class Step:
    """A step that a video shows, by its id in COIN's taxonomy, from start to end."""

    id: str
    text: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Video:
    """What COIN.json says of a video; `split` is in raymc's words."""

    task: str
    split: str
    url: str | None
    steps: Sequence[Step]


def read_videos(data: bytes, file: str, *, with_steps: bool) -> dict[str, Video]:
    """Read the videos of COIN.json, in its order, by their ids.

    Args:
        data: The file.
        file: Its path, for messages.
        with_steps: Whether the steps are read too, or every video has none.

    Raises:
        DataError: It is malformed.
    """
    database = parse_object(data, file).get("database")
    if not isinstance(database, dict):
        raise DataError(
            f"{file}: 'database' is {kind_of(database)}; expected the object of COIN.json"
        )
    return {
        name: _video(values, f"{file}: '{name}'", with_steps) for name, values in database.items()
    }


def _video(values: Any, where: str, with_steps: bool) -> Video:
    if not isinstance(values, dict):
        raise DataError(f"{where} is {kind_of(values)}; expected an object, the video's entry")
    task, subset, url = (values.get(key) for key in ("class", "subset", "video_url"))
    if not isinstance(task, str) or not task:
        raise DataError(f"{where}: 'class' is {task!r:.40}; expected the name of the video's task")
    if not isinstance(subset, str) or subset not in _SUBSETS:
        raise DataError(f"{where}: 'subset' is {subset!r:.40}; expected {' or '.join(_SUBSETS)}")
    steps = values.get("annotation", []) if with_steps else []
    if not isinstance(steps, list):
        raise DataError(f"{where}: 'annotation' is {kind_of(steps)}; expected a list of steps")
    return Video(
        task=task,
        split=_SUBSETS[subset],
        url=url if isinstance(url, str) else None,
        steps=[_step(step, f"{where}: 'annotation' {i}") for i, step in enumerate(steps)],
    )


def _step(values: Any, where: str) -> Step:
    try:
        name, text, (start, end) = values["id"], values["label"].strip(), values["segment"]
        if text and isinstance(name, (str, int)) and math.isfinite(start) and math.isfinite(end):
            return Step(str(name), text, float(start), float(end))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        pass
    raise DataError(
        f"{where} holds {values!r:.80}; expected id, label, and segment as [start, end] in seconds"
    )
