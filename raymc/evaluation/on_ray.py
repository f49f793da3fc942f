"""The shards of a large split, worked on by all of a Ray cluster, in their order."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

import ray

from raymc.data.shards import Dataset, Shard
from raymc.runtime.connect import capacity, explained
from raymc.training.bundle import Bundle, load_bundle

Result = TypeVar("Result")


def each_shard_on_ray(
    bundle: Bundle,
    dataset: Dataset,
    shards: Sequence[Shard],
    work: Callable[[Bundle, Dataset, Shard], Result],
    *,
    on_gpu: bool,
) -> Iterator[Result]:
    """Yield what `work` returns for each shard, in their order; Ray must be connected.

    Raises:
        BundleError: The bundle can't be read.
        DataError: A shard can't be read.
    """
    at_a_time = 2 * max(1, int(capacity().get("GPU" if on_gpu else "CPU", 1)))
    place = (str(bundle.folder.absolute()), bundle.digest, "cuda" if on_gpu else "cpu")
    # Ray ends a process after one task that had a GPU; here it keeps the model for the next.
    task: Any = ray.remote(num_cpus=1, num_gpus=int(on_gpu), max_calls=0)(_work_there)
    waiting: deque[Any] = deque()
    try:
        with explained():
            for shard in shards:
                waiting.append(task.remote(place, dataset, shard, work))
                if len(waiting) == at_a_time:
                    yield ray.get(waiting.popleft())
            while waiting:
                yield ray.get(waiting.popleft())
    finally:
        for unfinished in waiting:
            ray.cancel(unfinished)


def _work_there(
    place: tuple[str, str, str],
    dataset: Dataset,
    shard: Shard,
    work: Callable[[Bundle, Dataset, Shard], Any],
) -> Any:
    return work(_bundle_there(*place), dataset, shard)


@cache
def _bundle_there(path: str, digest: str, device: str) -> Bundle:
    """Load the bundle once per process; `digest` tells it from an earlier one at that path."""
    return load_bundle(path, device=device)
