"""Measures a bundle on a split: all metrics by name, and the tables of `raymc evaluate`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from rich.table import Table

from raymc.data.shards import Dataset
from raymc.evaluation.outcomes import given_and_true
from raymc.evaluation.scored import ScoredSplit
from raymc.evaluation.scoring import stored_scores
from raymc.events import Count, unheard
from raymc.metrics.calibration import expected_calibration_error
from raymc.metrics.families import FamilyScores, family_means, family_scores
from raymc.metrics.metrics import Scores, evaluate_scores
from raymc.metrics.text import percent
from raymc.terminal import plain
from raymc.training.bundle import Bundle

CLASSES_SHOWN, GROUPS_SHOWN = 12, 32
_TITLES = {
    "precision": "precision of labels given",
    "recall": "recall of labels given",
    "thresholds": "classes with a threshold",
}


@dataclass(frozen=True)
class Evaluation:
    """A bundle's scores of a split and their metrics, also by label group and parent."""

    bundle: Bundle
    scored: ScoredSplit
    scores: Scores
    families: Mapping[str, FamilyScores]


def evaluate(
    bundle: Bundle,
    dataset: Dataset,
    split: str,
    *,
    device: str = "auto",
    on_rows: Count = unheard,
) -> Evaluation:
    """Score a split with a bundle and measure it against the split's labels.

    Raises:
        BundleError: the bundle doesn't match the dataset, or can no longer be read.
        DataError: there is no such split, or a shard can't be read.
    """
    scored = stored_scores(bundle, dataset, split, device=device, on_rows=on_rows)
    judged = (scored.scores, scored.labels, scored.observed)
    families = family_scores(*judged, bundle.vocabulary)
    return Evaluation(bundle, scored, evaluate_scores(*judged), families)


def numbers_of(evaluation: Evaluation) -> dict[str, float]:
    """Return all of the split's metrics by name: those of all classes, and `METRIC/GROUP`.

    `precision` and `recall` are those of the labels given at the bundle's thresholds, over all
    classes together; `thresholds` is the share of classes that have one. `ECE` is included if
    the bundle is calibrated.
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
    given, true = given_and_true(bundle, scored)
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
    title = f"{evaluation.scored.split}: {len(evaluation.scored.ids):,} rows"
    table = Table(title=plain(title))
    table.add_column("metric or class", overflow="fold")
    table.add_column("value", justify="right")
    table.add_column("rows with it", justify="right")
    for name, value in _overall_numbers(evaluation).items():
        text = f"{value:.3f}" if name == "coverage" else percent(value)
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
        support = str(evaluation.scores.support[c])
        table.add_row(plain(f"AP {names[c]}"), percent(float(per_class[c])), support)
    return table


def group_table(evaluation: Evaluation) -> Table | None:
    """Return the metrics by label group and parent as a table; None if there are none."""
    found, families = evaluation.families, evaluation.bundle.vocabulary.families()
    if not found:
        return None
    table = Table(title=plain(f"{evaluation.scored.split}, by group, in percent"))
    table.add_column("group", overflow="fold")
    for title in ("classes", "mAP", "R80", "micro_AP", "AP of any label"):
        table.add_column(title, justify="right")
    for family, values in list(found.items())[:GROUPS_SHOWN]:
        cells = [f"{100 * value:.1f}" for value in asdict(values).values()]
        table.add_row(plain(family), str(len(families[family])), *cells)
    if len(found) > GROUPS_SHOWN:
        table.add_row(f"… {len(found) - GROUPS_SHOWN} more")
    return table
