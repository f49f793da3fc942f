"""The training clips that are nearest to a prediction, in the space of the prototypes.

A bundle holds nothing of the clips that it was trained on, so it can be given away. Their
embeddings are computed from the dataset of the bundle's run, once, and kept in the folder of the
run (`neighbours/`) under the digests of both.

Axes: N training clips, W windows, E embedding.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Float32, Int64

import raymc
from raymc.data.shards import Dataset, read_shard
from raymc.data.shards.tokens import PLACE_COLUMNS
from raymc.data.storage import whole_file
from raymc.errors import ConfigError, DataError
from raymc.events import Count, unheard
from raymc.training.bundle import Bundle
from raymc.training.runs import own_dataset, run_of

MOST_CLIPS = 5000  # of larger splits, every so-manieth shard is taken, up to about this many clips


@dataclass(frozen=True)
class TrainingClips:
    """Clips that a model was trained on.

    Attributes:
        clips: A row each: `id`, `labels`, and `path`, `start_seconds` and `end_seconds` if the
            dataset has them.
        embeddings: [N, E], of length 1.
    """

    clips: pa.Table
    embeddings: Float32[np.ndarray, "N E"]

    def nearest(
        self, embeddings: Float32[np.ndarray, "W E"], count: int = 3
    ) -> tuple[Int64[np.ndarray, "W K"], Float32[np.ndarray, "W K"]]:
        """Return, for each embedding, the numbers of the nearest clips and their cosines.

        The nearest comes first. There are `count`, or as many as there are clips.
        """
        cosines = unit(embeddings) @ self.embeddings.T
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        return order, np.take_along_axis(cosines, order, axis=1)


def training_clips(bundle: Bundle, *, on_rows: Count = unheard) -> TrainingClips:
    """Return the clips that a run's bundle was trained on, with their embeddings.

    `on_rows` is called with the progress, if they must be computed.

    Raises:
        ConfigError: The bundle is in no run's folder, or its dataset has changed.
        DataError: The dataset can't be read.
    """
    run = run_of(bundle.folder)
    if run is None:
        raise ConfigError(f"the bundle {bundle.folder} is in no run's folder")
    dataset = own_dataset(bundle)
    belongs_to = {
        "dataset": bundle.dataset_digest,
        "split": bundle.config.data.train,
        "bundle": bundle.digest,
        "raymc": raymc.__version__,
    }
    key = hashlib.sha256(json.dumps(belongs_to).encode()).hexdigest()
    file = run / "neighbours" / f"{key[:32]}.parquet"
    with suppress(DataError):  # there is none, or it is damaged
        return _load(file, belongs_to)
    found = embed_clips(bundle, dataset, bundle.config.data.train, on_rows=on_rows)
    with suppress(OSError):  # the run may be another user's and read-only
        _save(found, file, belongs_to)
    return found


def embed_clips(
    bundle: Bundle, dataset: Dataset, split: str, *, on_rows: Count = unheard
) -> TrainingClips:
    """Embed the clips of a split, or of shards spread evenly over it.

    Raises:
        BundleError: The bundle doesn't match the dataset.
        DataError: There is no such split, or a shard can't be read, or is not the one that was
            written.
    """
    bundle.check_dataset(dataset.manifest)
    shards = dataset.split(split)
    every = -(-sum(shard.rows for shard in shards) // MOST_CLIPS)
    names = bundle.columns_in(dataset.manifest)
    taken = shards[:: max(1, every)]
    tables, embeddings, done = [], [], 0
    for shard in taken:
        columns = ["id", "labels", *names]
        table = read_shard(dataset, shard, columns, optional=PLACE_COLUMNS, verify=True)
        embeddings.append(bundle.embed_tokens(bundle.tokens_of(table))[0])
        known = [name for name in ("id", "labels", *PLACE_COLUMNS) if name in table.column_names]
        tables.append(table.select(known).replace_schema_metadata())
        done += len(table)
        on_rows(done, sum(one.rows for one in taken))
    return TrainingClips(pa.concat_tables(tables), unit(np.concatenate(embeddings)))


def unit(vectors: Float[np.ndarray, "*N E"]) -> Float[np.ndarray, "*N E"]:
    """Return vectors of length 1; those of length 0 stay so."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1).astype(vectors.dtype)


def _save(found: TrainingClips, file: Path, belongs_to: Mapping[str, str]) -> None:
    flat = pa.array(np.ascontiguousarray(found.embeddings).ravel())
    column = pa.FixedSizeListArray.from_arrays(flat, found.embeddings.shape[1])
    table = found.clips.append_column("embedding", column)
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as partial:
        about = {"raymc": json.dumps(dict(belongs_to))}
        pq.write_table(table.replace_schema_metadata(about), partial, compression="zstd")


def _load(file: Path, belongs_to: Mapping[str, str]) -> TrainingClips:
    try:
        table = pq.read_table(file)
        if json.loads((table.schema.metadata or {})[b"raymc"]) != dict(belongs_to):
            raise ValueError("it belongs to another bundle")
        flat = table["embedding"].combine_chunks().flatten().to_numpy()
        return TrainingClips(table.drop_columns("embedding"), flat.reshape(len(table), -1))
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{file} holds no training clips") from error
