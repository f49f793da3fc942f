"""Splits that are drawn: whole videos, balanced labels, and every label in every split."""

from collections import Counter

import numpy as np
import pytest

from raymc.data.splits import SPLITS, draw_splits, lone_labels


def clips(rng: np.random.Generator, videos: int, names: int) -> tuple[list[set[str]], list[str]]:
    """Clips of some videos, with labels of a long tail."""
    chances = 0.5 / np.arange(1, names + 1)
    counts = rng.integers(1, 6, videos)
    of = [f"v{video}" for video, count in enumerate(counts) for _ in range(count)]
    labels = [{f"l{k}" for k in np.flatnonzero(rng.random(names) < chances)} for _ in of]
    return labels, of


@pytest.mark.parametrize("seed", range(6))
def test_a_draw(seed: int) -> None:
    labels, videos = clips(np.random.default_rng(seed), videos=60, names=12)
    splits = draw_splits(labels, videos, seed=seed)
    assert splits == draw_splits(labels, videos, seed=seed)
    assert splits != draw_splits(labels, videos, seed=seed + 1)
    by_video = {video: {s for s, v in zip(splits, videos) if v == video} for video in videos}
    assert all(len(found) == 1 for found in by_video.values())
    sizes = Counter(split for (split,) in by_video.values())
    assert [sizes[split] for split in SPLITS] == pytest.approx([42, 9, 9], abs=4)
    carriers = Counter(n for v in by_video for n in set().union(*_of(v, labels, videos)))
    for name in lone_labels(labels, splits):
        assert carriers[name] < 3, name


def _of(video: str, labels: list[set[str]], videos: list[str]) -> list[set[str]]:
    return [row for row, name in zip(labels, videos) if name == video]


@pytest.mark.parametrize("count", range(3, 12))
def test_few_videos_still_fill_every_split(count: int) -> None:
    splits = draw_splits([{"x"}] * count, [str(i) for i in range(count)])
    assert set(splits) == set(SPLITS)


def test_too_few_videos_are_all_train() -> None:
    assert draw_splits([{"x"}, {"y"}, {"x"}], ["a", "a", "b"]) == ["train"] * 3
    assert draw_splits([], []) == []


def test_labels_that_a_split_lacks() -> None:
    labels = [{"a", "b"}, {"a"}, {"b", "c"}, {"a"}]
    assert lone_labels(labels, ["train", "val", "train", "train"]) == ["c", "b"]
