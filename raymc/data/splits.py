"""Divides labelled videos into train, val and test, before extraction or in a finished dataset.

All clips of a video go to one split, because clips of one video are alike: scores on them would
be too high. Labels are balanced by iterative stratification (Sechidis, Tsoumakas and Vlahavas:
On the Stratification of Multi-Label Data, ECML PKDD 2011).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int64

from raymc.data import storage
from raymc.data.leaks import video_column, videos_in
from raymc.data.shards import Dataset, Manifest, Shard, open_dataset, write_manifest
from raymc.data.shards.manifest import MANIFEST_FILE
from raymc.data.shards.read import read_json
from raymc.data.shards.rows import write_table
from raymc.errors import DataError

SPLITS = ("train", "val", "test")
SHARES = (0.7, 0.15, 0.15)
FEWEST_VIDEOS = 3  # one for each split
_JOURNAL = ".split.json"  # exists while the shards of a dataset are being replaced


def draw_splits(
    labels: Sequence[Collection[str]], videos: Sequence[str], *, seed: int = 0
) -> list[str]:
    """Draw the split of each clip.

    A label that at least three videos have is in every split if any exchange of videos allows it.

    Args:
        labels: Of each clip.
        videos: What names each clip's video.
        seed: Of the draw; the same clips in the same order get the same splits.

    Returns:
        `train`, `val` or `test` for each clip; `train` for all if there are fewer than three
        videos.
    """
    numbers = {video: number for number, video in enumerate(dict.fromkeys(videos))}
    if len(numbers) < FEWEST_VIDEOS:
        return [SPLITS[0]] * len(videos)
    names = {name: k for k, name in enumerate(sorted({n for row in labels for n in row}))}
    carried = np.zeros((len(numbers), len(names)), dtype=bool)
    for row, video in zip(labels, videos):
        carried[numbers[video], [names[name] for name in row]] = True
    drawn = _stratified(carried, seed)
    _fill(drawn, carried)
    return [SPLITS[drawn[numbers[video]]] for video in videos]


def lone_labels(labels: Sequence[Collection[str]], splits: Sequence[str]) -> list[str]:
    """Return the labels that one of the splits lacks, the rarest first."""
    counts = Counter(name for row in labels for name in row)
    present = {(name, split) for row, split in zip(labels, splits) for name in row}
    every = set(splits)
    lone = [name for name in counts if any((name, split) not in present for split in every)]
    return sorted(lone, key=lambda name: (counts[name], name))


def _stratified(carried: Bool[np.ndarray, "V C"], seed: int) -> Int64[np.ndarray, " V"]:
    # scikit-learn has stratification for one label a row only
    from iterstrat.ml_stratifiers import IterativeStratification

    random = np.random.RandomState(seed % 2**32)
    return IterativeStratification(carried, np.array(SHARES), random).astype(np.int64)


def _fill(drawn: Int64[np.ndarray, " V"], carried: Bool[np.ndarray, "V C"]) -> None:
    """Move or exchange videos until no split lacks a label, or a video, that it could have.

    The draw balances numbers, and so may leave a rare label out of a split.
    """
    rarest = np.argsort(carried.sum(axis=0), kind="stable")
    for label in rarest[carried.sum(axis=0)[rarest] >= FEWEST_VIDEOS].tolist():
        for split in range(len(SPLITS)):
            if not carried[drawn == split, label].any():
                _bring(drawn, carried, label, split)
    for split in range(len(SPLITS)):
        if not (drawn == split).any():
            largest = np.bincount(drawn, minlength=len(SPLITS)).argmax()
            drawn[np.flatnonzero(drawn == largest)[-1]] = split


def _bring(
    drawn: Int64[np.ndarray, " V"], carried: Bool[np.ndarray, "V C"], label: int, split: int
) -> None:
    """Move a video with a label to a split, from where none of its labels is then missing."""
    held = np.stack([carried[drawn == s].sum(axis=0) for s in range(len(SPLITS))])
    lacking = held == 0
    sizes = np.bincount(drawn, minlength=len(SPLITS))
    best = (0, 0, 0)
    for video in np.flatnonzero(carried[:, label] & (drawn != split)).tolist():
        lost = int((carried[video] & (held[drawn[video]] == 1)).sum())
        gained = int((carried[video] & lacking[split]).sum())
        best = max(best, (gained - lost, int(sizes[drawn[video]]), video))
    if best[0] > 0:
        drawn[best[2]] = split


def split_dataset(path: str, *, seed: int = 0, by: str = "", again: bool = False) -> Manifest:
    """Draw the splits of a finished dataset, in place; its rows stay the same.

    The new shards are written first, then `dataset.json`, and the old shards are deleted last. So
    the dataset is whole at any time, and an interrupted call is completed by the same call.

    Args:
        path: Folder of the dataset.
        seed: Of the draw.
        by: Column whose rows of equal value stay together; empty: the video.
        again: Draw also if the dataset has several splits already.

    Returns:
        The new manifest. It is another dataset: its digest is another one.

    Raises:
        DataError: The dataset can't be read or written, has splits already, has no such column, or
            has too few videos.
    """
    filesystem, root = storage.open_address(path)
    if (finished := _completed(path, seed, by)) is not None:
        return finished
    dataset = open_dataset(path)
    manifest = dataset.manifest
    with storage.reaching(path):
        if not storage.exists(filesystem, f"{root}/{MANIFEST_FILE}"):
            raise DataError(f"{path} has no {MANIFEST_FILE}; give a dataset that raymc has made")
    names = [name for name in manifest.splits if manifest.rows(name)]
    if len(names) > 1 and not again:
        raise DataError(f"{path} has the splits {', '.join(names)}; add --again to draw others")
    old = [shard for shards in manifest.splits.values() for shard in shards]
    labels, units = _clips(dataset, old, by)
    if len(set(units)) < FEWEST_VIDEOS:
        what = f"values of {by}" if by else "videos"
        raise DataError(
            f"{path} has {len(set(units))} {what}; a draw needs {FEWEST_VIDEOS}, as all clips of "
            "one go to one split"
        )
    drawn = draw_splits(labels, units, seed=seed)
    told = f"splits: drawn by {by or 'video'}, balanced by label (seed {seed})"
    notes = [n for n in manifest.provenance.get("notes", ()) if not n.startswith("splits:")]
    text = f"{manifest.digest()} {seed} {by}"
    shards = _rewritten(dataset, old, drawn, hashlib.sha256(text.encode()).hexdigest()[:8])
    new = replace(
        manifest, splits=shards, provenance={**manifest.provenance, "notes": [*notes, told]}
    )
    journal = {"seed": seed, "by": by, "old": [shard.file for shard in old], "new": new.digest()}
    with storage.reaching(path):
        storage.write_bytes(filesystem, f"{root}/{_JOURNAL}", json.dumps(journal).encode())
    write_manifest(filesystem, root, new)
    _completed(path, seed, by)
    return new


def _completed(path: str, seed: int, by: str) -> Manifest | None:
    """Delete the shards that an interrupted or finished call has replaced, if there is one.

    Returns the manifest if that call was the same; None if it had not yet replaced the manifest.
    """
    filesystem, root = storage.open_address(path)
    with storage.reaching(path):
        if not storage.exists(filesystem, f"{root}/{_JOURNAL}"):
            return None
        journal = read_json(filesystem, f"{root}/{_JOURNAL}")
        manifest = open_dataset(path).manifest
        is_replaced = manifest.digest() == journal["new"]
        for file in journal["old"] if is_replaced else ():
            if storage.exists(filesystem, f"{root}/{file}"):
                filesystem.delete_file(f"{root}/{file}")
        storage.delete_partials(filesystem, root)
        filesystem.delete_file(f"{root}/{_JOURNAL}")
    is_same = (journal["seed"], journal["by"]) == (seed, by)
    return manifest if is_replaced and is_same else None


def _clips(dataset: Dataset, shards: Sequence[Shard], by: str) -> tuple[list[list[str]], list[str]]:
    """Return the labels of each row, and what it must not be parted from."""
    labels: list[list[str]] = []
    units: list[str] = []
    for shard in shards:
        with storage.reaching(shard.file):
            file = dataset.filesystem.open_input_file(f"{dataset.path}/{shard.file}")
        with file, pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            if by and by not in names:
                raise DataError(f"{dataset.path}: no column '{by}'; there are {', '.join(names)}")
            column = by or video_column(parquet.schema_arrow)
            table = parquet.read(columns=["id", "labels", *([column] if column else [])])
        if by:
            units += map(str, table[by].to_pylist())
        else:
            ids = table["id"].to_pylist()
            units += [video or name for name, video in zip(ids, videos_in(table))]
        labels += [row or [] for row in table["labels"].to_pylist()]
    return labels, units


def _rewritten(
    dataset: Dataset, shards: Sequence[Shard], drawn: Sequence[str], tag: str
) -> dict[str, tuple[Shard, ...]]:
    """Write the rows into shards of their new splits; at most a shard of each is in memory."""
    most = max(shard.rows for shard in shards)
    waiting: dict[str, list[pa.Table]] = {split: [] for split in SPLITS}
    written: dict[str, list[Shard]] = {split: [] for split in SPLITS}

    def write(split: str) -> None:
        rows = pa.concat_tables(waiting[split])
        file = f"{split}/{tag}-{len(written[split]):05d}.parquet"
        found = write_table(
            dataset.filesystem, f"{dataset.path}/{file}", rows.slice(0, most).combine_chunks()
        )
        written[split].append(Shard(file, *found))
        waiting[split] = [rows.slice(most)]

    first = 0
    for shard, table in _whole(dataset, shards):
        here = np.array(drawn[first : first + shard.rows])
        first += shard.rows
        for split in SPLITS:
            waiting[split].append(table.take(np.flatnonzero(here == split)))
            if sum(map(len, waiting[split])) >= most:
                write(split)
    for split in SPLITS:
        if sum(map(len, waiting[split])):
            write(split)
    return {split: tuple(found) for split, found in written.items()}


def _whole(dataset: Dataset, shards: Sequence[Shard]) -> Iterator[tuple[Shard, pa.Table]]:
    """Yield the rows of shards, whose checksums are compared first: damage must not be copied."""
    for shard in shards:
        path = f"{dataset.path}/{shard.file}"
        with storage.reaching(path):
            data = storage.read_bytes(dataset.filesystem, path)
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            raise DataError(f"{path} is not the file that was written; restore it")
        yield shard, pq.read_table(pa.BufferReader(data))
