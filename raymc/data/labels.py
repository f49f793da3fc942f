"""The label vocabulary: names to multi-hot rows, label groups to what was observed, statistics.

Pure: imports NumPy only, so that every layer may use it. Rows keep their labels by name and
are encoded against the vocabulary when they are read.
Axes: N rows, C classes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from raymc.errors import DataError


@dataclass(frozen=True)
class Vocabulary:
    """The labels of a dataset, in the order of the classes.

    Attributes:
        names: Label names; their order is the order of the classes everywhere. Clips that nobody
            labelled have none: they can be predicted, not trained on.
        groups: Labels that were annotated together, by the group's name, e.g. all of math.
            A label may be in no group, or in several.
        background: The label that stands for "none of the others", if there is one.
        parents: What a label is part of, e.g. counting of math. A parent may be a label itself,
            and may have a parent. Unlike a group it says nothing of who annotated what.

    Raises:
        DataError: An empty or repeated name; a group, background or parent of a label which
            isn't there; a label above itself; a name for a group and for the parent of others.
    """

    names: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    background: str | None = None
    parents: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(self.names):
            raise DataError("a label's name is empty; give it one, or leave it out")
        repeated = [name for name, count in Counter(self.names).items() if count > 1]
        if repeated:
            raise DataError(f"the vocabulary repeats the label '{repeated[0]}'; list each one once")
        for group, members in self.groups.items():
            for name in members:
                if name not in self.names:
                    raise DataError(f"group '{group}': {unknown_name('label', name, self.names)}")
        if self.background is not None and self.background not in self.names:
            raise DataError(f"background: {unknown_name('label', self.background, self.names)}")
        self._check_parents()

    def _check_parents(self) -> None:
        known = dict.fromkeys([*self.names, *self.parents.values()])
        for name, parent in self.parents.items():
            if name not in known:
                raise DataError(f"parents: {unknown_name('label', name, self.names)}")
            if not parent:
                raise DataError(f"parents: '{name}' has an empty name for a parent; leave it out")
            path = [name]
            while path[-1] in self.parents:
                path.append(self.parents[path[-1]])
                if path[-1] in path[:-1]:
                    raise DataError(f"parents go in a circle: {' → '.join(path)}; cut it")
        for name, members in self._descendants().items():
            if set(members) != set(self.groups.get(name, members)):
                raise DataError(
                    f"'{name}' is a group of other labels than it is the parent of; give one of "
                    "the two another name"
                )

    def _descendants(self) -> dict[str, tuple[str, ...]]:
        beneath: dict[str, tuple[str, ...]] = {}
        for name in self.names:
            above = self.parents.get(name)
            while above is not None:
                beneath[above] = (*beneath.get(above, ()), name)
                above = self.parents.get(above)
        return beneath

    def families(self) -> dict[str, tuple[str, ...]]:
        """Return the labels that belong together, by name: of each group, and under each parent.

        Under a parent are its children, theirs, and so on; not the parent itself.
        """
        return {**self.groups, **self._descendants()}

    def __len__(self) -> int:
        """Return the number of classes C."""
        return len(self.names)

    def index(self, name: str) -> int:
        """Return the class number of a label.

        Raises:
            DataError: The label is not in the vocabulary.
        """
        if name not in self.names:
            raise DataError(unknown_name("label", name, self.names))
        return self.names.index(name)

    def encode(
        self, labels: Sequence[Sequence[str]], *, first_row: int = 0
    ) -> Bool[np.ndarray, "N C"]:
        """Turn each row's label names into a multi-hot row.

        Args:
            labels: One sequence of names per row; it may be empty.
            first_row: The number that messages give to the first of these rows.

        Raises:
            DataError: A name that is not in the vocabulary, with its row and the nearest name.
        """
        classes = {name: k for k, name in enumerate(self.names)}
        encoded = np.zeros((len(labels), len(self.names)), dtype=bool)
        for i, row in enumerate(labels):
            for name in row:
                if name not in classes:
                    raise DataError(
                        f"row {first_row + i}: {unknown_name('label', name, self.names)}"
                    )
                encoded[i, classes[name]] = True
        return encoded

    def encode_observed(
        self, observed: Sequence[Sequence[str] | None], *, first_row: int = 0
    ) -> Bool[np.ndarray, "N C"]:
        """Tell which classes were annotated in each row.

        A label of no group is always observed; one of several groups is observed as soon as
        one of them was annotated.

        Args:
            observed: Per row the names of the groups that were annotated; None means all.
            first_row: The number that messages give to the first of these rows.

        Raises:
            DataError: A group that is not in the vocabulary, with its row and the nearest name.
        """
        members = self.group_members()
        grouped = np.any(list(members.values()), axis=0) if members else False
        encoded = np.empty((len(observed), len(self.names)), dtype=bool)
        for i, row in enumerate(observed):
            encoded[i] = True if row is None else ~np.broadcast_to(grouped, len(self.names))
            for name in row or ():
                if name not in members:
                    raise DataError(f"row {first_row + i}: {unknown_name('group', name, members)}")
                encoded[i] |= members[name]
        return encoded

    def group_members(self) -> dict[str, Bool[np.ndarray, " C"]]:
        """Tell for each group which classes it has."""
        names = np.array(self.names)
        return {group: np.isin(names, members) for group, members in self.groups.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary as plain JSON values; `from_json` is the way back.

        Without parents it has no such key, so that digests of earlier datasets still hold.
        """
        return {
            "names": list(self.names),
            "groups": {group: list(members) for group, members in self.groups.items()},
            "background": self.background,
            **({"parents": dict(self.parents)} if self.parents else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Vocabulary":
        """Build a vocabulary from the values of `to_json`.

        Raises:
            DataError: A key is missing or the labels contradict each other.
        """
        if "names" not in values:
            raise DataError("the vocabulary lacks its key 'names', the list of labels")
        groups = {group: tuple(members) for group, members in values.get("groups", {}).items()}
        parents = dict(values.get("parents", {}))
        return cls(tuple(values["names"]), groups, values.get("background"), parents)


def label_counts(multi_hot: Bool[np.ndarray, "N C"]) -> Int64[np.ndarray, " C"]:
    """Count the rows that carry each label."""
    return multi_hot.sum(axis=0, dtype=np.int64)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that nothing of some kind has this name, and which known name is near.

    Args:
        kind: What is named, such as label.
        name: The name.
        known: All names there are.
    """
    names = list(known)
    if not names:
        return f"unknown {kind} '{name}'; the vocabulary defines no {kind}s"
    nearest = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{nearest[0]}'" if nearest else f"known are {', '.join(names[:5])}"
    more = ", …" if not nearest and len(names) > 5 else ""
    return f"unknown {kind} '{name}' ({len(names)} {kind}s in the vocabulary); {hint}{more}?"
