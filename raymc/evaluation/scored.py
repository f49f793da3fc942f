"""A split's scores beside its labels, and the Parquet file that keeps them.

A split is scored once, however often it is evaluated, compared or reported.

Axes: N rows, C classes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float

from raymc.data.labels import Vocabulary
from raymc.data.storage import whole_file
from raymc.errors import DataError, first_line

_MATRICES = ("scores", "labels", "observed")


@dataclass(frozen=True)
class ScoredSplit:
    """The rows of a split in their order, by the ids of their clips.

    Scores are float32, as `Bundle.score` gives them; `observed` says which labels are known. The
    vocabulary names the columns. Two splits of equal name and dataset digest have the same rows.
    """

    ids: tuple[str, ...]
    scores: Float[np.ndarray, "N C"]
    labels: Bool[np.ndarray, "N C"]
    observed: Bool[np.ndarray, "N C"]
    vocabulary: Vocabulary
    split: str
    dataset_digest: str


def save_scored(
    scored: ScoredSplit, path: Path, *, belongs_to: Mapping[str, str] | None = None
) -> None:
    """Write the file; it appears whole or not at all.

    `belongs_to` is what decides the scores, such as digests, to compare with when they are read.
    """
    columns: dict[str, pa.Array] = {"id": pa.array(scored.ids, pa.string())}
    for name in _MATRICES:
        matrix = getattr(scored, name)
        columns[name] = pa.FixedSizeListArray.from_arrays(
            pa.array(matrix.ravel()), len(scored.vocabulary)
        )
    about = {
        "vocabulary": scored.vocabulary.to_json(),
        "split": scored.split,
        "dataset_digest": scored.dataset_digest,
        "belongs_to": dict(belongs_to or {}),
    }
    table = pa.table(columns).replace_schema_metadata({"raymc": json.dumps(about)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def load_scored(path: Path, *, belongs_to: Mapping[str, str] | None = None) -> ScoredSplit:
    """Read what `save_scored` wrote.

    Raises:
        DataError: There is no such file, it holds something else, or its scores belong to
            something else than `belongs_to`; None takes any.
    """
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[b"raymc"])
        if belongs_to is not None and about["belongs_to"] != dict(belongs_to):
            raise ValueError("they belong to another dataset, bundle, split, device or version")
        vocabulary = Vocabulary.from_json(about["vocabulary"])
        shape = (len(table), len(vocabulary))
        matrices = {
            name: table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            for name in _MATRICES
        }
        return ScoredSplit(
            ids=tuple(table["id"].to_pylist()),
            **{name: values.reshape(shape) for name, values in matrices.items()},
            vocabulary=vocabulary,
            split=about["split"],
            dataset_digest=about["dataset_digest"],
        )
    except (OSError, KeyError, ValueError, TypeError, DataError, pa.ArrowException) as error:
        line = first_line(error)
        raise DataError(f"{path} does not hold scores of raymc: {line}") from error
