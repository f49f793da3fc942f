"""The benchmark of presets trains with what the rule chooses, once, and compares with defaults."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from jobs.bench import presets
from raymc.config import Config, Preset, override
from raymc.data.feed.shared import SharedData, data_here
from raymc.data.shards import Dataset
from raymc.data.survey import survey


def test_each_way_has_its_settings_and_is_trained_once(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Config] = []

    def train(config: Config, data: SharedData) -> dict[str, float]:
        trained.append(config)
        value = 50.0 + config.train.seed + 10 * (config.model.depth == 2)
        return {"mAP": value, "R@80": 0.0, "last mAP": value, "last R@80": 0.0, "seconds": 1.0}

    monkeypatch.setattr(presets, "_trained", train)
    settings = presets.Settings(datasets=(tiny.path,), ways=("defaults", "auto", "small"), seeds=3)
    printed = StringIO()
    for _ in range(2):  # the second finds all in the folder
        presets.bench_presets(Console(file=printed), settings, out=tmp_path)
    assert [one.model.depth for one in trained] == [4, 4, 4, 2, 2, 2]  # auto is small here
    assert [one.train.seed for one in trained] == [0, 1, 2, 0, 1, 2]
    chosen = Preset().settings(survey(tiny, trained[0].data).shape)
    assert trained[-1] == override(trained[2], chosen)
    page = (tmp_path / "presets.md").read_text()
    assert "| defaults | 51.0 ± 1.0 |" in page
    assert "| auto | 61.0 ± 1.0 | 0.0 ± 0.0 | +10.0 ± 0.8 |" in page
    assert "model.depth=2" in page


@pytest.mark.slow
def test_best_and_last_epoch_are_both_kept(tiny: Dataset, tiny_config: Config) -> None:
    config = override(tiny_config, {"train.epochs": 3, "data.path": tiny.path})
    found = presets._trained(config, data_here(tiny, config))
    assert 0 < found["last mAP"] <= found["mAP"] <= 100
    assert set(found) == {"mAP", "R@80", "last mAP", "last R@80", "seconds"}
