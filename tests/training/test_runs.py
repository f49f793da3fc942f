"""A run's folder belongs to one configuration."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from raymc.config import Config, override, run_name
from raymc.errors import ConfigError
from raymc.runtime.provenance import Code
from raymc.training import runs
from raymc.training.bundle import DESCRIPTION
from raymc.training.runs import (
    ATTEMPTS_FILE,
    BUNDLE,
    CONFIG_FILE,
    RUN_FILE,
    TRIALS,
    Run,
    find_run,
    open_run,
    original_of,
    read_config,
    read_run,
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A run in a folder that isn't there yet."""
    settings: dict[str, object] = {"data.path": "data/digits", "loss.margin": 0.1}
    settings |= {"model.depth": 4, "train.epochs": 20}
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


def test_all_code_that_trained_a_run_is_noted(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Code(commit="ab" * 20), Code(commit="cd" * 20, dirty=True, archive="ef" * 32)
    for code in (first, second, first, Code()):
        monkeypatch.setattr(runs, "current_code", lambda code=code: code)
        folder = open_run(config).folder
    (folder / BUNDLE).mkdir()
    monkeypatch.setattr(runs, "current_code", lambda: Code(commit="01" * 20))
    open_run(config)  # is finished, and trains nothing
    noted = json.loads((folder / RUN_FILE).read_text())["code"]
    assert noted == [first.as_texts(), second.as_texts()]


@pytest.mark.parametrize("name", ["mine", ""])
@pytest.mark.parametrize("sweep", [False, True])
def test_a_folder_of_0_1_0_keeps_its_name_as_id(
    config: Config, sweep: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "RESULTS", 1)  # as if training had not changed since
    config = override(config, {"run.name": name})
    folder = open_run(config, sweep=sweep).folder
    if sweep:
        (folder / TRIALS).mkdir()
    (folder / RUN_FILE).unlink()
    run = read_run(folder)
    assert (run.id, run.name) == (folder.name, folder.name)
    assert (run.is_sweep, run.dataset) == (sweep, "")
    assert not (folder / RUN_FILE).exists()  # reading writes nothing
    moved = folder.rename(folder.parent / "moved")
    assert read_run(moved).id == run.id
    shutil.copytree(moved, folder)
    assert original_of(moved) == folder
    shutil.rmtree(moved)
    assert open_run(config, sweep=sweep).id == run.id == read_run(folder).id
    assert original_of(folder) is None


@pytest.mark.parametrize(
    ("given", "storage"),
    [("s3://bucket/runs/", "s3://bucket/runs/"), ("/shared", "/shared/")],
)
def test_checkpoints_may_lie_elsewhere_by_the_run_s_id(
    config: Config, given: str, storage: str
) -> None:
    config = override(config, {"run.storage": given})
    run = open_run(config)
    assert run.storage == storage + run.id
    (run.folder / RUN_FILE).unlink()
    assert read_run(run.folder).storage == storage + "mine"  # as raymc 0.1.0 had it


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
        r"train.epochs: 20 → 7\): choose another --name"
    )
    with pytest.raises(ConfigError, match=message):
        open_run(override(config, settings), sweep=sweep)
    assert read_config(folder) == config


def test_the_space_matters_to_sweeps_alone(config: Config) -> None:
    config = override(config, {"search.space.loss.margin": {"low": 0.1, "high": 0.5}})
    changed = override(config, {"search.space.loss.margin": {"low": 0.1, "high": 0.2}})
    open_run(config)
    open_run(changed)
    open_run(config, sweep=True)
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


def begin(run: Run) -> Path:
    """Leave what training leaves behind; returns the folder."""
    (run.folder / (TRIALS if run.name == "sweep" else ATTEMPTS_FILE)).mkdir()
    return run.folder


def refusal(config: Config, *, sweep: bool = False, dataset: str = "abc") -> str:
    """The one line with which a run is not opened; nothing has been written then."""
    folder = Path(config.run.folder) / config.run.name
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(ConfigError) as caught:
        open_run(config, sweep=sweep, dataset=dataset)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    line = str(caught.value)
    assert line.endswith(": choose another --name to start anew")
    assert "\n" not in line
    assert "delete" not in line
    return line


@pytest.mark.parametrize("name", ["mine", "sweep"])
def test_what_is_trained_stays_with_its_dataset(
    config: Config, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "RESULTS", 1)  # as if training had not changed since 0.1.0
    sweep, config = name == "sweep", override(config, {"run.name": name})
    run = open_run(config, sweep=sweep, dataset="abc")
    other = open_run(config, sweep=sweep, dataset="xyz")  # nothing is trained yet
    assert other.id != run.id
    folder = begin(other)
    line = refusal(config, sweep=sweep)
    assert line.startswith(f"run {name!r} was trained on another dataset (digest xyz) than ")
    assert "data/digits holds now (digest abc)" in line
    (folder / RUN_FILE).unlink()  # raymc 0.1.0 noted the digest in bundles and checkpoints alone
    progress = folder / "checkpoint_1" / "progress.json"
    progress.parent.mkdir()
    progress.write_text(json.dumps({"dataset": {"digest": "xyz"}}))
    assert "(digest xyz)" in refusal(config, sweep=sweep)
    (folder / BUNDLE).mkdir()  # a finished run, too
    (folder / BUNDLE / DESCRIPTION).write_text(json.dumps({"dataset_digest": "uvw"}))
    assert "(digest uvw)" in refusal(config, sweep=sweep)
    assert open_run(config, sweep=sweep, dataset="uvw").id == name


def test_a_moved_dataset_of_equal_content_is_the_same(config: Config) -> None:
    run = open_run(config, dataset="abc")
    begin(run)
    moved = override(config, {"data.path": "elsewhere/digits"})
    assert "(data.path: data/digits → elsewhere/digits)" in refusal(moved, dataset="xyz")
    again = open_run(moved, dataset="abc")
    assert (again.id, again.config) == (run.id, moved)


@pytest.mark.parametrize("sweep", [False, True])
def test_a_run_and_a_sweep_are_not_mixed(config: Config, sweep: bool) -> None:
    config = override(config, {"run.name": "sweep" if sweep else "mine"})
    begin(open_run(config, sweep=sweep, dataset="abc"))
    kinds = ["a single run", "a sweep"]
    assert f"exists and is {kinds[sweep]}, not {kinds[not sweep]}" in refusal(
        config, sweep=not sweep
    )


def test_a_copy_is_not_resumed_and_a_moved_run_is(config: Config, tmp_path: Path) -> None:
    run = open_run(config, dataset="abc")
    copy = shutil.copytree(begin(run), run.folder.parent / "copy")
    copied = override(config, {"run.name": "copy"})
    line = refusal(copied)
    assert line.startswith(f"{copy} is a copy of {run.folder} and has the same id")
    assert read_run(copy).id == run.id
    assert original_of(copy) == run.folder
    assert original_of(run.folder) is None
    linked = tmp_path / "linked"
    linked.symlink_to(run.folder.parent)
    assert open_run(override(config, {"run.folder": str(linked)}), dataset="abc").id == run.id
    run.folder.rename(tmp_path / "away")
    assert original_of(copy) is None
    assert open_run(copied, dataset="abc").id == run.id


def test_a_folder_made_again_is_another_run(config: Config) -> None:
    run = open_run(config, dataset="abc")
    shutil.rmtree(begin(run))
    assert open_run(config, dataset="abc").id != run.id
    (run.folder / CONFIG_FILE).unlink()
    begin(run)
    assert "holds a run whose config.json is missing" in refusal(config)


def test_commands_that_open_a_new_run_at_once_agree_on_it(config: Config) -> None:
    for name in "abcdefgh":
        named = replace(config, run=replace(config.run, name=name))
        with ThreadPoolExecutor(4) as pool:
            ids = pool.map(open_with_others, [named] * 4, [Barrier(4)] * 4)
        assert len(set(ids)) == 1


def open_with_others(config: Config, others: Barrier) -> str:
    others.wait()
    return open_run(config).id


def test_a_raymc_that_trains_differently(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, results = begin(open_run(config, dataset="abc")), runs.RESULTS
    monkeypatch.setattr(runs, "RESULTS", 99)
    line = refusal(config)
    assert line.startswith(
        "run 'mine' was begun by another raymc (0.1.0), which trains to other results"
    )
    (folder / BUNDLE).mkdir()  # nothing is trained any more
    open_run(config, dataset="abc")
    assert json.loads((folder / RUN_FILE).read_text())["results"] == results
    other = override(config, {"run.name": "other"})
    assert json.loads((open_run(other).folder / RUN_FILE).read_text())["results"] == 99


def test_a_damaged_identity(config: Config) -> None:
    file = open_run(config).folder / RUN_FILE
    file.write_text("[]")
    for opening in (lambda: open_run(config), lambda: read_run(file.parent)):
        with pytest.raises(ConfigError, match=r"run.json can't be read, .*: restore the file$"):
            opening()


def test_runs_are_found_by_name_folder_or_id(config: Config) -> None:
    folder = config.run.folder
    first, second = (
        open_run(override(config, {"run.name": name})) for name in ("exp1/base", "exp2/base")
    )
    assert first.id != second.id
    for asked in ("exp2/base", str(second.folder), second.id, second.id[:8]):
        assert find_run(asked, folder) == second.folder
    with pytest.raises(ConfigError, match=r"\(there are: exp1/base, exp2/base\)"):
        find_run("base", folder)
    shutil.copytree(second.folder, Path(folder) / "copy")
    with pytest.raises(ConfigError, match=r"several runs have an id that begins with .*copy"):
        find_run(second.id[:8], folder)
