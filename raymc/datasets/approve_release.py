"""The files of the APPROVE release, checked, and what is odd in them.

May import `joined.py`; `approve.py` decides what becomes of it. One JSON file holds the labels by
split and domain; three CSV files hold the addresses of the videos labelled for literacy, for
math, and of those that are background.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from urllib.parse import parse_qs, urlsplit

from raymc.datasets.approve_files import (
    DOMAINS,
    SPLITS,
    Addresses,
    Labels,
    Lists,
    read_addresses,
    read_lists,
)
from raymc.datasets.joined import digest, read_file, shown
from raymc.labels import Vocabulary

BACKGROUND = "background"
_LABEL_FILE = "approve_label_data.json"


@dataclass(frozen=True)
class Entry:
    """What the release says of one id.

    Attributes:
        address: Of its video, if the release has it.
        video: The same for all ids whose addresses lead to the same video.
        labels: Names of the vocabulary by annotated domain; empty for background.
        listed: The splits that list the id, in the order of SPLITS.
    """

    address: str | None
    video: str
    labels: Labels
    listed: Sequence[str]


@dataclass(frozen=True)
class Release:
    """The whole release.

    Attributes:
        entries: All ids that are annotated or background.
        vocabulary: Literacy, math and background; the first two are groups.
        digests: SHA-256 of each file.
        notes: What was found odd.
    """

    entries: Mapping[str, Entry]
    vocabulary: Vocabulary
    digests: Mapping[str, str]
    notes: Sequence[str]

    def listed(self) -> dict[str, list[str]]:
        """Return the splits that list each annotated video under any of its ids."""
        found: dict[str, set[str]] = {}
        for entry in self.entries.values():
            if entry.labels:
                found.setdefault(entry.video, set()).update(entry.listed)
        return {video: sorted(splits, key=SPLITS.index) for video, splits in found.items()}


def read_release(folder: str) -> Release:
    """Read the release's four files.

    Raises:
        DataError: A file is missing or malformed.
    """
    tables = {source: f"{source}_urls.csv" for source in (*DOMAINS, BACKGROUND)}
    paths = {name: f"{folder.rstrip('/')}/{name}" for name in (_LABEL_FILE, *tables.values())}
    data = {name: read_file(path) for name, path in paths.items()}
    notes: list[str] = []
    lists = read_lists(data[_LABEL_FILE], paths[_LABEL_FILE])
    addresses = {
        source: read_addresses(data[name], paths[name], notes) for source, name in tables.items()
    }
    names = _class_names(lists, notes)
    entries = _entries(lists, addresses, names)
    groups = {domain: tuple(names[domain].values()) for domain in DOMAINS}
    classes = (*(name for group in groups.values() for name in group), BACKGROUND)
    return Release(
        entries=entries,
        vocabulary=Vocabulary(classes, groups, BACKGROUND),
        digests={name: digest(content) for name, content in data.items()},
        notes=[*notes, *_list_notes(lists), *_id_notes(entries, addresses)],
    )


def _class_names(lists: Lists, notes: list[str]) -> dict[str, dict[str, str]]:
    """Return each domain's labels and the classes they become; no class is of both domains."""
    found = {
        domain: sorted(
            {name for videos in splits.values() for row in videos.values() for name in row}
        )
        for domain, splits in lists.items()
    }
    uses = Counter([BACKGROUND, *found["literacy"], *found["math"]])
    repeated = [name for name, count in uses.items() if count > 1]
    if repeated:
        notes.append(f"labels used twice become DOMAIN/LABEL: {shown(repeated)}")
    return {
        domain: {name: f"{domain}/{name}" if name in repeated else name for name in names}
        for domain, names in found.items()
    }


def _entries(
    lists: Lists, addresses: Addresses, names: Mapping[str, Mapping[str, str]]
) -> dict[str, Entry]:
    labels: dict[str, dict[str, Sequence[str]]] = {}
    listed: dict[str, set[str]] = {}
    for split in SPLITS:  # the most held out comes last, and its labels count
        for domain in DOMAINS:
            for name, row in lists[domain].get(split, {}).items():
                labels.setdefault(name, {})[domain] = [names[domain][label] for label in row]
                listed.setdefault(name, set()).add(split)
    known = {**addresses[BACKGROUND], **addresses["literacy"], **addresses["math"]}
    return {
        name: Entry(
            address=known.get(name),
            video=_video_at(known[name]) if name in known else name,
            labels=labels.get(name, {}),
            listed=sorted(listed.get(name, ()), key=SPLITS.index),
        )
        for name in dict.fromkeys([*labels, *addresses[BACKGROUND]])
    }


def _video_at(address: str) -> str:
    """Return what all addresses of a YouTube video share, its id there; others as they are."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    if "youtu" not in parts.netloc:
        return address
    return parse_qs(parts.query).get("v", [parts.path.rsplit("/", 1)[-1]])[0] or address


def _list_notes(lists: Lists) -> Iterator[str]:
    for domain, splits in lists.items():
        for a, b in combinations(splits, 2):
            if splits[a] and splits[a].keys() == splits[b].keys():
                yield f"{domain}: {a} and {b} list the same {len(splits[a])} ids"
        listed: dict[str, list[str]] = {}
        for split, videos in splits.items():
            for name in videos:
                listed.setdefault(name, []).append(split)
        by_splits: dict[str, list[str]] = {}
        for name, found in listed.items():
            if len(found) > 1:
                by_splits.setdefault(" and ".join(found), []).append(name)
        for found, ids in by_splits.items():
            yield f"{domain}: {len(ids)} ids are listed in {found} ({shown(ids)})"
        torn = [n for n, found in listed.items() if len({tuple(splits[s][n]) for s in found}) > 1]
        if torn:
            yield (
                f"{domain}: {len(torn)} ids have other labels in another split ({shown(torn)}); "
                "those of the most held-out one are kept"
            )


def _id_notes(entries: Mapping[str, Entry], addresses: Addresses) -> Iterator[str]:
    annotated = [name for name, entry in entries.items() if entry.labels]
    listed = {**addresses["literacy"], **addresses["math"]}
    without = [name for name in annotated if name not in listed]
    both = [name for name in annotated if name in addresses[BACKGROUND]]
    several = Counter(entries[name].video for name in annotated)
    counts = {
        f"of {len(annotated)} annotated ids have no address in literacy_urls.csv or math_urls.csv; "
        "they count if they have features": without,
        "ids have an address for literacy or math but no annotation; left out": [
            name for name in listed if name not in entries
        ],
        "ids of background_urls.csv are annotated; they are no background": both,
        "videos are annotated under several ids, by their addresses; all get one split": [
            video for video, count in several.items() if count > 1
        ],
    }
    for note, names in counts.items():
        if names:
            yield f"{len(names)} {note} ({shown(names)})"
