"""The benchmark of reviews plants what it says, and counts what is found."""

from pathlib import Path

import numpy as np
import pytest

from jobs.bench.review import JUDGES, Settings, _kept, plant
from raymc.config import Config, override
from raymc.data.shards import Dataset


def test_labels_are_flipped_or_swapped() -> None:
    labels = np.random.default_rng(0).random((500, 6)) < 0.3
    wrong = plant(labels, 0.1, kind="flipped", seed=0)
    assert wrong.mean() == pytest.approx(0.1, abs=0.02)
    assert wrong[labels].mean() == pytest.approx(0.1, abs=0.03)
    wrong = plant(labels, 0.1, kind="swapped", seed=0)
    assert wrong[labels].mean() == pytest.approx(0.1, abs=0.03)
    np.testing.assert_array_equal((labels ^ wrong).sum(axis=1), labels.sum(axis=1))


@pytest.mark.slow
def test_each_judge_has_its_figures(tiny: Dataset, tiny_config: Config, tmp_path: Path) -> None:
    config = override(tiny_config, {"train.epochs": 1, "train.seed": 3})
    settings = Settings(configs=("tiny.yaml",), folds=2, trees=3)
    found = _kept(config, "tiny", settings, 3, tmp_path)
    assert list(found) == list(JUDGES)
    assert _kept(config, "tiny", settings, 3, tmp_path) == found
    rows = tiny.manifest.rows("train") + tiny.manifest.rows("val")
    for figures in found.values():
        assert 0 < figures["planted"] < 0.2 * 5 * rows
        assert 0 <= figures["precision"] <= 100
        right = figures["found"] * figures["precision"] / 100
        assert right == pytest.approx(figures["planted"] * figures["recall"] / 100)
