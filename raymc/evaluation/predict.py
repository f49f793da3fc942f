"""Labels, scores and probabilities for the clips of a dataset, or of videos, written to a file.

Predictions are kept in parts beside the output until all are there. A command that was
interrupted resumes after the last whole part; the parts say what they belong to. For a folder
without a suffix, the parts are the output.
"""

import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import raymc
from raymc.data.shards import Dataset, Shard, is_dataset, open_dataset, read_shard
from raymc.data.shards.tokens import PLACE_COLUMNS
from raymc.data.storage import whole_file, write_text
from raymc.errors import ConfigError, DataError
from raymc.evaluation.media import plan_of, score_media
from raymc.evaluation.prediction_files import Writer, frames_of, writer_to
from raymc.evaluation.scoring import check_threshold, each_shard, scored_columns
from raymc.events import Count, ExtractProgress, unheard
from raymc.features.begun import media_states
from raymc.features.recipe import FEATURES
from raymc.features.sources import check_present, list_sources
from raymc.training.bundle import Bundle

_DONE = b"raymc.done"  # in a part: the number of inputs, such as shards, up to its end
_PARTS_FILE = "_parts.json"  # readers of Parquet folders skip such a name
Steps = Callable[[int], Iterator[tuple[int, pa.Table]]]


@dataclass(frozen=True)
class Predicted:
    """What was written: clips, those with a label, and what could not be read, `path: reason`."""

    clips: int
    labelled: int
    failures: tuple[str, ...] = ()


Listener = Callable[[ExtractProgress], None]


def predict(
    bundle: Bundle,
    source: str,
    out: Path,
    *,
    split: str = "",
    device: str = "auto",
    top: int = 0,
    threshold: float | None = None,
    listener: Listener = unheard,
    on_rows: Count = unheard,
) -> Predicted:
    """Write the predictions of a dataset's split, or of videos; see the functions for each.

    Args:
        bundle: The model.
        source: Address of a dataset, or of videos.
        out: A file or a folder.
        split: Of a dataset; empty: its only one with rows, or `test`.
        device: `auto`, `cpu` or `gpu`.
        top: In a file, the number of most probable labels, in place of a column for each.
        threshold: The probability from which a label is given; None: the bundle's thresholds.
        listener: Called with the progress through videos.
        on_rows: Called with the progress through the rows of a dataset.

    Raises:
        ConfigError: A split is named, and there is no dataset, or a threshold, and the bundle gives
            no probabilities; and as for each.
    """
    check_threshold(bundle, threshold)
    given: dict[str, Any] = {"device": device, "top": top, "threshold": threshold}
    if is_dataset(source):
        dataset = open_dataset(source)
        splits = [name for name in dataset.manifest.splits if dataset.manifest.rows(name)]
        split = split or (splits[0] if len(splits) == 1 else "test")
        return predict_split(bundle, dataset, split, out, **given, on_rows=on_rows)
    if split:
        raise ConfigError(f"{source} is no dataset, so it has no split {split!r}: leave it out")
    return predict_media(bundle, source, out, **given, listener=listener)


def predict_split(
    bundle: Bundle,
    dataset: Dataset,
    split: str,
    out: Path,
    *,
    device: str = "auto",
    top: int = 0,
    threshold: float | None = None,
    on_rows: Count = unheard,
) -> Predicted:
    """Write a split's predictions, in the split's order.

    Args:
        bundle: The model.
        dataset: Its features.
        split: Which of its splits.
        out: A file whose suffix says its kind (`prediction_files.py`), or a folder of Parquet
            files, one for each shard: `part-00000.parquet` and so on, with the columns `id`,
            `labels` (those whose score reaches their threshold), for every class `score.LABEL`
            and, if the bundle is calibrated, `probability.LABEL`. It appears whole or not at all.
        device: `auto`, `cpu` or `gpu`.
        top: In a file, the number of most probable labels, in place of a column for each.
        threshold: As for `predict`.
        on_rows: Called with the number of rows that are done, and of all.

    Raises:
        BundleError: The bundle doesn't match the dataset, or can no longer be read.
        ConfigError: The suffix of `out` is unknown.
        DataError: `out` already exists or can't be written, or a shard can't be read, or is not the
            one that was written.
    """
    writer = writer_to(out)
    bundle.check_dataset(dataset.manifest)

    def steps(first: int) -> Iterator[tuple[int, pa.Table]]:
        given: dict[str, Any] = {"device": device, "first": first, "on_rows": on_rows}
        work = functools.partial(_predicted, threshold=threshold)
        tables = each_shard(bundle, dataset, split, work, **given)
        return enumerate(tables, start=first + 1)

    source = {"dataset": dataset.manifest.digest(), "split": split, "threshold": threshold}
    return _write(out, writer, bundle, source, steps, top=top)


def predict_media(
    bundle: Bundle,
    address: str,
    out: Path,
    *,
    device: str = "auto",
    top: int = 0,
    threshold: float | None = None,
    listener: Listener = unheard,
) -> Predicted:
    """Write the predictions of videos, in their order; features are made as the bundle's were.

    Args:
        bundle: The model.
        address: A video, a folder, a glob or a table, as `list_sources` reads them.
        out: As for `predict_split`. There are also `path`, `start_seconds`, `end_seconds` and
            `error`: a file or a part of it that can't be read has a row with an error and without
            labels.
        device: `auto`, `cpu` or `gpu`.
        top: As for `predict_split`.
        threshold: As for `predict`.
        listener: Called with the progress after each file.

    Raises:
        BundleError: The bundle doesn't say how its features were made, or they can't be made here.
        ConfigError: The suffix of `out` is unknown.
        DataError: The media can't be listed, or `out` already exists or can't be written.
        ResourceError: Weights, a package or a GPU are missing.
    """
    writer = writer_to(out)
    sources = list_sources(address)
    check_present(sources)
    plan = plan_of(bundle, device=device)
    told = [
        [asdict(one) for one in sources],
        media_states(sources, plan),
        dict(plan.weights),
        FEATURES,
    ]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()

    def steps(first: int) -> Iterator[tuple[int, pa.Table]]:
        given: dict[str, Any] = {"first": first, "threshold": threshold, "listener": listener}
        return score_media(bundle, sources, plan, **given)

    source = {"media": digest, "threshold": threshold}
    return _write(out, writer, bundle, source, steps, top=top)


def _write(
    out: Path,
    writer: Writer | None,
    bundle: Bundle,
    source: Mapping[str, str | float | None],
    steps: Steps,
    *,
    top: int,
) -> Predicted:
    belongs_to = {**source, "bundle": bundle.digest, "raymc": raymc.__version__}
    folder = out.absolute().with_name(f".{out.name}.parts")
    try:
        first, parts = _parts(folder, belongs_to)
        for done, table in steps(first):
            part = folder / f"part-{len(parts):05d}.parquet"
            with whole_file(part) as partial:
                known = table.schema.metadata or {}
                pq.write_table(table.replace_schema_metadata({**known, _DONE: str(done)}), partial)
            parts.append(part)
        summary = _summary(parts)
        if writer is None:
            folder.rename(out)
            (out / _PARTS_FILE).unlink()
        else:
            with whole_file(out) as partial:
                writer(frames_of(parts, top=top), partial)
            shutil.rmtree(folder)
    except OSError as error:
        raise DataError(f"{out} can't be written: {error.strerror or error}") from error
    return summary


def _parts(folder: Path, belongs_to: Mapping[str, str | float | None]) -> tuple[int, list[Path]]:
    """Return how many inputs an interrupted command was done with, and its parts.

    Parts of anything else are replaced: they are not an output yet.
    """
    try:
        known: Any = json.loads((folder / _PARTS_FILE).read_text())
    except (OSError, ValueError):
        known = None
    if known != belongs_to:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_text(folder / _PARTS_FILE, json.dumps(belongs_to))
    parts = sorted(folder.glob("part-*.parquet"))
    done = int(pq.read_schema(parts[-1]).metadata[_DONE]) if parts else 0
    return done, parts


def _summary(parts: Sequence[Path]) -> Predicted:
    clips, labelled, failures = 0, 0, []
    for part in parts:
        file = pq.ParquetFile(part)
        known = {"labels", "path", "error"} & {*file.schema_arrow.names}
        for row in file.read(columns=[*known]).to_pylist():
            clips += row["labels"] is not None
            labelled += bool(row["labels"])
            failures += [f"{row['path']}: {row['error']}"] if row.get("error") else []
    return Predicted(clips, labelled, tuple(failures))


def _predicted(bundle: Bundle, dataset: Dataset, shard: Shard, threshold: float | None) -> pa.Table:
    columns = ["id", *bundle.columns_in(dataset.manifest)]
    table = read_shard(dataset, shard, columns, optional=PLACE_COLUMNS, verify=True)
    known = [name for name in ("id", *PLACE_COLUMNS) if name in table.column_names]
    return pa.table(
        {name: table[name] for name in known} | scored_columns(bundle, table, threshold)
    )
