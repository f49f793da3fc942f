"""What every format makes: a `DatasetRecipe`, whose rows are computed when they are written.

So a split never has to fit into memory, and an interrupted write computes only the rows that it
still needs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import overload

from raymc.data.labels import Vocabulary
from raymc.data.shards import Manifest, Modality, Row, Rows, write_dataset


class LazyRows(Sequence[Row]):
    """A sequence whose row i is `row(i)`, called each time; `row` must be deterministic."""

    def __init__(self, count: int, row: Callable[[int], Row]) -> None:
        self._count = count
        self._row = row

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """Compute one row or several."""
        chosen = range(self._count)[index]
        return self._row(chosen) if isinstance(chosen, int) else [self._row(i) for i in chosen]


@dataclass(frozen=True)
class DatasetRecipe:
    """Everything a dataset is made of; `splits` has the rows of each split, usually lazy."""

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
    """Write the recipe's rows as shards under `path`; a second call resumes or does nothing.

    `on_row` is called with the number of each row made, from 1, and the number of all rows. Raises
    `DataError` if `path` holds another dataset.
    """
    return write_dataset(
        path,
        _watched(recipe.splits, on_row),
        vocabulary=recipe.vocabulary,
        modalities=recipe.modalities,
        provenance=recipe.provenance,
        license=recipe.license,
        shard_rows=shard_rows,
    )


def _watched(
    splits: Mapping[str, Rows], on_row: Callable[[int, int], None]
) -> dict[str, "LazyRows"]:
    """Return splits that report each row that is made: its number, and how many there are."""
    total = sum(len(rows) for rows in splits.values())

    def row(rows: Rows, first: int, i: int) -> Row:
        on_row(first + i + 1, total)
        return rows[i]

    found: dict[str, LazyRows] = {}
    first = 0
    for split, rows in splits.items():
        found[split] = LazyRows(len(rows), partial(row, rows, first))
        first += len(rows)
    return found
