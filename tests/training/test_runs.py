"""A run's folder belongs to one configuration."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from raymc.config import Config, override, run_name
from raymc.errors import ConfigError
from raymc.training.runs import CONFIG_FILE, RUN_FILE, TRIALS, open_run, read_config, read_run


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A run in a folder that isn't there yet."""
    settings = {"loss.margin": 0.1, "model.depth": 4, "train.epochs": 20}
    folder = str(tmp_path / "deep" / "runs")
    return override(Config(), {**settings, "run.folder": folder, "run.name": "mine"})


def test_the_folder_is_marked_with_the_configuration(config: Config) -> None:
    run = open_run(config, dataset="abc")
    assert (run.name, run.folder) == ("mine", Path(config.run.folder) / "mine")
    assert (run.storage, run.dataset, run.config) == (str(run.folder), "abc", config)
    assert read_config(run.folder) == config
    assert sorted(path.name for path in run.folder.iterdir()) == [CONFIG_FILE, RUN_FILE]


def test_the_id_stays(config: Config, tmp_path: Path) -> None:
    run = open_run(config, dataset="abc")
    assert open_run(config) == run == read_run(run.folder)
    other = open_run(override(config, {"run.name": "other"}))
    assert len({run.id, other.id}) == 2
    moved = run.folder.rename(tmp_path / "moved")
    assert read_run(moved) == replace(run, folder=moved, storage=str(moved))
    assert read_run(moved, ["train.device=cpu"]).config.train.device == "cpu"


@pytest.mark.parametrize("name", ["mine", ""])
@pytest.mark.parametrize("sweep", [False, True])
def test_a_folder_of_0_1_0_gets_an_id(config: Config, sweep: bool, name: str) -> None:
    config = override(config, {"run.name": name})
    folder = open_run(config, sweep=sweep).folder
    if sweep:
        (folder / TRIALS).mkdir()
    (folder / RUN_FILE).unlink()
    run = read_run(folder)
    assert (run.name, run.is_sweep, run.dataset) == (folder.name, sweep, "")
    assert read_run(folder).id == run.id == open_run(config, sweep=sweep).id
    (folder / RUN_FILE).write_text("[]")
    assert open_run(config, sweep=sweep).id != run.id


@pytest.mark.parametrize(
    ("given", "storage"),
    [("s3://bucket/runs/", "s3://bucket/runs/mine"), ("/shared", "/shared/mine")],
)
def test_checkpoints_may_lie_elsewhere(config: Config, given: str, storage: str) -> None:
    assert open_run(override(config, {"run.storage": given})).storage == storage


@pytest.mark.parametrize("sweep", [False, True])
def test_names_that_are_made(config: Config, sweep: bool) -> None:
    unnamed = override(config, {"run.name": ""})
    assert open_run(unnamed, sweep=sweep).folder.name == run_name(unnamed, sweep=sweep)


def test_a_run_may_go_on_elsewhere_and_with_other_workers(config: Config) -> None:
    open_run(config)
    changed = override(config, {"train.workers": 2, "train.device": "cpu", "search.trials": 99})
    assert read_config(open_run(changed).folder) == changed


@pytest.mark.parametrize("sweep", [False, True])
def test_a_run_of_that_name_with_other_settings(config: Config, sweep: bool) -> None:
    folder = open_run(config, sweep=sweep).folder
    settings = {"loss.margin": 0.3, "model.depth": 5, "train.seed": 1, "train.epochs": 7}
    message = (
        r"run 'mine' exists with other settings \(loss.margin: 0.1 → 0.3; model.depth: 4 → 5; "
        r"train.epochs: 20 → 7\): choose another run.name"
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
    path = open_run(config).folder / CONFIG_FILE
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        open_run(config)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a run of raymc: .*config.json can't be read"):
        read_config(tmp_path / "nowhere")


def test_a_run_of_a_newer_raymc(config: Config) -> None:
    path = open_run(config).folder / CONFIG_FILE
    path.write_text(json.dumps({"models": {}}))
    with pytest.raises(ConfigError, match=r"unknown setting 'models' \(in .*config.json\)"):
        read_config(path.parent)


def test_a_folder_that_cannot_be_written(config: Config) -> None:
    Path(config.run.folder).parent.mkdir()
    Path(config.run.folder).write_text("a file")
    with pytest.raises(ConfigError, match=r"run.folder: .* can't be written: Not a directory"):
        open_run(config)
