"""Checks a whole dataset for anything that would make training fail or mislead.

Every file is read once, a few at a time: its checksum, columns, label names, ids and all tokens,
and what tells whether splits share clips. `find_oddities` looks at labels and texts again, for what
is valid and yet likely a mistake.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64

from raymc.data.labels import Vocabulary, twin_names
from raymc.data.leaks import NO_CLIPS, Clips, clips_in, find_leaks, joined, video_column, videos_in
from raymc.data.shards import (
    FAILURES_FILE,
    Dataset,
    Manifest,
    Modality,
    Shard,
    open_dataset,
    ragged,
)
from raymc.data.shards.ragged import multi_hot, observed_classes, unnest
from raymc.data.shards.read import column_faults
from raymc.data.shards.tokens import LARGEST_VALUE, is_finite
from raymc.data.splits import SPLITS
from raymc.data.storage import parquet_files, reaching
from raymc.errors import DataError, first_line

Fault = tuple[int | None, str]  # row of the shard, if it is about one, and what is wrong


@dataclass(frozen=True)
class Finding:
    """One fault of a dataset; `row` is the row in the shard, from 0; None for the whole file."""

    file: str
    row: int | None
    message: str

    def __str__(self) -> str:
        where = self.file if self.row is None else f"{self.file} row {self.row}"
        return f"{where}: {self.message}"


def check_dataset(path: str) -> tuple[list[Finding], list[str]]:
    """Check a whole dataset: return its faults in the order of the shards, and what splits share.

    The second are the lines of `find_leaks`. A few shards, and what is compared of all clips, are
    in memory at a time. A fault that repeats in a shard is one finding, at its first row. Raises
    `DataError` if the dataset can't be opened or reached.
    """
    dataset = open_dataset(path)
    places = [(split, shard) for split, each in dataset.manifest.splits.items() for shard in each]
    shards = [shard for _, shard in places]
    findings: list[Finding] = []
    seen: dict[str, list[Clips]] = {}
    with ThreadPoolExecutor() as pool:  # hashing and decoding release Python's lock
        for (split, shard), result in zip(places, pool.map(partial(_check_shard, dataset), shards)):
            faults, clips = result
            findings += [Finding(shard.file, row, message) for row, message in faults]
            seen.setdefault(split, []).append(clips)
    ids = [clips.ids for each in seen.values() for clips in each]
    findings += _repeated_ids([shard.file for shard in shards], ids)
    with reaching(path):
        present = set(parquet_files(dataset.filesystem, dataset.path))
    for file in sorted(present - {FAILURES_FILE, *(shard.file for shard in shards)}):
        findings.append(
            Finding(file, None, "is not in dataset.json, so it is never read; move it elsewhere")
        )
    clips = {split: joined(seen[split]) for split in sorted(seen, key=_rank)}
    return findings, find_leaks(clips)


def _rank(split: str) -> int:
    """Return a split's place among the usual ones, after which come all others."""
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)


def find_oddities(path: str) -> list[str]:
    """Return a line for each thing in a dataset that is valid, but likely a mistake.

    There are no labels; a label is in one split or one video only; names are alike; clips have no
    text. Raises `DataError` if the dataset can't be read.
    """
    dataset = open_dataset(path)
    splits: dict[str, Counter[str]] = {}
    videos: dict[str, set[str]] = {}
    rows, textless = 0, 0
    for split, shards in dataset.manifest.splits.items():
        for shard in shards:
            table = _labels_and_texts(dataset, shard)
            ids = table["id"].to_pylist()
            for name, video, labels in zip(ids, videos_in(table), _lists(table)):
                for label in labels:
                    splits.setdefault(label, Counter())[split] += 1
                    videos.setdefault(label, set()).add(video or name)
            rows += len(table)
            if "text" in table.column_names:
                # silence is zeros from the encoder `words`
                textless += sum(not (x or b"").strip(b"\0") for x in table["text"].to_pylist())
    used = [split for split in dataset.manifest.splits if dataset.manifest.rows(split)]
    return [*_label_oddities(splits, videos, used), *_text_oddities(textless, rows)]


def _labels_and_texts(dataset: Dataset, shard: Shard) -> pa.Table:
    has_text = any(modality.name == "text" for modality in dataset.manifest.modalities)
    path = f"{dataset.path}/{shard.file}"
    try:
        with reaching(path), dataset.filesystem.open_input_file(path) as file:
            parquet = pq.ParquetFile(file)
            column = video_column(parquet.schema_arrow)
            asked = ["id", "labels", *([column] if column else []), *(["text"] if has_text else [])]
            return parquet.read(columns=asked)
    except (pa.ArrowException, KeyError) as error:
        raise DataError(f"{path} can't be read ({first_line(error)}); restore it") from error


def _lists(table: pa.Table) -> Iterator[list[str]]:
    for labels in table["labels"].to_pylist():
        yield [labels] if isinstance(labels, str) else labels or []


def _label_oddities(
    splits: Mapping[str, Counter[str]], videos: Mapping[str, set[str]], used: Sequence[str]
) -> Iterator[str]:
    if not splits:
        yield "no row has a label; with such a dataset a model can predict, but not be trained"
        return
    lone = {label: found for label, found in splits.items() if len(found) == 1}
    if len(used) > 1 and lone:
        listed = [f"{label} ({next(iter(found))} {found.total()})" for label, found in lone.items()]
        yield (
            f"{len(lone)} of {len(splits)} labels are in one split only, so they are not learned "
            f"or not measured: {_few(listed)}"
        )
    single = [f"{x} ({splits[x].total()} rows)" for x in videos if len(videos[x]) == 1]
    single = [x for x in single if not x.endswith("(1 rows)")]
    if single:
        yield (
            f"{len(single)} labels have all their rows in one video, so a model may learn the "
            f"video instead: {_few(single)}"
        )
    yield from twin_names(splits)


def _text_oddities(textless: int, rows: int) -> Iterator[str]:
    if textless:
        which = "all" if textless == rows else f"{textless:,} of {rows:,}"
        yield f"{which} rows have no text; are there .vtt or .srt files beside their videos?"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _check_shard(dataset: Dataset, shard: Shard) -> tuple[list[Fault], Clips]:
    faults: list[Fault] = []
    clips = [NO_CLIPS]
    try:
        with dataset.filesystem.open_input_file(f"{dataset.path}/{shard.file}") as file:
            source: Any = file
            if file.size() != shard.bytes:
                faults.append((None, f"has {file.size()} bytes; expected {shard.bytes}"))
            if shard.sha256:
                source = file.read_buffer()
                if hashlib.sha256(source).hexdigest() != shard.sha256:
                    faults.append((None, "is not the file that was written: its SHA-256 differs"))
            parquet = pq.ParquetFile(source, pre_buffer=True)
            column_messages = list(_column_faults(parquet.schema_arrow, dataset.manifest))
            faults += [(None, message) for message in column_messages]
            if parquet.metadata.num_rows != shard.rows:
                rows = parquet.metadata.num_rows
                faults.append((None, f"has {rows} rows; expected {shard.rows}"))
            first_row = 0
            for group in range(0 if column_messages else parquet.num_row_groups):
                table = parquet.read_row_group(group).combine_chunks()
                found = _row_faults(table, dataset.manifest)
                faults += [(row if row is None else row + first_row, text) for row, text in found]
                clips.append(_clips(table, dataset.manifest))
                first_row += len(table)
    except FileNotFoundError:
        faults.append((None, "is missing; restore it"))
    except (pa.ArrowException, OSError) as error:
        reason = first_line(error)
        faults.append((None, f"can't be read ({reason}); restore it or make the dataset again"))
    return faults, joined(clips)


def _clips(table: pa.Table, manifest: Manifest) -> Clips:
    """Return what is compared of a table's rows; without contents where tokens can't be read."""
    try:
        return clips_in(table, manifest.modalities)
    except DataError:
        return clips_in(table, ())


def _column_faults(schema: pa.Schema, manifest: Manifest) -> Iterator[str]:
    groups = ["observed"] if manifest.vocabulary.groups else []
    names = [modality.name for modality in manifest.modalities]
    yield from column_faults(schema, ["id", "labels", *groups, *names])
    for modality in manifest.modalities:
        if modality.name in schema.names:
            try:
                stored = Modality.from_field(schema.field(modality.name))
            except DataError as error:
                yield str(error)
            else:
                if stored not in (None, modality):
                    yield f"column '{modality.name}' is {stored}; dataset.json says {modality}"


def _row_faults(table: pa.Table, manifest: Manifest) -> Iterator[Fault]:
    empty = pc.call_function("equal", [table["id"].fill_null(""), ""])
    yield from _first(np.flatnonzero(empty.to_numpy()), "the id is null or empty")
    vocabulary = manifest.vocabulary
    faults = list(_name_faults(table["labels"], vocabulary.names, "label"))
    if table["labels"].null_count:
        nulls = np.flatnonzero(table["labels"].is_null().to_numpy())
        yield from _first(nulls, "labels is null; expected a list, which may be empty")
    elif vocabulary.groups:
        faults += _name_faults(table["observed"], tuple(vocabulary.groups), "group")
        faults += [] if faults else _unobserved_labels(table, vocabulary)
    yield from faults
    for modality in manifest.modalities:
        yield from _token_faults(table[modality.name], modality)


def _name_faults(column: pa.ChunkedArray, known: Sequence[str], kind: str) -> Iterator[Fault]:
    lengths, names = unnest(column.combine_chunks())
    unknown = set(names.unique().to_pylist()) - set(known)
    if unknown:
        rows = np.repeat(np.arange(len(lengths)), lengths)
        flat = np.array(names.to_pylist(), dtype=object)
        for name in sorted(unknown, key=str):
            yield from _first(rows[flat == name], f"unknown {kind} '{name}'")


def _unobserved_labels(table: pa.Table, vocabulary: Vocabulary) -> Iterator[Fault]:
    labels = multi_hot(table["labels"], vocabulary)
    observed = observed_classes(table["observed"], vocabulary)
    for k in np.flatnonzero((labels & ~observed).any(axis=0)):
        message = f"has label '{vocabulary.names[k]}', but none of its groups in observed"
        yield from _first(np.flatnonzero(labels[:, k] & ~observed[:, k]), message)


def _token_faults(column: pa.ChunkedArray, modality: Modality) -> Iterator[Fault]:
    try:
        tokens = ragged(column, modality)
    except DataError as error:
        yield None, str(error)
        return
    if not is_finite(tokens.values):
        broken = np.flatnonzero(~np.isfinite(tokens.values).all(axis=1))
        rows = np.unique(np.searchsorted(tokens.offsets, broken, side="right") - 1)
        yield from _first(rows, f"modality '{modality.name}' has NaN or infinite values")
    elif tokens.values.dtype == np.float32:
        large = np.flatnonzero((np.abs(tokens.values) > LARGEST_VALUE).any(axis=1))
        rows = np.unique(np.searchsorted(tokens.offsets, large, side="right") - 1)
        reason = f"values beyond {LARGEST_VALUE:g}, whose squares overflow float32"
        yield from _first(rows, f"modality '{modality.name}' has {reason}")


def _first(rows: Int64[np.ndarray, " _"], message: str) -> Iterator[Fault]:
    """Yield one fault for all the rows that have it, if any."""
    if len(rows):
        count = len(np.unique(rows))
        more = f" (and {count - 1} more rows)" if count > 1 else ""
        yield int(rows[0]), message + more


def _repeated_ids(files: Sequence[str], ids: Sequence[pa.Array]) -> Iterator[Finding]:
    """Find ids used by several rows of any split; one finding per pair of files."""
    starts = np.cumsum([0, *(len(part) for part in ids)])
    names = pa.concat_arrays([pa.array([], pa.string()), *ids]).fill_null("")
    codes = names.dictionary_encode().indices.to_numpy()
    _, firsts, inverse = np.unique(codes, return_index=True, return_inverse=True)
    first_use = firsts[inverse]
    repeats = np.flatnonzero(first_use != np.arange(len(codes))).tolist()
    pairs: dict[tuple[int, int], list[int]] = {}
    for at in (at for at in repeats if names[at].as_py()):
        here, there = np.searchsorted(starts, [at, first_use[at]], side="right") - 1
        pairs.setdefault((here, there), []).append(at)
    for (here, there), group in pairs.items():
        at, used = group[0], first_use[group[0]] - starts[there]
        more = f" (and {len(group) - 1} more such ids)" if len(group) > 1 else ""
        message = f"id '{names[at]}' is already used by {files[there]} row {used}{more}"
        yield Finding(files[here], int(at - starts[here]), message)
