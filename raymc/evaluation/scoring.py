"""On Ray if a split is large, else in this process: a bundle's scores of a split, shard by shard.

Results come in the order of the shards, however late a shard is done, and only a few shards are
in memory at a time.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray
import torch

from raymc.data.feed.batches import Block, block_from_table
from raymc.data.shards import Dataset, Shard, read_shard
from raymc.evaluation.scored import ScoredSplit, load_scored, save_scored
from raymc.runtime.connect import capacity, connect, explained, gpus_to_use
from raymc.training.bundle import DESCRIPTION, Bundle, load_bundle
from raymc.training.runs import run_of

Result = TypeVar("Result")
ROWS_HERE = 2000  # of a split that is scored in this process: starting Ray would take longer


def stored_scores(
    bundle: Bundle, dataset: Dataset, split: str, *, device: str = "auto", run: Path | None = None
) -> ScoredSplit:
    """Return a bundle's scores of a split; those of a run's bundle are computed once.

    They are kept in the folder `run`, by default that of the bundle's own run, in a file named by
    the split and by the digests of dataset and weights. `device` is `auto`, `cpu` or `gpu`.

    Raises:
        BundleError: The bundle doesn't match the dataset, or can no longer be read.
        DataError: There is no such split, or a shard or the file of scores can't be read.
    """
    bundle.check_dataset(dataset.manifest)
    bundle.check_labels(dataset.manifest)
    run = run or run_of(bundle.folder)
    of = f"{split}-{dataset.manifest.digest()[:16]}-{bundle.weights_digest[:16]}"
    file = run / "scores" / f"{of}.parquet" if run else None
    if file is not None and file.exists():
        return load_scored(file)
    scored = score_split(bundle, dataset, split, device=device)
    if file is not None:
        with suppress(OSError):  # the run may be another user's and read-only
            save_scored(scored, file)
    return scored


def score_split(
    bundle: Bundle, dataset: Dataset, split: str, *, device: str = "auto"
) -> ScoredSplit:
    """Return a bundle's scores of a split's rows, in their order.

    Raises:
        BundleError: The bundle can't be read.
        DataError: There is no such split, or a shard can't be read.
    """
    blocks = list(each_shard(bundle, dataset, split, _score_shard, device=device))
    return ScoredSplit(
        ids=tuple(name for ids, _, _, _ in blocks for name in ids),
        scores=np.concatenate([scores for _, scores, _, _ in blocks]),
        labels=np.concatenate([labels for _, _, labels, _ in blocks]),
        observed=np.concatenate([observed for _, _, _, observed in blocks]),
        vocabulary=bundle.vocabulary,
        split=split,
        dataset_digest=dataset.manifest.digest(),
    )


def embed_rows(bundle: Bundle, dataset: Dataset, split: str, *, most: int) -> np.ndarray:
    """Return the embeddings of a split's first rows, [at most `most`, E], before normalisation.

    Raises:
        DataError: There is no such split, or a shard can't be read.
    """
    found, missing = [], most
    for shard in dataset.split(split):
        block = _read_block(bundle, dataset, shard, most=missing)
        found.append(bundle.embed_tokens(block.tokens)[0])
        missing -= len(block)
        if missing <= 0:
            break
    return np.concatenate(found)


def each_shard(
    bundle: Bundle,
    dataset: Dataset,
    split: str,
    work: Callable[[Bundle, Dataset, Shard], Result],
    *,
    device: str,
) -> Iterator[Result]:
    """Yield what `work` returns for each shard of a split, in the order of the shards.

    Raises:
        BundleError: The bundle can't be read.
        DataError: There is no such split, or a shard can't be read.
        ResourceError: A GPU is asked for and there is none.
    """
    shards, has_gpu = dataset.split(split), torch.cuda.is_available()
    rows = sum(shard.rows for shard in shards)
    if rows <= ROWS_HERE and (has_gpu or device != "gpu"):
        bundle.model.to("cuda" if has_gpu and device != "cpu" else "cpu")
        yield from (work(bundle, dataset, shard) for shard in shards)
        return
    connect()
    gpus = int(gpus_to_use(device))
    at_a_time = 2 * max(1, int(capacity().get("GPU" if gpus else "CPU", 1)))
    written_ns = (bundle.folder / DESCRIPTION).stat().st_mtime_ns
    place = (str(bundle.folder.absolute()), written_ns, "cuda" if gpus else "cpu")
    # Ray ends a process after one task that had a GPU; here it keeps the model for the next.
    task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_calls=0)(_work_there)
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
    place: tuple[str, int, str],
    dataset: Dataset,
    shard: Shard,
    work: Callable[[Bundle, Dataset, Shard], Any],
) -> Any:
    return work(_bundle_there(*place), dataset, shard)


@cache
def _bundle_there(path: str, written_ns: int, device: str) -> Bundle:
    """Load the bundle once per process; `written_ns` tells it from an earlier one at that path."""
    return load_bundle(path, device=device)


def _score_shard(
    bundle: Bundle, dataset: Dataset, shard: Shard
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Return ids, scores, labels and what was observed."""
    block = _read_block(bundle, dataset, shard)
    return block.ids.to_pylist(), bundle.score_tokens(block.tokens), block.labels, block.observed


def _read_block(bundle: Bundle, dataset: Dataset, shard: Shard, most: int | None = None) -> Block:
    """Read and decode a shard, or its first rows."""
    observed = ["observed"] if dataset.manifest.vocabulary.groups else []
    columns = ["id", "labels", *observed, *(modality.name for modality in bundle.modalities)]
    table = read_shard(dataset, shard, columns).slice(0, most)
    return block_from_table(table, replace(dataset.manifest, modalities=bundle.modalities))
