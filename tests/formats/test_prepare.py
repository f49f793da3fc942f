"""From a configuration to the dataset it names."""

from pathlib import Path

import numpy as np
import pytest

from raymc.config import Config, from_dict, override
from raymc.errors import ConfigError, DataError
from raymc.formats.prepare import prepare_dataset, recipe_of


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A few digits."""
    make = {"name": "digits", "train_clips": 5, "val_clips": 2, "test_clips": 2, "clip_seconds": 2}
    return from_dict({"data": {"path": str(tmp_path / "digits"), "make": make}})


def test_the_dataset_is_made_once(config: Config) -> None:
    made = prepare_dataset(config)
    assert made.path == config.data.path
    assert [made.manifest.rows(split) for split in ("train", "val", "test")] == [5, 2, 2]
    before = {path: path.stat().st_mtime_ns for path in Path(made.path).rglob("*")}
    assert prepare_dataset(config) == made
    assert {path: path.stat().st_mtime_ns for path in Path(made.path).rglob("*")} == before


def test_a_dataset_that_is_there_needs_no_recipe(config: Config) -> None:
    made = prepare_dataset(config)
    assert prepare_dataset(override(config, {"data.make": None})) == made


def test_another_dataset_is_not_written_over(config: Config) -> None:
    prepare_dataset(config)
    with pytest.raises(DataError, match=r"different .*provenance \(seed: 0 → 1\)"):
        prepare_dataset(override(config, {"data.make.seed": 1}))


def test_neither_dataset_nor_recipe(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"which dataset\? Name its folder"):
        prepare_dataset(Config())
    with pytest.raises(DataError, match=r"no dataset at .*digits"):
        prepare_dataset(override(config, {"data.make": None}))


def test_the_recipe_of_an_archive(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "x.npz",
        v=np.ones((3, 2, 4), np.float32),
        y=np.eye(3, 2),
        classes=np.array(["a", "b"]),
        split=np.array([0, 1, 2]),
        names=np.array(["i", "j", "k"]),
    )
    make = {
        "name": "npz",
        "file": str(tmp_path / "x.npz"),
        "modalities": {"visual": "v"},
        "rates_hz": {"visual": 2.0},
    }
    config = from_dict({"data": {"path": str(tmp_path / "data"), "make": make}})
    assert config.data.make is not None
    assert recipe_of(config.data.make).vocabulary.names == ("a", "b")
    assert prepare_dataset(config).manifest.modalities[0].rate_hz == 2.0
