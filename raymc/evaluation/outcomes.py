"""What a bundle's labels are worth on a split: found, missed, given wrongly, or never given."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raymc.errors import counted
from raymc.evaluation.scored import ScoredSplit
from raymc.metrics.thresholds import thresholds_at_precision
from raymc.training.bundle import Bundle

LABELS_SHOWN = 12


@dataclass(frozen=True)
class Outcome:
    """What became of one label.

    Attributes:
        label: Its name.
        clips: Clips that have it, of those in which it was annotated.
        found: Clips of these that the bundle gives it to.
        false_alarms: Other annotated clips that the bundle gives it to.
        reason: Why it has no threshold and is never given; empty if it has one.
    """

    label: str
    clips: int
    found: int
    false_alarms: int
    reason: str


def given_and_true(bundle: Bundle, scored: ScoredSplit) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels that a bundle gives and those that rows have, where known, [N, C] bool."""
    given = scored.scores >= bundle.thresholds
    return given & scored.observed, scored.labels & scored.observed


def label_outcomes(bundle: Bundle, scored: ScoredSplit) -> list[Outcome]:
    """Return what becomes of each class on a split; reasons speak of it as the validation split."""
    given, true = given_and_true(bundle, scored)
    reasons = _reasons(bundle, scored)
    clips, found, alarms = true.sum(0), (true & given).sum(0), (given & ~true).sum(0)
    return [
        Outcome(name, int(clips[c]), int(found[c]), int(alarms[c]), reasons[c])
        for c, name in enumerate(bundle.vocabulary.names)
    ]


def _reasons(bundle: Bundle, scored: ScoredSplit) -> list[str]:
    judged = (scored.scores, scored.labels, scored.observed)
    target = bundle.config.train.target_precision
    unguarded = np.isfinite(thresholds_at_precision(*judged, precision=target))
    clips, wanted = (scored.labels & scored.observed).sum(0), f"{100 * target:g} % precision"
    reasons = []
    for threshold, count, is_reached in zip(bundle.thresholds, clips, unguarded, strict=True):
        if np.isfinite(threshold):
            reasons.append("")
        elif not count:
            reasons.append(f"no clip of {scored.split} has it")
        elif is_reached:
            reasons.append(f"{count} in {scored.split}, too few to be sure of {wanted}")
        else:
            reasons.append(f"its scores never reach {wanted}")
    return reasons


def without_threshold(count: int) -> str:
    """Say how many labels have no threshold, and why; a sentence goes on with what follows."""
    have = "labels have" if count > 1 else "label has"
    return f"{count:,} {have} no threshold, because none is reliable on the validation clips"


def outcome_lines(outcomes: Sequence[Outcome], split: str) -> list[str]:
    """Return sentences about the outcomes, the most frequent labels first."""
    shown = sorted(outcomes, key=lambda outcome: -outcome.clips)
    given = [outcome for outcome in shown if not outcome.reason]
    withheld = [outcome for outcome in shown if outcome.reason]
    lines = []
    if given:
        lines.append(f"on {split}, at the thresholds chosen there, the model found:")
    for one in given[:LABELS_SHOWN]:
        alarms = counted(one.false_alarms, "false alarm")
        lines.append(f"  {one.found} of {one.clips} {one.label!r}, {alarms}")
    if len(given) > LABELS_SHOWN:
        lines.append(f"  … and {len(given) - LABELS_SHOWN} more labels")
    if withheld:
        lines.append("never given, because they have no threshold (probabilities are written):")
    for one in withheld[:LABELS_SHOWN]:
        lines.append(f"  {one.label!r}: {one.reason}")
    if len(withheld) > LABELS_SHOWN:
        lines.append(f"  … and {len(withheld) - LABELS_SHOWN} more labels")
    return lines
