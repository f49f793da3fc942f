"""APPROVE, educational videos labelled for literacy and math, joined with features by video id.

One JSON file of the release (Gupta et al., CVPR 2023, arXiv 2510.11204) holds the labels by split
and domain; three CSV files hold the addresses of the videos labelled for literacy, for math, and
of background videos. Some videos are in several splits, under several ids, or also background:
settings decide what to do, and notes in dataset.json say what was done.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any
from urllib.parse import parse_qs, urlsplit

from raymc.config import ApproveConfig
from raymc.data.labels import Vocabulary
from raymc.data.shards import Row
from raymc.errors import ConfigError, DataError
from raymc.formats.annotations import (
    Features,
    digest,
    fraction,
    kind_of,
    parse_object,
    read_file,
    shown,
)
from raymc.formats.recipe import DatasetRecipe

SPLITS = ("train", "val", "test")  # from the least held out to the most
DOMAINS = ("literacy", "math")
Labels = Mapping[str, Sequence[str]]  # of each id
Lists = Mapping[str, Mapping[str, Labels]]  # of each domain and split
Addresses = Mapping[str, Mapping[str, str]]  # of each file and id


def _read_lists(data: bytes, file: str) -> Lists:
    lists: dict[str, dict[str, Labels]] = {domain: {} for domain in DOMAINS}
    for split, domains in parse_object(data, file).items():
        if split not in SPLITS:
            raise DataError(f"{file}: unknown split '{split}'; expected {', '.join(SPLITS)}")
        for domain, videos in _items(domains, f"{file}: '{split}'"):
            where = f"{file}: '{split}', '{domain}'"
            if domain not in DOMAINS:
                raise DataError(f"{where}: unknown domain; expected {' or '.join(DOMAINS)}")
            lists[domain][split] = {
                name: _labels(labels, f"{where}, '{name}'")
                for name, labels in _items(videos, where)
            }
    return {
        domain: {split: found[split] for split in SPLITS if split in found}
        for domain, found in lists.items()
    }


def _read_addresses(data: bytes, file: str, notes: list[str]) -> dict[str, str]:
    """Read the address of each id; for a repeated id the first, with a note."""
    addresses: dict[str, str] = {}
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        for fields in filter(None, reader):
            name, address = (field.strip() for field in fields) if len(fields) == 2 else ("", "")
            if not name or not address.startswith(("http://", "https://")):
                raise DataError(
                    f"{file}: line {reader.line_num}: {','.join(fields)!r:.80}; expected an id and "
                    "an address, such as 1,https://…"
                )
            if name in addresses:
                same = "the same" if address == addresses[name] else "another"
                notes.append(
                    f"{file.rsplit('/', 1)[-1]}: line {reader.line_num} repeats id {name} with "
                    f"{same} address; the first is kept"
                )
            addresses.setdefault(name, address)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: not CSV in UTF-8 ({error}); fetch the file again") from error
    return addresses


def _items(values: Any, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(values, dict):
        raise DataError(
            f"{where} holds {kind_of(values)}; expected {{split: {{domain: {{id: [labels]}}}}}}"
        )
    yield from values.items()


def _labels(values: Any, where: str) -> Sequence[str]:
    if not isinstance(values, list) or not all(isinstance(name, str) and name for name in values):
        raise DataError(f"{where} holds {values!r:.60}; expected a list of label names")
    return sorted(set(values))


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
    """The whole release: all its ids (annotated or background) and what was found odd."""

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


def _read_release(folder: str) -> Release:
    tables = {source: f"{source}_urls.csv" for source in (*DOMAINS, BACKGROUND)}
    paths = {name: f"{folder.rstrip('/')}/{name}" for name in (_LABEL_FILE, *tables.values())}
    data = {name: read_file(path) for name, path in paths.items()}
    notes: list[str] = []
    lists = _read_lists(data[_LABEL_FILE], paths[_LABEL_FILE])
    addresses = {
        source: _read_addresses(data[name], paths[name], notes) for source, name in tables.items()
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


def _notes(
    config: ApproveConfig, release: Release, features: Features, splits: Mapping[str, str]
) -> Iterator[str]:
    """Say what the choices did."""
    split_policy, background = config.split_policy, config.background
    listed = release.listed()
    several = sum(len(found) > 1 for found in listed.values())
    if several:
        yield f"split_policy {split_policy} decided on {several} videos of several splits"
    unlabelled = [name for name, entry in release.entries.items() if not entry.labels]
    torn = {name: None for name in unlabelled if release.entries[name].video in listed}
    if torn:
        yield (
            f"{len(torn)} of {len(unlabelled)} background ids have the address of a video that is "
            f"annotated under another id ({shown(torn)}); background '{background}' "
            f"{'keeps them, as background' if background == 'all' else 'leaves them out'}"
        )
    drawn = [splits[name] for name in unlabelled if name in splits and name not in torn]
    if drawn:
        counts = ", ".join(f"{split} {drawn.count(split)}" for split in SPLITS)
        yield (
            f"background ids are in no list of a split; {len(drawn)} were divided by a hash: "
            f"{counts} (the release's README uses all for training: background_val_share and "
            "background_test_share 0)"
        )
    yield from features.notes(splits, release.entries)
    yield from _gap_notes(release, features, splits, split_policy)


def _gap_notes(
    release: Release, features: Features, splits: Mapping[str, str], split_policy: str
) -> Iterator[str]:
    """Say which labels of a split no video carries, and what follows."""
    both = any({"val", "test"} <= set(found) for found in release.listed().values())
    remedy = (
        "; split_policy divide shares what val and test both list"
        if both and split_policy != "divide"
        else ""
    )
    for split, use in zip(SPLITS, ("learned", "used to choose epochs or thresholds", "tested")):
        names = [name for name, at in splits.items() if at == split and name in features.clips]
        for domain, known in release.vocabulary.groups.items():
            labels = [release.entries[name].labels.get(domain) for name in names]
            annotated = [row for row in labels if row is not None]
            missing = set(known) - {label for row in annotated for label in row}
            if missing:
                yield (
                    f"{split} has {len(annotated)} videos annotated for {domain}, and none with "
                    f"{len(missing)} of its {len(known)} labels: they can't be {use}{remedy}"
                )


def approve(config: ApproveConfig) -> DatasetRecipe:
    """Return the recipe of APPROVE; literacy and math are groups, observed where annotated.

    Ids whose addresses lead to the same video get the same split. Background videos are observed
    in both groups: they show neither.

    Raises:
        ConfigError: The shares of the background add up to more than 1.
        DataError: A file is missing or malformed, or no video of the release has features.
    """
    shares = config.background_val_share, config.background_test_share
    if sum(shares) > 1:
        raise ConfigError(
            f"background_val_share {shares[0]} and background_test_share {shares[1]} add up to "
            "more than 1; lower one of them"
        )
    release = _read_release(config.folder)
    features = Features(config.features)
    splits = _splits(config, release)
    features.require(splits, config.folder)
    rows = {
        split: features.rows(
            [name for name, found in splits.items() if found == split],
            partial(_labelled, release.entries),
        )
        for split in SPLITS
    }
    return DatasetRecipe(
        vocabulary=release.vocabulary,
        modalities=features.modalities,
        splits={split: found for split, found in rows.items() if len(found)},
        provenance={
            "format": "approve",
            "files": release.digests,
            "features": features.provenance,
            "split_policy": config.split_policy,
            "background": config.background,
            "background_shares": shares,
            "seed": config.seed,
            "notes": [*release.notes, *_notes(config, release, features, splits)],
        },
        license="; ".join(filter(None, ["annotations: CC BY-NC 4.0", features.license])),
    )


def _splits(config: ApproveConfig, release: Release) -> dict[str, str]:
    """Choose the split of each id; those that are left out are missing."""
    listed = release.listed()
    splits: dict[str, str] = {}
    for name, entry in release.entries.items():
        found = listed.get(entry.video, [])
        wanted = {"unlabelled": not found, "all": True, "none": False}[config.background]
        split = _policy(config, entry.video, found) if found else _background(config, entry.video)
        if split and (entry.labels or wanted):
            splits[name] = split
    return splits


def _policy(config: ApproveConfig, video: str, listed: Sequence[str]) -> str | None:
    held_out = [split for split in listed if split != "train"] or listed
    return {
        "most_held_out": listed[-1],
        "divide": held_out[int(fraction(config.seed, video) * len(held_out))],
        "least_held_out": listed[0],
        "drop": listed[0] if len(listed) == 1 else None,
    }[config.split_policy]


def _background(config: ApproveConfig, video: str) -> str:
    at = fraction(config.seed, video)
    if at < config.background_test_share:
        return "test"
    return "val" if at < config.background_test_share + config.background_val_share else "train"


def _labelled(entries: Mapping[str, Entry], name: str, row: Row) -> Row:
    entry = entries[name]
    labels = [label for domain in DOMAINS for label in entry.labels.get(domain, ())]
    extra = {"video": name, "url": entry.address, "listed_splits": ",".join(entry.listed)}
    return replace(
        row,
        labels=labels if entry.labels else [BACKGROUND],
        observed=tuple(entry.labels) or None,
        extra={**row.extra, **extra},
    )
