"""What is said of each label after training: counted by hand, and why a label is never given."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from raymc.evaluation.outcomes import LABELS_SHOWN, label_outcomes, outcome_lines
from raymc.evaluation.scored import ScoredSplit
from raymc.training.bundle import load_bundle


def scored_split(bundle_folder: Path) -> ScoredSplit:
    """Ten rows: the first class is found, the others have no threshold, each for its reason."""
    vocabulary = load_bundle(bundle_folder).vocabulary
    labels = np.zeros((10, len(vocabulary)), dtype=bool)
    labels[:4, 0] = True
    labels[0, 1] = True
    labels[[0, 8], 2] = True
    scores = np.tile(np.linspace(0.9, 0.0, 10, dtype=np.float32)[:, None], len(vocabulary))
    scores[:, 2] = -scores[:, 2]
    scores[0, 2] = -1.0
    observed = np.ones_like(labels)
    observed[3, 0] = False
    ids = tuple(map(str, range(10)))
    return ScoredSplit(ids, scores, labels, observed, vocabulary, "val", "")


def test_what_became_of_each_label(tiny_bundle: Path) -> None:
    scored, bundle = scored_split(tiny_bundle), load_bundle(tiny_bundle)
    thresholds = np.full(len(bundle.vocabulary), np.inf)
    thresholds[0] = 0.55
    outcomes = label_outcomes(replace(bundle, thresholds=thresholds), scored)
    first, second, third, *others = outcomes
    assert (first.clips, first.found, first.false_alarms, first.reason) == (3, 3, 0, "")
    assert (second.clips, second.found, second.false_alarms) == (1, 0, 0)
    assert second.reason == "1 in val, too few to be sure of 80 % precision"
    assert third.reason == "its scores never reach 80 % precision"
    assert {one.reason for one in others} <= {"no clip of val has it"}
    thresholds[0] = 0.35
    found = label_outcomes(replace(bundle, thresholds=thresholds), scored)[0]
    assert (found.found, found.false_alarms) == (3, 2)
    lines = outcome_lines([found, *outcomes[1:]], "val")
    assert lines[1] == f"  3 of 3 {first.label!r}, 2 false alarms"
    assert f"  {second.label!r}: {second.reason}" in lines
    many = outcome_lines([found] * (LABELS_SHOWN + 2), "val")
    assert many[-1] == "  … and 2 more labels"
    assert len(many) == LABELS_SHOWN + 2
