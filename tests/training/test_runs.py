"""A run's folder belongs to one configuration."""

import json
from pathlib import Path

import pytest

from raymc.config import Config, override, run_name
from raymc.errors import ConfigError
from raymc.training.runs import CONFIG_FILE, open_run, read_config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A run in a folder that isn't there yet."""
    settings = {"loss.margin": 0.1, "model.depth": 4, "train.epochs": 20}
    folder = str(tmp_path / "deep" / "runs")
    return override(Config(), {**settings, "run.folder": folder, "run.name": "mine"})


def test_the_folder_is_marked_with_the_configuration(config: Config) -> None:
    folder = open_run(config)
    assert folder == Path(config.run.folder) / "mine"
    assert read_config(folder) == config
    assert [path.name for path in folder.iterdir()] == [CONFIG_FILE]


@pytest.mark.parametrize("sweep", [False, True])
def test_names_that_are_made(config: Config, sweep: bool) -> None:
    unnamed = override(config, {"run.name": ""})
    assert open_run(unnamed, sweep=sweep).name == run_name(unnamed, sweep=sweep)


def test_a_run_may_go_on_elsewhere_and_with_other_workers(config: Config) -> None:
    open_run(config)
    changed = override(config, {"train.workers": 2, "train.device": "cpu", "search.trials": 99})
    assert read_config(open_run(changed)) == changed


@pytest.mark.parametrize("sweep", [False, True])
def test_a_run_of_that_name_with_other_settings(config: Config, sweep: bool) -> None:
    folder = open_run(config, sweep=sweep)
    settings = {"loss.margin": 0.3, "model.depth": 5, "train.seed": 1, "train.epochs": 7}
    message = (
        r"run 'mine' exists with other settings \(loss.margin: 0.1 → 0.3; model.depth: 4 → 5; "
        rf"train.epochs: 20 → 7\): choose another run.name, or delete {folder}"
    )
    with pytest.raises(ConfigError, match=message):
        open_run(override(config, settings), sweep=sweep)
    assert read_config(folder) == config


def test_the_space_matters_to_sweeps_alone(config: Config) -> None:
    config = override(config, {"search.space.loss.margin": {"low": 0.1, "high": 0.5}})
    changed = override(config, {"search.space.loss.margin": {"low": 0.1, "high": 0.2}})
    open_run(config)
    open_run(changed)
    open_run(config)
    with pytest.raises(ConfigError, match=r"search.space.loss.margin.high: 0.5 → 0.2"):
        open_run(changed, sweep=True)


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "\udcff", "5"])
def test_a_folder_that_holds_no_run(config: Config, text: str) -> None:
    path = open_run(config) / CONFIG_FILE
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        open_run(config)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no run of raymc: .*config.json can't be read"):
        read_config(tmp_path / "nowhere")


def test_a_run_of_a_newer_raymc(config: Config) -> None:
    path = open_run(config) / CONFIG_FILE
    path.write_text(json.dumps({"models": {}}))
    with pytest.raises(ConfigError, match=r"unknown setting 'models' \(in .*config.json\)"):
        read_config(path.parent)


def test_a_folder_that_cannot_be_written(config: Config) -> None:
    Path(config.run.folder).parent.mkdir()
    Path(config.run.folder).write_text("a file")
    with pytest.raises(ConfigError, match=r"run.folder: .* can't be written: Not a directory"):
        open_run(config)
