"""Real formats to datasets of shards: one file each, plain functions from files to rows.

Pure: no Ray, no MLflow.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from raymc.datasets.lazy_rows import watched
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


def make_dataset(
    recipe: DatasetRecipe,
    path: str,
    *,
    shard_rows: int = 512,
    on_row: Callable[[int, int], None] = lambda row, rows: None,
) -> Manifest:
    """Write the recipe's rows as shards under `path`; running it again goes on or does nothing.

    Args:
        recipe: What to write.
        path: Folder of the dataset.
        shard_rows: Rows per shard.
        on_row: Is told the number of each row that is made, from 1, and how many there are.

    Raises:
        DataError: `path` holds another dataset.
    """
    return write_dataset(
        path,
        watched(recipe.splits, on_row),
        vocabulary=recipe.vocabulary,
        modalities=recipe.modalities,
        provenance=recipe.provenance,
        license=recipe.license,
        shard_rows=shard_rows,
    )
