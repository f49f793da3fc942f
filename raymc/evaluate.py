"""How good a bundle is on a split it was not trained on. Ray layer."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.table import Table

from raymc.bundle import Bundle, load_bundle
from raymc.cluster import connect
from raymc.metrics import Scores, evaluate_scores
from raymc.predict import scored_rows, scores_of
from raymc.runs import run_of
from raymc.scored import ScoredSplit, load_scored, save_scored
from raymc.shards import Dataset

CLASSES_SHOWN = 12


@dataclass(frozen=True)
class Evaluation:
    """What a bundle said of a split's rows, each once, and how good that is."""

    bundle: Bundle
    scored: ScoredSplit
    scores: Scores


def evaluate(bundle: str, dataset: Dataset, split: str, *, device: str = "auto") -> Evaluation:
    """Score a split with a bundle and measure it against the split's labels.

    Raises:
        BundleError: the bundle can't be read or doesn't match the dataset.
        DataError: there is no such split, or a shard can't be read.
    """
    scored = stored_scores(Path(bundle), dataset, split, device=device)
    measured = evaluate_scores(scored.scores, scored.labels, scored.observed)
    return Evaluation(load_bundle(bundle), scored, measured)


def stored_scores(
    bundle: Path, dataset: Dataset, split: str, *, device: str = "auto", run: Path | None = None
) -> ScoredSplit:
    """Return what a bundle says of a split's rows; of a run's bundle that is computed once.

    The scores of a run's bundle are kept in its folder, in a file named by the split and by the
    digests of dataset and weights. Ray is joined or started only if they have to be computed.

    Args:
        bundle: whose scores.
        dataset: that the split is of.
        split: its name.
        device: `auto`, `cpu` or `gpu`.
        run: folder of the run that keeps them; None for the bundle's own.

    Raises:
        BundleError: the bundle can't be read or doesn't match the dataset.
        DataError: there is no such split, or a shard or the file of scores can't be read.
    """
    loaded = load_bundle(bundle)
    loaded.check_dataset(dataset.manifest)
    loaded.check_labels(dataset.manifest)
    run = run or run_of(bundle)
    of = f"{split}-{dataset.manifest.digest()[:16]}-{loaded.weights_digest[:16]}"
    file = run / "scores" / f"{of}.parquet" if run else None
    if file is not None and file.exists():
        return load_scored(file)
    connect()
    tables = scored_rows(str(bundle), dataset, split, device=device)
    scored = _scored(loaded, dataset, split, tables)
    if file is not None:
        with suppress(OSError):  # the run may be another's, to be read only
            save_scored(scored, file)
    return scored


def _scored(
    bundle: Bundle, dataset: Dataset, split: str, tables: Iterable[pa.Table]
) -> ScoredSplit:
    """Put the scored tables of a split together, labels encoded."""
    ids, scores, labels, observed = [], [], [], []
    for table in tables:
        ids += table["id"].to_pylist()
        scores.append(scores_of(table))
        names = [row or [] for row in table["labels"].to_pylist()]
        labels.append(bundle.vocabulary.encode(names))
        groups = table["observed"].to_pylist() if "observed" in table.column_names else None
        observed.append(bundle.vocabulary.encode_observed(groups or [None] * len(table)))
    return ScoredSplit(
        ids=tuple(ids),
        scores=np.concatenate(scores),
        labels=np.concatenate(labels),
        observed=np.concatenate(observed),
        vocabulary=bundle.vocabulary,
        split=split,
        dataset_digest=dataset.manifest.digest(),
    )


def group_means(evaluation: Evaluation) -> dict[str, float]:
    """Return the mean AP over the classes of each label group, by the group's name."""
    vocabulary, per_class = evaluation.bundle.vocabulary, evaluation.scores.per_class_AP
    return {
        group: float(np.nanmean([per_class[vocabulary.index(name)] for name in names]))
        for group, names in vocabulary.groups.items()
    }


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return the split's metrics, and its weakest and strongest classes, as a table."""
    table = Table(title=f"{evaluation.scored.split}: {len(evaluation.scored.ids):,} rows")
    table.add_column("metric or class")
    table.add_column("value", justify="right")
    table.add_column("rows with it", justify="right")
    for name, value in evaluation.scores.to_dict().items():
        table.add_row(name, f"{value:.3f}" if name == "coverage" else f"{100 * value:.1f} %", "")
    for group, value in group_means(evaluation).items():
        table.add_row(f"mAP of {group}", f"{100 * value:.1f} %", "")
    table.add_section()
    names, per_class = evaluation.bundle.vocabulary.names, evaluation.scores.per_class_AP
    order = np.argsort(-np.nan_to_num(per_class, nan=-1.0), kind="stable")
    order = [c for c in order if not np.isnan(per_class[c])]
    half = CLASSES_SHOWN // 2
    shown = order if len(order) <= CLASSES_SHOWN else [*order[:half], *order[-half:]]
    for place, c in enumerate(shown):
        if place == half and len(order) > CLASSES_SHOWN:
            table.add_row(f"… {len(order) - CLASSES_SHOWN} more", "", "")
        table.add_row(
            f"AP {names[c]}", f"{100 * per_class[c]:.1f} %", str(evaluation.scores.support[c])
        )
    return table
