"""A bundle's scores of a split, shard by shard: in this process, or on Ray if the split is large.

Results come in the order of the shards, however late a shard is done, and only a few shards are
in memory at a time.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch

import raymc
from raymc.data.feed.batches import Block, block_from_table
from raymc.data.shards import Dataset, Shard, read_shard
from raymc.errors import ConfigError, DataError
from raymc.evaluation.scored import ScoredSplit, load_scored, save_scored
from raymc.events import Count, unheard
from raymc.runtime.device import uses_gpu
from raymc.training.bundle import Bundle
from raymc.training.runs import run_of

Result = TypeVar("Result")
ROWS_HERE = 2000  # of a split that is scored in this process: starting Ray would take longer
_KINDS = {"auto": ("gpu", "cpu"), "gpu": ("gpu",), "cpu": ("cpu",)}  # of device that may score


def stored_scores(
    bundle: Bundle,
    dataset: Dataset,
    split: str,
    *,
    device: str = "auto",
    run: Path | None = None,
    on_rows: Count = unheard,
) -> ScoredSplit:
    """Return a bundle's scores of a split; those of a run's bundle are computed once.

    They are kept in the folder `run`, by default that of the bundle's own run, with all that
    decides them: the digests of dataset and bundle, the split, the kind of device, and the version
    of raymc. Scores of anything else are not used. `device` is `auto`, `cpu` or `gpu`; `auto` also
    takes scores that the other kind of device has computed.

    Raises:
        BundleError: The bundle doesn't match the dataset, or can no longer be read.
        DataError: There is no such split, or a shard can't be read, or is not the one that was
            written.
    """
    bundle.check_dataset(dataset.manifest)
    bundle.check_labels(dataset.manifest)
    dataset.verify(split)
    run = run or run_of(bundle.folder)
    if run is None:
        return score_split(bundle, dataset, split, device=device, on_rows=on_rows)
    for kind in _KINDS[device]:
        file, belongs_to = _stored(run, bundle, dataset, split, kind)
        with suppress(DataError):  # there is none, or it is damaged
            return load_scored(file, belongs_to=belongs_to)
    scored = score_split(bundle, dataset, split, device=device, on_rows=on_rows)
    kind = "gpu" if _on_gpu(dataset, split, device) else "cpu"
    file, belongs_to = _stored(run, bundle, dataset, split, kind)
    with suppress(OSError):  # the run may be another user's and read-only
        save_scored(scored, file, belongs_to=belongs_to)
    return scored


def _stored(
    run: Path, bundle: Bundle, dataset: Dataset, split: str, kind: str
) -> tuple[Path, dict[str, str]]:
    """Return the file of a run that keeps scores, and all that decides these."""
    belongs_to = {
        "dataset": dataset.manifest.digest(),
        "split": split,
        "bundle": bundle.digest,
        "device": kind,
        "raymc": raymc.__version__,
    }
    key = hashlib.sha256(json.dumps(belongs_to).encode()).hexdigest()
    return run / "scores" / f"{key[:32]}.parquet", belongs_to


def score_split(
    bundle: Bundle,
    dataset: Dataset,
    split: str,
    *,
    device: str = "auto",
    on_rows: Count = unheard,
) -> ScoredSplit:
    """Return a bundle's scores of a split's rows, in their order.

    Raises:
        BundleError: The bundle can't be read.
        DataError: There is no such split, or a shard can't be read.
    """
    blocks = list(each_shard(bundle, dataset, split, _score_shard, device=device, on_rows=on_rows))
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
    first: int = 0,
    on_rows: Count = unheard,
) -> Iterator[Result]:
    """Yield what `work` returns for each shard of a split from number `first`, in their order.

    `on_rows` is called with the rows that are done, those before `first` included.

    Raises:
        BundleError: The bundle can't be read.
        DataError: There is no such split, or a shard can't be read.
        ResourceError: A GPU is asked for and there is none.
    """
    shards, on_gpu = dataset.split(split)[first:], _on_gpu(dataset, split, device)
    if _is_small(dataset, split, device):
        bundle.model.to("cuda" if on_gpu else "cpu")
        results = (work(bundle, dataset, shard) for shard in shards)
    else:
        from raymc.evaluation.on_ray import each_shard_on_ray  # Ray takes a second to import

        results = each_shard_on_ray(bundle, dataset, shards, work, on_gpu=on_gpu)
    rows = dataset.manifest.rows(split)
    done = rows - sum(shard.rows for shard in shards)
    for shard, result in zip(shards, results):
        done += shard.rows
        on_rows(done, rows)
        yield result


def _is_small(dataset: Dataset, split: str, device: str) -> bool:
    """Whether a split is scored in this process."""
    rows = sum(shard.rows for shard in dataset.split(split))
    return rows <= ROWS_HERE and (device != "gpu" or torch.cuda.is_available())


def _on_gpu(dataset: Dataset, split: str, device: str) -> bool:
    """Whether a split is scored on a GPU; starts or joins Ray if it is scored there."""
    if _is_small(dataset, split, device):
        return uses_gpu(device)
    from raymc.runtime.connect import connect, gpus_to_use

    connect()
    return gpus_to_use(device)


def _score_shard(
    bundle: Bundle, dataset: Dataset, shard: Shard
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Return ids, scores, labels and what was observed."""
    block = _read_block(bundle, dataset, shard)
    return block.ids.to_pylist(), bundle.score_tokens(block.tokens), block.labels, block.observed


def check_threshold(bundle: Bundle, threshold: float | None) -> None:
    """Check that a bundle gives the probabilities that a threshold of them is for.

    Raises:
        ConfigError: It gives none.
    """
    if threshold is not None and bundle.calibration is None:
        raise ConfigError("the model gives no probabilities, so it takes no threshold of one")


def scored_columns(
    bundle: Bundle, table: pa.Table, threshold: float | None = None
) -> dict[str, pa.Array]:
    """Return what a bundle makes of the tokens of a table, as columns of predictions."""
    scores, names = bundle.score(table), bundle.vocabulary.names
    found = {"labels": pa.array(bundle.labels_above(scores, threshold), pa.list_(pa.string()))}
    found |= {f"score.{name}": pa.array(scores[:, c]) for c, name in enumerate(names)}
    if bundle.calibration is not None:
        likely = bundle.probabilities(scores)
        found |= {f"probability.{name}": pa.array(likely[:, c]) for c, name in enumerate(names)}
    return found


def _read_block(bundle: Bundle, dataset: Dataset, shard: Shard, most: int | None = None) -> Block:
    """Read and decode a shard, or its first rows."""
    observed = ["observed"] if dataset.manifest.vocabulary.groups else []
    columns = ["id", "labels", *observed, *bundle.columns_in(dataset.manifest)]
    table = bundle.filled(read_shard(dataset, shard, columns).slice(0, most))
    return block_from_table(table, replace(dataset.manifest, modalities=bundle.modalities))
