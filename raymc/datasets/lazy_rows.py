"""Rows that are computed when they are asked for: what most recipes' splits are made of.

Imports nothing but the row. A split never has to fit into memory, and an interrupted write
asks only for the rows it still needs.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import overload

from raymc.shards import Row, Rows


def watched(
    splits: Mapping[str, Rows], on_row: Callable[[int, int], None]
) -> dict[str, "LazyRows"]:
    """Return splits that tell, whenever a row is asked for, its number and how many there are."""
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


class LazyRows(Sequence[Row]):
    """A sequence whose row i is `row(i)`, called anew each time; `row` must be deterministic."""

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
        """Compute one row or several.

        Raises:
            IndexError: No such row.
        """
        chosen = range(self._count)[index]
        return self._row(chosen) if isinstance(chosen, int) else [self._row(i) for i in chosen]
