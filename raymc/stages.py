"""The stages of an extraction on Ray Data: files are decoded in tasks, encoded in actors.

Ray layer. What comes out is in the order of the files, and small: features, not frames.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import islice
from typing import Any

import numpy as np
import ray
import ray.data
from ray.data import ActorPoolStrategy

from raymc.cluster import explained, keep_order
from raymc.features.apart import Item, extract_files, extract_files_apart
from raymc.features.extraction import (
    Encoders,
    Extract,
    ExtractPlan,
    encode,
    make_encoders,
)
from raymc.features.sources import Source

# Enough that a task's own cost doesn't show, and few enough that all workers end together.
FILES_PER_TASK = 16
CLIPS_PER_BLOCK = 16  # so that a long video's frames never lie in memory all at once


def extract_items(
    sources: Sequence[Source], plan: ExtractPlan, first: int, gpus: int
) -> Iterator[tuple[int, Item]]:
    """Yield what the files from number `first` on hold, in order, each file ended by None."""
    files = len(sources) - first
    if files <= 0:
        return
    keep_order()
    shared = ray.put((tuple(sources), plan))
    items = ray.data.range(files, override_num_blocks=-(-files // FILES_PER_TASK)).map_batches(
        partial(_decode, shared=shared, first=first), batch_size=None, num_cpus=1
    )
    if plan.heavy:
        items = items.map_batches(
            _Encoder,
            batch_size=None,
            fn_constructor_args=(shared, "cuda" if gpus else "cpu"),
            compute=ActorPoolStrategy(min_size=1, max_size=_most_encoders(gpus)),
            num_cpus=0 if gpus else 1,
            num_gpus=gpus,
        )
    with explained():
        for batch in items.iter_batches(batch_size=None, batch_format="numpy"):
            yield from zip(batch["file"].tolist(), batch["item"])


def _decode(batch: Any, *, shared: ray.ObjectRef, first: int) -> Iterator[Any]:
    """Decode files, and encode what needs no weights; a few clips at a time."""
    sources, plan = _fetch(shared)
    files = [(file, sources[file]) for file in (batch["id"] + first).tolist()]
    if _has_died():
        waiting = extract_files_apart(files, plan)
    else:
        waiting = extract_files(files, plan, _light_encoders(plan))
    while some := list(islice(waiting, CLIPS_PER_BLOCK)):
        yield _block(some)


def _has_died() -> bool:
    """Whether this task is one that Ray repeats: a file may have crashed FFmpeg, and with it us."""
    return ray.get_runtime_context().worker.core_worker.get_current_task_attempt_number() > 0


class _Encoder:
    """An actor's encoders, those with weights."""

    def __init__(self, shared: ray.ObjectRef, device: str) -> None:
        self._sources, self._plan = _fetch(shared)
        self._encoders = make_encoders(self._plan.config, self._plan.heavy, device=device)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return _block(
            [(file, self._encoded(file, item)) for file, item in zip(batch["file"], batch["item"])]
        )

    def _encoded(self, file: int, item: Item) -> Item:
        if not isinstance(item, Extract):
            return item
        return encode(item, self._sources[file].path, self._plan, self._encoders)


def _block(items: Sequence[tuple[int, Item]]) -> dict[str, np.ndarray]:
    column = np.empty(len(items), dtype=object)
    column[:] = [item for _, item in items]
    return {"file": np.array([file for file, _ in items]), "item": column}


@cache
def _fetch(shared: ray.ObjectRef) -> tuple[tuple[Source, ...], ExtractPlan]:
    """Return what all tasks of a job know, fetched once a process."""
    return ray.get(shared)


@cache
def _light_encoders(plan: ExtractPlan) -> Encoders:
    return make_encoders(plan.config, plan.light)


def _most_encoders(gpus: int) -> int:
    there = ray.cluster_resources()
    return max(1, int(there.get("GPU", 0) if gpus else there.get("CPU", 0) / 2))
