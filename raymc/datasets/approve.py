"""APPROVE, educational videos labelled for literacy and math, joined with features by video id.

May import the files `approve_*.py`, `joined.py` and the shards. The release (Gupta et al., CVPR
2023, arXiv 2510.11204) lists some videos in several splits or under several ids, and some as
background too: the choices that this asks for are settings, and each says in a note what it did.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from raymc.datasets import DatasetRecipe
from raymc.datasets.approve_files import DOMAINS, SPLITS
from raymc.datasets.approve_notes import notes
from raymc.datasets.approve_release import (
    BACKGROUND,
    Entry,
    Release,
    read_release,
)
from raymc.datasets.joined import Features, fraction
from raymc.errors import ConfigError
from raymc.shards import Row


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ApproveConfig:
    """Where the release and the features are, and what to do where the release is unclear."""

    name: Literal["approve"] = Field(default="approve", description="The kind of dataset.")
    folder: str = Field(
        min_length=1,
        description="Folder of the release: approve_label_data.json and three *_urls.csv.",
    )
    features: str = Field(
        min_length=1, description="Dataset of features; its ids are the release's, e.g. 41250."
    )
    split_policy: Literal["most_held_out", "divide", "least_held_out", "drop"] = Field(
        default="most_held_out",
        description="A video of several splits: most_held_out keeps it in test, else in val; "
        "divide draws val or test for one of both; least_held_out keeps it in train, else in "
        "val; drop leaves it out.",
    )
    background: Literal["unlabelled", "all", "none"] = Field(
        default="unlabelled",
        description="Background videos: those without labels under another id, all, or none.",
    )
    background_val_share: float = Field(
        default=0.2, ge=0, le=1, description="Share of the background videos that go to val."
    )
    background_test_share: float = Field(
        default=0.2, ge=0, le=1, description="Share of the background videos that go to test."
    )
    seed: int = Field(default=0, description="Which videos are drawn where a list is divided.")


def approve(config: ApproveConfig) -> DatasetRecipe:
    """The recipe of APPROVE: literacy and math are groups, each observed where it was annotated.

    Ids whose addresses lead to the same video get the same split. Background videos are observed
    in both groups: they show neither.

    Raises:
        ConfigError: The shares of the background are more than the whole.
        DataError: A file is missing or malformed, or no video of the release has features.
    """
    shares = config.background_val_share, config.background_test_share
    if sum(shares) > 1:
        raise ConfigError(
            f"background_val_share {shares[0]} and background_test_share {shares[1]} are more "
            "than 1 together; lower one of them"
        )
    release = read_release(config.folder)
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
    chosen = notes(
        release,
        features,
        splits,
        split_policy=config.split_policy,
        background=config.background,
    )
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
            "notes": [*release.notes, *chosen],
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
