"""The report's sections about the winner's classes: metrics, curves, similarities and errors.

Axes: N rows, C classes, E embedding dim.
"""

import math

import numpy as np
from jaxtyping import Float

from raymc.evaluation.scored import ScoredSplit
from raymc.metrics.metrics import Scores, evaluate_scores
from raymc.metrics.text import percent
from raymc.report import class_figures as draw
from raymc.report.classes import (
    Miss,
    agreement,
    cosine_similarities,
    label_correlations,
    precision_recall,
    worst_errors,
)
from raymc.report.embeddings import prototypes_of, to_plane
from raymc.report.page import Figure, Note, Part, Section, Table, number, text
from raymc.training.bundle import Bundle

MOST_ROWS = 200  # of a table of classes
MOST_ERRORS = 40  # classes in the table of errors
MAPPED_ROWS = 1000  # clips in the plane: t-SNE takes seconds for them


def class_sections(
    bundle: Bundle,
    scored: ScoredSplit,
    embeddings: Float[np.ndarray, "some E"],
    *,
    default: ScoredSplit | None = None,
) -> list[Section]:
    """Return the sections about the winner's classes.

    `embeddings` are those of the split's first rows; `default` is the split as the default
    settings' model scored it.
    """
    measured = evaluate_scores(scored.scores, scored.labels, scored.observed)
    return [
        Section("classes", "Classes", _table(bundle, scored, measured, default)),
        Section("curves", "Precision and recall", _curves(scored, measured)),
        Section("prototypes", "Prototypes and labels", _prototypes(bundle, scored, measured)),
        Section("map", "Map of the embeddings", _map(bundle, scored, embeddings)),
        Section("errors", "Worst errors", _errors(bundle, scored, measured)),
    ]


def _table(
    bundle: Bundle, scored: ScoredSplit, measured: Scores, default: ScoredSplit | None
) -> list[Part]:
    before = None
    if default is not None:
        before = evaluate_scores(default.scores, default.labels, default.observed).per_class_AP
    order = np.argsort(-measured.support, kind="stable")[:MOST_ROWS]
    rows = []
    for index in order:
        precision = float(measured.per_class_AP[index])
        recall, clips = float(measured.per_class_R80[index]), int(measured.support[index])
        threshold = float(bundle.thresholds[index])
        cells = [
            text(scored.vocabulary.names[index]),
            number(clips, f"{clips:,}"),
            number(precision, percent(precision), bar=None if math.isnan(precision) else precision),
            number(recall, percent(recall)),
            number(threshold, f"{threshold:.3f}" if math.isfinite(threshold) else "never"),
        ]
        if before is not None:
            gain = 100 * (precision - float(before[index]))
            cells.append(number(gain, "–" if math.isnan(gain) else f"{gain:+.1f}"))
        rows.append(cells)
    heads = ["class", "clips", "AP", "R80", "threshold"]
    extra = ""
    if before is not None:
        heads.append("AP − default")
        extra = " The last column is what the search gained over the default settings, in points."
    few = f" The {MOST_ROWS} most frequent are shown." if len(measured.support) > MOST_ROWS else ""
    caption = (
        "Average precision and recall at 80 % precision of each class, with the clips that have "
        "it; a score from the threshold on gives the label. A class of a few clips may be off by "
        f"many points.{extra}{few}"
    )
    numeric = frozenset(range(1, len(heads)))
    return [Table(caption, heads, rows, numeric)]


def _curves(scored: ScoredSplit, measured: Scores) -> list[Part]:
    order = [c for c in _by_precision(measured) if not np.isnan(measured.per_class_AP[c])]
    if not order:
        return [Note("No class has a clip in this split.")]
    places = np.linspace(0, len(order) - 1, min(draw.MOST_CURVES, len(order))).round().astype(int)
    shown = [order[place] for place in places]
    found = {}
    for index in shown:
        curve = precision_recall(scored, index)
        assert curve is not None
        found[scored.vocabulary.names[index]] = (curve, float(measured.per_class_AP[index]))
    count = len(order)
    which = "All classes" if len(shown) == count else f"{len(shown)} of {count} classes"
    caption = (
        f"{which}, from the weakest to the strongest: how precise the clips found are as more "
        "of the class's clips are found. The dot is R80, the farthest point still above the "
        "dashed 80 % line; without a dot it is never reached."
    )
    return [Figure(draw.curves(found), caption)]


def _by_precision(measured: Scores) -> list[int]:
    return np.argsort(measured.per_class_AP, kind="stable").tolist()


def _prototypes(bundle: Bundle, scored: ScoredSplit, measured: Scores) -> list[Part]:
    names = scored.vocabulary.names
    if len(names) < 2:
        return [Note("There is one class only, so nothing to compare.")]
    prototypes = cosine_similarities(prototypes_of(bundle))
    frequent = np.sort(np.argsort(-measured.support, kind="stable")[: draw.MOST_CLASSES])
    block = np.ix_(frequent, frequent)
    labels = label_correlations(scored.labels[:, frequent], scored.observed[:, frequent])
    shown = "all classes"
    if len(frequent) < len(names):
        shown = f"the {len(frequent)} most frequent of {len(names)} classes"
    related = agreement(prototypes[block], labels)
    found = "" if math.isnan(related) else f" Over all pairs the two correlate by {related:.2f}."
    kind = "prototypes" if bundle.model.head == "cosine" else "weight vectors (the head is linear)"
    caption = (
        f"For {shown}, in the same order down and across: below the diagonal how alike two {kind} "
        "are (cosine), above it how often two labels are on the same clip (correlation; 0 is by "
        "chance, grey unknown), each half in colours up to its own largest value. Dark below only: "
        "classes that the model takes for alike although clips seldom have both; dark above only: "
        f"a link that it has not learnt.{found}"
    )
    picture = draw.similarity_map([names[c] for c in frequent], prototypes[block], labels)
    return [Figure(picture, caption)]


def _map(bundle: Bundle, scored: ScoredSplit, clips: Float[np.ndarray, "some E"]) -> list[Part]:
    labels, prototypes = scored.labels[: len(clips)], prototypes_of(bundle)
    plane, how = to_plane(np.concatenate([clips, prototypes]))
    names = scored.vocabulary.names
    picture = draw.embedding_map(plane[: len(clips)], labels, plane[len(clips) :], names)
    caption = (
        f"{len(clips):,} clips and all prototypes in two dimensions ({how}): neighbours are alike, "
        "but distances across the map and sizes of groups mean nothing. A clip of several of the "
        "coloured classes has the colour of the rarest."
    )
    return [Figure(picture, caption)]


def _errors(bundle: Bundle, scored: ScoredSplit, measured: Scores) -> list[Part]:
    by_class = worst_errors(scored, bundle.thresholds)
    order = [by_class[c] for c in _by_precision(measured)]
    wrong = [one for one in order if one.missed or one.false_alarms]
    if not wrong:
        return [Note("No clip of this split is wrong at the model's thresholds.")]
    rows = []
    for one in wrong[:MOST_ERRORS]:
        missed = ", ".join(f"{miss.id} ({miss.score:.2f})" for miss in one.missed)
        alarms = (f"{miss.id} ({miss.score:.2f}; {_labels(miss)})" for miss in one.false_alarms)
        rows.append([text(one.name), text(missed or "–"), text(", ".join(alarms) or "–")])
    few = f" The {MOST_ERRORS} weakest classes are shown." if len(wrong) > MOST_ERRORS else ""
    caption = (
        "At the model's thresholds, the weakest class first: clips by id that have the label and "
        "score lowest, and clips that score highest without it, with the labels they do have. "
        f"Watch some of them: wrong labels in the data show up here, too.{few}"
    )
    return [Table(caption, ["class", "missed (score)", "given wrongly (score; labels)"], rows)]


def _labels(miss: Miss, most: int = 4) -> str:
    more = f" and {len(miss.labels) - most} more" if len(miss.labels) > most else ""
    return (", ".join(miss.labels[:most]) or "none") + more
