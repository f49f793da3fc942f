"""Divides labelled videos into train, val and test.

All clips of a video go to one split, because clips of one video are alike: scores on them would
be too high. Labels are balanced by iterative stratification (Sechidis, Tsoumakas and Vlahavas:
On the Stratification of Multi-Label Data, ECML PKDD 2011).
"""

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Bool, Int64

SPLITS = ("train", "val", "test")
SHARES = (0.7, 0.15, 0.15)
FEWEST_VIDEOS = 3  # one for each split


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
