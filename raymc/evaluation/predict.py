"""On Ray: a bundle applied to a split, its scores and labels written as Parquet.

Ray layer.

Axes: N rows, C classes.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import ray.data

from raymc.data.feed.on_ray import naming_torn_shards, stream_rows
from raymc.data.shards import Dataset
from raymc.data.storage import whole_folder
from raymc.errors import DataError
from raymc.metrics.calibration import Calibration
from raymc.runtime.connect import explained, gpus_to_use
from raymc.training.bundle import DESCRIPTION, Bundle, load_bundle

ROWS_PER_BLOCK = 256
SCORES = "scores"


@cache
def bundle_here(path: str, written_ns: int, device: str) -> Bundle:
    """Return the bundle, loaded once a process; `written_ns` tells it from one replaced since."""
    return load_bundle(path, device=device)


def score_table(table: pa.Table, path: str, written_ns: int, device: str) -> pa.Table:
    """Return the rows' ids, labels and scores."""
    scores = bundle_here(path, written_ns, device).score(table)
    kept = [name for name in ("id", "labels", "observed") if name in table.column_names]
    flat = pa.array(scores.ravel(), pa.float32())
    column = pa.FixedSizeListArray.from_arrays(flat, scores.shape[1])
    return table.select(kept).append_column(SCORES, column)


def score_split(
    bundle: str, dataset: Dataset, split: str, *, device: str = "auto"
) -> ray.data.Dataset:
    """Return ids, labels and scores of a split's rows, in their order, computed as they are read.

    Raises:
        BundleError: the bundle can't be read, or reads other tokens than the dataset has.
        DataError: there is no such split.
    """
    loaded = load_bundle(bundle)
    loaded.check_dataset(dataset.manifest)
    gpus = 1 if gpus_to_use(device) else 0
    modalities = [modality.name for modality in loaded.modalities]
    rows = stream_rows(dataset.shard_paths(split), dataset.filesystem, modalities)
    path, device = str(Path(bundle).absolute()), "cuda" if gpus else "cpu"
    written_ns = Path(bundle, DESCRIPTION).stat().st_mtime_ns
    return rows.map_batches(
        lambda table: score_table(table, path, written_ns, device),
        batch_size=ROWS_PER_BLOCK,
        batch_format="pyarrow",
        num_cpus=1,
        num_gpus=gpus,
        max_calls=0,  # a process that has loaded the model goes on to the next rows
    )


def predict(bundle: str, dataset: Dataset, split: str, out: Path, *, device: str = "auto") -> int:
    """Write a split's predictions as Parquet files under `out`; returns the number of rows.

    A file has the columns `id`, `labels`, those whose score reaches their threshold, and for
    every class `score.LABEL` and, where the bundle is calibrated, `probability.LABEL`. `out`
    appears whole or not at all.

    Raises:
        DataError: `out` exists already, or can't be written.
    """
    if out.exists():
        raise DataError(f"{out} exists already: choose another --out, or delete it")
    loaded = load_bundle(bundle)
    names, thresholds, calibration = (
        loaded.vocabulary.names,
        loaded.thresholds,
        loaded.calibration,
    )
    scored = score_split(bundle, dataset, split, device=device)
    tables = scored.map_batches(
        lambda table: _spread(table, names, thresholds, calibration), batch_format="pyarrow"
    )
    with (
        whole_folder(out) as partial,
        naming_torn_shards(dataset.shard_paths(split), dataset.filesystem),
        explained(),
    ):
        tables.write_parquet(str(partial))
    return sum(shard.rows for shard in dataset.split(split))


def scored_rows(
    bundle: str, dataset: Dataset, split: str, *, device: str = "auto"
) -> Iterator[pa.Table]:
    """Yield the tables of `score_split` in order.

    Raises:
        BundleError: the bundle can't be read, or reads other tokens than the dataset has.
        DataError: there is no such split, or a shard can't be read or isn't what its metadata
            says.
    """
    with naming_torn_shards(dataset.shard_paths(split), dataset.filesystem), explained():
        scored = score_split(bundle, dataset, split, device=device)
        yield from scored.iter_batches(batch_size=None, batch_format="pyarrow")


def _spread(
    table: pa.Table,
    names: tuple[str, ...],
    thresholds: np.ndarray,
    calibration: Calibration | None,
) -> pa.Table:
    """Turn the list of scores into a column a class, and add labels and probabilities."""
    scores = scores_of(table)
    above = [[names[c] for c in np.flatnonzero(row >= thresholds)] for row in scores]
    columns = {"id": table["id"], "labels": pa.array(above, pa.list_(pa.string()))}
    columns |= {f"score.{name}": pa.array(scores[:, c]) for c, name in enumerate(names)}
    if calibration is not None:
        likely = calibration.probabilities(scores).astype(np.float32)
        columns |= {f"probability.{name}": pa.array(likely[:, c]) for c, name in enumerate(names)}
    return pa.table(columns)


def scores_of(table: pa.Table) -> np.ndarray:
    """Return the scores of a scored table, [N, C] float32."""
    column = table[SCORES].combine_chunks()
    return column.flatten().to_numpy().reshape(len(table), -1)
