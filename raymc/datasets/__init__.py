"""Real formats to datasets of shards: one file each, plain functions from files to rows.

Pure: no Ray, no MLflow.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from raymc.labels import Vocabulary
from raymc.shards import Manifest, Modality, Rows, write_dataset


@dataclass(frozen=True)
class DatasetRecipe:
    """Everything a dataset is made of, rows still to be computed.

    `splits` maps a split's name to its rows; a sequence may compute row i when it is asked
    for, and must return the same row each time.
    """

    vocabulary: Vocabulary
    modalities: tuple[Modality, ...]
    splits: Mapping[str, Rows]
    provenance: Mapping[str, object] = field(default_factory=dict)
    license: str = ""


def make_dataset(recipe: DatasetRecipe, path: str, *, shard_rows: int = 512) -> Manifest:
    """Write the recipe's rows as shards under `path`; running it again goes on or does nothing.

    Raises:
        DataError: `path` holds another dataset.
    """
    return write_dataset(
        path,
        recipe.splits,
        vocabulary=recipe.vocabulary,
        modalities=recipe.modalities,
        provenance=recipe.provenance,
        license=recipe.license,
        shard_rows=shard_rows,
    )
