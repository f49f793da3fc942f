"""Writes a bundle's predictions of a split: one Parquet file per shard, named by its place."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raymc.data.shards import Dataset, Shard, read_shard
from raymc.data.storage import whole_folder
from raymc.errors import DataError
from raymc.evaluation.scoring import each_shard
from raymc.training.bundle import Bundle, load_bundle


def predict(bundle: str, dataset: Dataset, split: str, out: Path, *, device: str = "auto") -> int:
    """Write a split's predictions as `part-00000.parquet` and so on; returns the number of rows.

    The files hold the rows in the split's order, whatever order the shards were scored in. Their
    columns are `id`, `labels` (those whose score reaches their threshold), for every class
    `score.LABEL` and, if the bundle is calibrated, `probability.LABEL`. The folder `out` appears
    whole or not at all.

    Raises:
        BundleError: The bundle can't be read, or doesn't match the dataset.
        DataError: `out` already exists or can't be written, or a shard can't be read.
    """
    if out.exists():
        raise DataError(f"{out} already exists: choose another --out")
    loaded = load_bundle(bundle)
    loaded.check_dataset(dataset.manifest)
    rows = 0
    with whole_folder(out) as partial:
        tables = each_shard(loaded, dataset, split, _predicted, device=device)
        for place, table in enumerate(tables):
            pq.write_table(table, partial / f"part-{place:05d}.parquet")
            rows += len(table)
    return rows


def _predicted(bundle: Bundle, dataset: Dataset, shard: Shard) -> pa.Table:
    columns = ["id", *(modality.name for modality in bundle.modalities)]
    table, names = read_shard(dataset, shard, columns), bundle.vocabulary.names
    scores = bundle.score(table)
    labels = pa.array(bundle.labels_above(scores), pa.list_(pa.string()))
    found = {"id": table["id"], "labels": labels}
    found |= {f"score.{name}": pa.array(scores[:, c]) for c, name in enumerate(names)}
    if bundle.calibration is not None:
        likely = bundle.probabilities(scores)
        found |= {f"probability.{name}": pa.array(likely[:, c]) for c, name in enumerate(names)}
    return pa.table(found)
