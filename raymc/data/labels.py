"""The label vocabulary: names to multi-hot rows, label groups to observed classes.

Rows store their labels by name; they are encoded with the vocabulary when they are read.
Axes: N rows, C classes.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        names: Label names, in the order of the classes. A dataset without labels has none: it
            can be predicted on, but not trained on.
        groups: Labels that were annotated together, by the group's name, e.g. all of math.
            A label may be in no group, or in several.
        background: The label that means "none of the others", if there is one.
        parents: The parent of a label, e.g. math of counting. A parent may itself be a label and
            have a parent. Unlike a group it does not say what was annotated.

    Raises:
        DataError: An empty or repeated name; an unknown label in a group, background or parents;
            a label that is its own ancestor; a group and a parent of the same name with
            different labels.
    """

    names: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    background: str | None = None
    parents: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(self.names):
            raise DataError("a label's name is empty; name it or remove it")
        repeated = [name for name, count in Counter(self.names).items() if count > 1]
        if repeated:
            raise DataError(
                f"the vocabulary lists the label '{repeated[0]}' twice; list each label once"
            )
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
                raise DataError(
                    f"parents: the parent of '{name}' has an empty name; name it or remove it"
                )
            path = [name]
            while path[-1] in self.parents:
                path.append(self.parents[path[-1]])
                if path[-1] in path[:-1]:
                    raise DataError(f"parents form a cycle: {' → '.join(path)}; remove one of them")
        for name, members in self._descendants().items():
            if set(members) != set(self.groups.get(name, members)):
                raise DataError(
                    f"'{name}' is both a group and a parent, of different labels; rename one of "
                    "the two"
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
        """Return the labels of each group and below each parent, by its name.

        The labels below a parent are all its descendants, without the parent itself.
        """
        return {**self.groups, **self._descendants()}

    def __len__(self) -> int:
        """Return the number of classes C."""
        return len(self.names)

    def index(self, name: str) -> int:
        """Return the class number of a label; raises `DataError` if it is unknown."""
        if name not in self.names:
            raise DataError(unknown_name("label", name, self.names))
        return self.names.index(name)

    def encode(
        self, labels: Sequence[Sequence[str]], *, first_row: int = 0
    ) -> Bool[np.ndarray, "N C"]:
        """Turn each row's label names, which may be none, into a multi-hot row.

        `first_row` is the number of the first row, for messages. Raises `DataError` for a name that
        is not in the vocabulary, with its row and the nearest name.
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
        """Return which classes were annotated in each row, from its annotated groups; None: all.

        A label in no group is always observed; a label in several groups is observed if one of
        them was annotated. `first_row` and errors are those of `encode`.
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
        """Return each group's classes as a mask."""
        names = np.array(self.names)
        return {group: np.isin(names, members) for group, members in self.groups.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary as plain JSON values; `from_json` reads them.

        Without parents the key is left out, so that digests of earlier datasets stay the same.
        """
        return {
            "names": list(self.names),
            "groups": {group: list(members) for group, members in self.groups.items()},
            "background": self.background,
            **({"parents": dict(self.parents)} if self.parents else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Vocabulary":
        """Build a vocabulary from the values of `to_json`; raises `DataError` if a key is wrong."""
        if "names" not in values:
            raise DataError("the vocabulary lacks its key 'names', the list of labels")
        groups = {group: tuple(members) for group, members in values.get("groups", {}).items()}
        parents = dict(values.get("parents", {}))
        return cls(tuple(values["names"]), groups, values.get("background"), parents)


def label_counts(multi_hot: Bool[np.ndarray, "N C"]) -> Int64[np.ndarray, " C"]:
    """Count the rows that carry each label."""
    return multi_hot.sum(axis=0, dtype=np.int64)


def twin_names(names: Iterable[str]) -> Iterator[str]:
    """Say which names are alike: in all but case, in all but signs and spaces, or but for a letter.

    Names are compared by what is left without one letter, so thousands of them take no time.
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        alike.setdefault(" ".join(re.sub(r"[\W_]", " ", plain).split()) or plain, []).append(name)
    for twins in alike.values():
        if len(twins) > 1:
            only = "case" if len({name.casefold() for name in twins}) == 1 else "signs"
            listed = " and ".join(f'"{name}"' for name in twins)
            yield f"{listed} differ in {only} only; if they are one label, write them alike"
    pairs = list(_near(alike))
    if pairs:
        shown = ", ".join(f'"{alike[a][0]}" and "{alike[b][0]}"' for a, b in pairs[:3])
        more = f", and {len(pairs) - 3} more pairs" if len(pairs) > 3 else ""
        yield f"{shown}{more} differ in one letter; if that is a slip, mend it"


def _near(names: Iterable[str]) -> dict[tuple[str, str], None]:
    """Return the pairs of names of five letters or more that differ in one, but in no digit."""
    seen: dict[str, list[str]] = {}
    pairs: dict[tuple[str, str], None] = {}
    for name in (name for name in names if len(name) >= 5):
        shorter = {name[:i] + name[i + 1 :] for i in range(len(name)) if not name[i].isdigit()}
        for key in {name, *shorter}:
            for other in seen.get(key, ()):
                if re.sub(r"\D", "", other) == re.sub(r"\D", "", name) and _is_near(other, name):
                    pairs[other, name] = None
            seen.setdefault(key, []).append(name)
    return pairs


def _is_near(a: str, b: str) -> bool:
    """Whether one letter is another or too many, of two names that are equal without a letter."""
    if len(a) == len(b):
        return sum(x != y for x, y in zip(a, b)) == 1
    return abs(len(a) - len(b)) == 1


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name of a kind, such as label, with the nearest known."""
    names = list(known)
    if not names:
        return f"unknown {kind} '{name}'; the vocabulary defines no {kind}s"
    nearest = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{nearest[0]}'" if nearest else f"known are {', '.join(names[:5])}"
    more = ", …" if not nearest and len(names) > 5 else ""
    return f"unknown {kind} '{name}' ({len(names)} {kind}s in the vocabulary); {hint}{more}?"
