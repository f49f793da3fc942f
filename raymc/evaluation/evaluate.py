"""How good a bundle is on a split it was not trained on. Ray layer."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.table import Table

from raymc.data.shards import Dataset
from raymc.evaluation.predict import scored_rows, scores_of
from raymc.evaluation.scored import ScoredSplit, load_scored, save_scored
from raymc.metrics.calibration import expected_calibration_error
from raymc.metrics.families import FamilyScores, family_means, family_scores
from raymc.metrics.metrics import Scores, evaluate_scores
from raymc.runtime.connect import connect
from raymc.training.bundle import Bundle, load_bundle
from raymc.training.runs import run_of

CLASSES_SHOWN, GROUPS_SHOWN = 12, 32
_TITLES = {
    "precision": "precision of labels given",
    "recall": "recall of labels given",
    "thresholds": "classes with a threshold",
}


@dataclass(frozen=True)
class Evaluation:
    """What a bundle said of a split's rows, each once, and how good that is.

    `families` are the metrics of each label group and parent, by its name.
    """

    bundle: Bundle
    scored: ScoredSplit
    scores: Scores
    families: Mapping[str, FamilyScores]


def evaluate(bundle: str, dataset: Dataset, split: str, *, device: str = "auto") -> Evaluation:
    """Score a split with a bundle and measure it against the split's labels.

    Raises:
        BundleError: the bundle can't be read or doesn't match the dataset.
        DataError: there is no such split, or a shard can't be read.
    """
    loaded = load_bundle(bundle)
    scored = stored_scores(loaded, dataset, split, device=device)
    judged = (scored.scores, scored.labels, scored.observed)
    families = family_scores(*judged, loaded.vocabulary)
    return Evaluation(loaded, scored, evaluate_scores(*judged), families)


def stored_scores(
    bundle: Bundle, dataset: Dataset, split: str, *, device: str = "auto", run: Path | None = None
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
        BundleError: the bundle doesn't match the dataset, or can't be read any more.
        DataError: there is no such split, or a shard or the file of scores can't be read.
    """
    bundle.check_dataset(dataset.manifest)
    bundle.check_labels(dataset.manifest)
    run = run or run_of(bundle.folder)
    of = f"{split}-{dataset.manifest.digest()[:16]}-{bundle.weights_digest[:16]}"
    file = run / "scores" / f"{of}.parquet" if run else None
    if file is not None and file.exists():
        return load_scored(file)
    connect()
    tables = scored_rows(str(bundle.folder), dataset, split, device=device)
    scored = _scored(bundle, dataset, split, tables)
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


def numbers_of(evaluation: Evaluation) -> dict[str, float]:
    """Return all of the split's metrics by name: those of all classes, and `METRIC/GROUP`.

    `precision` and `recall` are of the labels given at the bundle's thresholds, all classes as
    one, and `thresholds` is the share of classes with one. `ECE` is there if the bundle has
    probabilities.
    """
    numbers = _overall_numbers(evaluation)
    for family, found in evaluation.families.items():
        numbers |= {f"{name}/{family}": value for name, value in asdict(found).items()}
    return numbers


def _overall_numbers(evaluation: Evaluation) -> dict[str, float]:
    bundle, scored = evaluation.bundle, evaluation.scored
    numbers = evaluation.scores.to_dict() | _label_numbers(bundle, scored)
    if bundle.calibration is not None:
        probabilities = bundle.probabilities(scored.scores)
        numbers["ECE"] = expected_calibration_error(probabilities, scored.labels, scored.observed)
    return numbers


def _label_numbers(bundle: Bundle, scored: ScoredSplit) -> dict[str, float]:
    given = (scored.scores >= bundle.thresholds) & scored.observed
    true = scored.labels & scored.observed
    right, nan = (given & true).sum(), float("nan")
    return {
        "precision": float(right / given.sum()) if given.any() else nan,
        "recall": float(right / true.sum()) if true.any() else nan,
        "thresholds": float(np.isfinite(bundle.thresholds).mean()),
    }


def group_means(evaluation: Evaluation) -> dict[str, float]:
    """Return the mean AP over the classes of each label group and parent, by its name."""
    return family_means(evaluation.scores.per_class_AP, evaluation.bundle.vocabulary)


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return the split's metrics, and its weakest and strongest classes, as a table."""
    table = Table(title=f"{evaluation.scored.split}: {len(evaluation.scored.ids):,} rows")
    table.add_column("metric or class")
    table.add_column("value", justify="right")
    table.add_column("rows with it", justify="right")
    for name, value in _overall_numbers(evaluation).items():
        text = f"{value:.3f}" if name == "coverage" else f"{100 * value:.1f} %"
        table.add_row(_TITLES.get(name, name), text, "")
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


def group_table(evaluation: Evaluation) -> Table | None:
    """Return the metrics by label group and parent as a table; None where there is neither."""
    found, families = evaluation.families, evaluation.bundle.vocabulary.families()
    if not found:
        return None
    table = Table("group", title=f"{evaluation.scored.split}, by group, in percent")
    for title in ("classes", "mAP", "R80", "micro_AP", "AP of any label"):
        table.add_column(title, justify="right")
    for family, values in list(found.items())[:GROUPS_SHOWN]:
        cells = [f"{100 * value:.1f}" for value in asdict(values).values()]
        table.add_row(family, str(len(families[family])), *cells)
    if len(found) > GROUPS_SHOWN:
        table.add_row(f"… {len(found) - GROUPS_SHOWN} more")
    return table
