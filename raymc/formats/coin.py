"""COIN, instructional videos with their task and its steps, joined with features by video id.

One JSON file holds everything except the media (Tang et al., CVPR 2019, arXiv 1903.02874; format:
github.com/coin-dataset/annotations). It has no validation split, so one is held out here.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from raymc.config import CoinConfig
from raymc.data.labels import Vocabulary
from raymc.data.shards import Row
from raymc.errors import DataError
from raymc.formats.annotations import (
    Features,
    digest,
    fraction,
    kind_of,
    parse_object,
    read_file,
    shown,
    span_of,
)
from raymc.formats.recipe import DatasetRecipe

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


def _read_videos(data: bytes, file: str, *, with_steps: bool) -> dict[str, Video]:
    """Read the videos of COIN.json, in its order, by their ids."""
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


def coin(config: CoinConfig) -> DatasetRecipe:
    """Return the recipe of COIN.

    A clip's labels are its video's task, and the steps whose segments overlap the clip. The clip
    lasts from start_seconds to end_seconds, if the features have these columns or their ids say
    so; else it is the whole video. A step's parent is its task.

    Raises:
        DataError: The file is missing or malformed, or none of its videos has features.
    """
    data = read_file(config.annotations)
    videos = _read_videos(data, config.annotations, with_steps=config.labels != "class")
    features = Features(config.features)
    features.require(videos, config.annotations)
    held_out = _held_out(videos, config)
    found = {name: video for name, video in videos.items() if name in features.clips}
    tasks = [] if config.labels == "steps" else sorted({video.task for video in found.values()})
    steps = _step_names(found.values(), tasks)
    if not tasks and not steps:
        raise DataError(
            f"{config.annotations}: no video with features has a step; set labels to class"
        )
    rows = {
        split: features.rows(
            [name for name in found if held_out.get(name, found[name].split) == split],
            partial(_labelled, found, steps, config.labels != "steps"),
        )
        for split in ("train", "val", "test")
    }
    return DatasetRecipe(
        vocabulary=Vocabulary((*tasks, *steps.values()), parents=_parents(found.values(), steps)),
        modalities=features.modalities,
        splits={split: chosen for split, chosen in rows.items() if len(chosen)},
        provenance={
            "format": "coin",
            "files": {config.annotations.rsplit("/", 1)[-1]: digest(data)},
            "features": features.provenance,
            "labels": config.labels,
            "val_share": config.val_share,
            "seed": config.seed,
            "notes": [
                *_split_notes(videos, held_out, config),
                *_step_notes(found, steps),
                *_class_notes(videos, found),
                *features.notes(videos, videos),
            ],
        },
        license="; ".join(filter(None, ["annotations: CC BY-NC 4.0", features.license])),
    )


def _held_out(videos: Mapping[str, Video], config: CoinConfig) -> dict[str, str]:
    """Draw the same share of each class's training videos for val."""
    by_task: dict[str, list[str]] = {}
    for name, video in videos.items():
        if video.split == "train":
            by_task.setdefault(video.task, []).append(name)
    drawn: list[str] = []
    for names in by_task.values():
        names.sort(key=lambda name: (fraction(config.seed, name), name))
        drawn += names[: math.floor(config.val_share * len(names) + 0.5)]
    return dict.fromkeys(drawn, "val")


def _step_names(videos: Iterable[Video], tasks: Sequence[str]) -> dict[str, str]:
    """Name the class of each step's id: its text, and its id too where others have that text."""
    texts = {step.id: step.text for video in videos for step in video.steps}
    uses = Counter([*texts.values(), *tasks])
    return {
        name: text if uses[text] == 1 else f"{text} [{name}]"
        for name, text in sorted(texts.items(), key=lambda item: (len(item[0]), item[0]))
    }


def _parents(videos: Iterable[Video], steps: Mapping[str, str]) -> dict[str, str]:
    """Return the task of each step that belongs to one alone, which no step is named as."""
    tasks: dict[str, set[str]] = {}
    for video in videos:
        for step in video.steps:
            tasks.setdefault(steps[step.id], set()).add(video.task)
    alone = {name: of.pop() for name, of in sorted(tasks.items()) if len(of) == 1}
    return {name: task for name, task in alone.items() if task not in tasks}


def _labelled(
    videos: Mapping[str, Video], steps: Mapping[str, str], with_task: bool, name: str, row: Row
) -> Row:
    video = videos[name]
    start_seconds, end_seconds = span_of(row)
    seen = [
        steps[step.id]
        for step in video.steps
        if min(step.start_seconds, step.end_seconds) < end_seconds
        and max(step.start_seconds, step.end_seconds) > start_seconds
    ]
    return replace(
        row,
        labels=list(dict.fromkeys([video.task, *seen] if with_task else seen)),
        extra={**row.extra, "video": name, "url": video.url},
    )


def _split_notes(
    videos: Mapping[str, Video], held_out: Mapping[str, str], config: CoinConfig
) -> Iterator[str]:
    train = Counter(video.task for video in videos.values() if video.split == "train")
    yield (
        f"COIN has no validation split: {len(held_out)} of its {train.total()} training videos are "
        f"held out as val, {config.val_share:g} of each class by a hash of id and seed"
    )
    bare = sorted(train.keys() - {videos[name].task for name in held_out})
    if held_out and bare:
        yield f"{len(bare)} classes have too few training videos for one in val ({shown(bare)})"


def _step_notes(videos: Mapping[str, Video], steps: Mapping[str, str]) -> Iterator[str]:
    found = [step for video in videos.values() for step in video.steps]
    backward = sum(step.end_seconds < step.start_seconds for step in found)
    if backward:
        yield f"{backward} segments end before they begin; read the other way round"
    texts: dict[str, set[str]] = {}
    for step in found:
        texts.setdefault(step.id, set()).add(step.text)
    several = [name for name, of_id in texts.items() if len(of_id) > 1]
    if several:
        yield f"{len(several)} steps have several texts; the last one counts ({shown(several)})"
    apart = [name for key, name in steps.items() if name not in texts[key]]
    if apart:
        yield f"{len(apart)} steps share their text with others; named TEXT [ID] ({shown(apart)})"


def _class_notes(videos: Mapping[str, Video], found: Mapping[str, Video]) -> Iterator[str]:
    tasks = {video.task for video in videos.values()}
    bare = sorted(tasks - {video.task for video in found.values()})
    if bare:
        yield f"{len(bare)} of {len(tasks)} classes have no features; left out ({shown(bare)})"
