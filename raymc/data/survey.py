"""What training must know of a dataset before it begins, from one pass over its files.

A file is read as a whole, because its checksum covers all of it. While it is in memory, it also
tells labels, lengths, means and times, and which clips it shares with another split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa

from raymc.config import DataConfig, Shape
from raymc.data.feed.batches import decode_tokens
from raymc.data.feed.feed import mapped_ahead
from raymc.data.feed.shared import check_labelled
from raymc.data.leaks import VIDEO_COLUMNS, Clips, clips_in, find_leaks, joined
from raymc.data.shards import Dataset, Manifest, Modality, Ragged, Shard, read_shard
from raymc.data.shards.means import TOKENS, Sample, means_of, sample_of, sampled_shards
from raymc.data.shards.read import count_labels
from raymc.data.shards.tokens import PLACE_COLUMNS

# Of larger datasets only ids and videos are compared: hashing all tokens would take minutes.
CONTENT_BYTES = 16 << 30
MEASURED_ROWS = 2000  # whose lengths say how long a typical one is
SHARDS_AT_ONCE = 4  # in memory
_TIMES = PLACE_COLUMNS[1:]


@dataclass(frozen=True)
class Survey:
    """What is known of a dataset before training.

    Attributes:
        dataset: The dataset, with the class counts of the training and validation splits, and the
            mean tokens of the training split.
        shape: By what settings are chosen; the first shards give the lengths.
        clip_seconds: The median length of the training clips; None if the dataset has no times.
        leaks: Lines about clips that two splits share.
    """

    dataset: Dataset
    shape: Shape
    clip_seconds: float | None
    leaks: list[str]


@dataclass(frozen=True)
class _Seen:
    """What one shard tells: clips of each class, what is compared, seconds, lengths, a sample."""

    counts: np.ndarray
    clips: Clips
    seconds: np.ndarray
    lengths: np.ndarray
    sample: Sample | None


def survey(dataset: Dataset, config: DataConfig) -> Survey:
    """Read the training, validation and test splits, each file once.

    Those of training and validation are compared with their checksums.

    Raises:
        DataError: A split or modality is not there, a file is missing or not the one that was
            written, a shard can't be read, or the validation split has no labels.
    """
    manifest = dataset.manifest
    read = _read_by(manifest, config)
    needed = dict.fromkeys((config.train, config.val))
    shards = {split: dataset.split(split) for split in needed}
    if manifest.rows(config.test):
        shards[config.test] = dataset.split(config.test)
    size = sum(shard.bytes for each in shards.values() for shard in each)
    measured = _first_shards(shards[config.train])
    sampled = sampled_shards(shards[config.train])
    look = partial(
        _look, dataset, compared=manifest.modalities if size <= CONTENT_BYTES else (), read=read
    )
    found = mapped_ahead(
        lambda place: look(
            place[1],
            is_trained_on=place[0] in needed,
            is_measured=place[1] in measured,
            sampled=TOKENS // len(sampled) if place[1] in sampled else 0,
        ),
        [(split, shard) for split, each in shards.items() for shard in each],
        threads=SHARDS_AT_ONCE,
    )
    seen = {split: [next(found) for _ in each] for split, each in shards.items()}
    train = seen[config.train]
    counts = {
        split: np.sum([one.counts for one in seen[split]], axis=0).tolist() for split in needed
    }
    means = means_of([one.sample for one in train if one.sample], read)
    dataset = replace(dataset, counts=counts, means={config.train: means})
    check_labelled(dataset, config)
    return Survey(
        dataset=dataset,
        shape=_shape(manifest, config, [one.lengths for one in train]),
        clip_seconds=_median([one.seconds for one in train]),
        leaks=find_leaks({split: joined([s.clips for s in each]) for split, each in seen.items()}),
    )


def measure(dataset: Dataset, config: DataConfig) -> Shape:
    """Return the shape that `survey` finds, from the shards alone that it measures.

    Raises:
        DataError: A split or modality is not there, or a shard can't be read.
    """
    read = _read_by(dataset.manifest, config)
    names = [one.name for one in read]
    shards = _first_shards(dataset.split(config.train))
    tables = (read_shard(dataset, shard, names) for shard in shards)
    return _shape(
        dataset.manifest, config, [_lengths(decode_tokens(table, read)) for table in tables]
    )


def _read_by(manifest: Manifest, config: DataConfig) -> list[Modality]:
    """Return the modalities that the model reads."""
    names = config.modalities or [modality.name for modality in manifest.modalities]
    return [manifest.modality(name) for name in names]


def _shape(manifest: Manifest, config: DataConfig, measured: Sequence[np.ndarray]) -> Shape:
    """Return the shape of a dataset of which some shards' lengths are measured, [rows, M] each."""
    rates = np.array([modality.rate_hz for modality in _read_by(manifest, config)])
    lengths = np.concatenate([np.zeros((0, len(rates)), np.int64), *measured])
    return Shape(
        rows=manifest.rows(config.train),
        labels=len(manifest.vocabulary),
        tokens=round(float(np.median(lengths.max(axis=1)))) if len(lengths) else 0,
        seconds=float((lengths.max(axis=0, initial=0) / rates).max()),
        rate_hz=float(rates.max()),
    )


def _lengths(tokens: Mapping[str, Ragged]) -> np.ndarray:
    """Return how many tokens each row has of each modality, [rows, M]."""
    return np.stack([rows.lengths for rows in tokens.values()], axis=1)


def _first_shards(shards: Sequence[Shard]) -> list[Shard]:
    """Return the shards that hold the rows whose lengths are measured."""
    before = np.cumsum([0, *(shard.rows for shard in shards)])
    return [shard for shard, rows in zip(shards, before) if rows < MEASURED_ROWS]


def _look(
    dataset: Dataset,
    shard: Shard,
    *,
    compared: Sequence[Modality],
    read: Sequence[Modality],
    is_trained_on: bool,
    is_measured: bool,
    sampled: int,
) -> _Seen:
    """Read a shard once.

    Args:
        dataset: The dataset.
        shard: One of its shards.
        compared: The modalities whose contents are compared between splits.
        read: The modalities that the model reads.
        is_trained_on: Whether it is of the training or validation split, whose files are compared
            with their checksums, and whose labels are counted.
        is_measured: Whether its rows' lengths are wanted.
        sampled: The most tokens of each modality that count for the means.
    """
    wanted = {one.name for one in (*compared, *(read if is_measured or sampled else ()))}
    columns = ["id", *(["labels"] if is_trained_on else []), *sorted(wanted)]
    optional = (*VIDEO_COLUMNS, *_TIMES)
    table = read_shard(dataset, shard, columns, optional=optional, verify=is_trained_on)
    tokens = decode_tokens(table, read) if is_measured or sampled else {}
    return _Seen(
        counts=count_labels(dataset, shard, table) if is_trained_on else np.zeros(0, np.int64),
        clips=clips_in(table, compared),
        seconds=_seconds_in(table),
        lengths=_lengths(tokens) if is_measured else np.zeros((0, len(read)), np.int64),
        sample=sample_of(tokens, sampled) if sampled else None,
    )


def clip_seconds(dataset: Dataset, split: str) -> float | None:
    """Return the median length of a split's clips, in seconds; None if the dataset has no times.

    Raises:
        DataError: A shard of the split can't be read.
    """
    tables = (read_shard(dataset, one, ["id"], optional=_TIMES) for one in dataset.split(split))
    return _median([_seconds_in(table) for table in tables])


def _seconds_in(table: pa.Table) -> np.ndarray:
    """Return the length of each clip in seconds; nothing if the rows have no times."""
    there = set(_TIMES) <= set(table.column_names)
    if not there or not all(pa.types.is_floating(table[name].type) for name in _TIMES):
        return np.zeros(0)
    starts, ends = (table[name].to_numpy() for name in _TIMES)
    return (ends - starts).astype(np.float64)


def _median(lengths: Sequence[np.ndarray]) -> float | None:
    known = np.concatenate([np.zeros(0), *lengths])
    known = known[known > 0]  # not where a time is missing
    return max(0.01, round(float(np.median(known)), 2)) if len(known) else None
