"""The command line: what it prints, and one clear line for whatever a user can get wrong."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result
from drivers import RAYMC, write_config
from pandas.testing import assert_frame_equal
from tiny import MODALITIES, VOCABULARY, tiny_row

import raymc
from raymc.cli.main import main
from raymc.config import Config, TrackingConfig, config_reference, load, override
from raymc.data.shards import open_dataset, write_dataset
from raymc.runtime.provenance import Code
from raymc.tracking import open_tracker, records

NPZ_OPTIONS = ("--modality", "visual=seen", "--rate", "visual=2")
HEAVY = {"torch", "ray", "mlflow", "optuna", "pyarrow", "matplotlib", "pandas", "scipy", "sklearn"}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def complaint(*arguments: str | Path) -> str:
    """Return the one line that a refused command prints."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("raymc: ")
    return line.removeprefix("raymc: ")


@pytest.fixture
def config(tiny_config: Config, runs_folder: Path, request: pytest.FixtureRequest) -> Config:
    """Settings of a run that no other test knows."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    return override(tiny_config, {"run.folder": str(runs_folder), "run.name": name})


@pytest.fixture
def file(config: Config, tmp_path: Path) -> Path:
    return write_config(config, tmp_path / "config.yaml")


@pytest.fixture
def copy(tiny_path: Path, tmp_path: Path) -> Path:
    """A copy of the tiny dataset, to break."""
    return shutil.copytree(tiny_path, tmp_path / "copy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loss.margn=0.2"], "unknown setting 'loss.margn': did you mean 'margin'?"),
        (["loss.margin=3"], "setting loss.margin = 3: Input should be less than or equal to 2"),
        (["loss.margin"], "override 'loss.margin': expected KEY=VALUE, such as loss.margin=0.2"),
        (["none.yaml"], "configuration none.yaml can't be read: No such file or directory"),
        (["train.workers=0"], "setting train.workers: 0: expected a number ≥ 1"),
        (["model.width=many"], "setting model.width = 'many': Input should be a valid integer"),
        (["search.space.loss.margn={low: 0, high: 1}"], "search.space: unknown setting 'loss.mar"),
        (["search.space.loss.margin={low: 0, high: 3}"], "search.space: setting loss.margin = 3"),
        (["search.space.data.cache={choices: [auto]}"], "search.space: data.cache is the same fo"),
    ],
)
def test_settings_that_are_wrong(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("train", "tune"):
        if command == "tune" or "search.space" not in arguments[0]:
            assert complaint(command, *arguments).startswith(message)
    assert not list(tmp_path.iterdir())


def test_a_setting_of_a_file_is_found_in_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("loss: {temprature: 0.1}")
    line = complaint("train", file)
    assert line == f"unknown setting 'loss.temprature' (in {file}): did you mean 'temperature'?"
    file.write_text("loss: [")
    assert complaint("train", file).startswith(f"configuration {file} is not valid YAML: ")


Break = Callable[[Path], object]


def truncate(folder: Path) -> None:
    shard = folder / "train" / "00002.parquet"
    shard.write_bytes(shard.read_bytes()[:500])


def rename_labels(folder: Path) -> None:
    """Take a label out of the vocabulary that rows still have."""
    manifest = folder / "dataset.json"
    manifest.write_text(manifest.read_text().replace('"spell"', '"spelling"'))


def empty_split(folder: Path) -> None:
    values = json.loads((folder / "dataset.json").read_text())
    values["splits"]["val"] = []
    (folder / "dataset.json").write_text(json.dumps(values))


@pytest.mark.usefixtures("ray_logs")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "no dataset at {}: there is no such folder; check the path"),
        (truncate, "{}/train/00002.parquet has 500 bytes, the manifest says "),
        (rename_labels, "{}/train/00000.parquet, row 1: unknown label 'spell' (5 labels in the "),
        (empty_split, "{}: split 'val' is empty; splits with rows: train, test"),
    ],
)
def test_a_dataset_that_cannot_be_trained_on(
    spoil: Break, message: str, copy: Path, file: Path, config: Config
) -> None:
    spoil(copy)
    is_soon = spoil in (shutil.rmtree, empty_split)  # before a run has a folder, and Ray is started
    for command in ("train", "tune") if is_soon else ("train",):
        line = complaint(command, file, f"data.path={copy}")
        assert line.startswith(message.format(copy))
    if is_soon:
        assert not (Path(config.run.folder) / config.run.name).exists()


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "one"],
        ["predict", "one", "new", "--out", "new.csv"],
        ["timeline", "one", "new.mp4", "--out", "new.html"],
        ["review", "one", "--out", "new.html"],
        ["compare", "one", "two"],
        ["add-class", "one", "new", "clips", "--out", "new"],
        ["export", "one", "--out", "new"],
        ["serve", "one"],
    ],
)
def test_a_setting_that_would_change_nothing_is_refused(command: list[str]) -> None:
    assert complaint(*command, "run.folder=runs", "loss.margin=0.3") == (
        "loss.margin: a trained model keeps its settings, so only run.folder can be given here; "
        "see --help for options"
    )


@pytest.mark.usefixtures("ray_logs")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "train.device=gpu"], "train.device is gpu and the run needs 1 GPU, but this "),
        (
            ["train", "--workers", "9"],
            "train.workers is 9, each with 1 CPU, but this Ray cluster has ",
        ),
        (["tune", "--gpus-per-trial", "1", "train.device=gpu"], "train.device is gpu and the run"),
        (["train", "data.modalities=[smell]"], "the dataset has no modality 'smell'; it"),
    ],
)
def test_what_the_cluster_or_the_dataset_does_not_have(
    arguments: list[str], message: str, file: Path
) -> None:
    command, *rest = arguments
    assert complaint(command, file, *rest).startswith(message)


def test_other_settings_under_a_run_s_name(file: Path, config: Config) -> None:
    folder = Path(config.run.folder) / config.run.name
    folder.mkdir()
    shutil.copy(file, folder / "config.json")
    (folder / "config.json").write_text(json.dumps(yaml.safe_load(file.read_text())))
    line = complaint("train", file, "loss.margin=0.4")
    assert line.startswith(f"run {config.run.name!r} exists with other settings (loss.margin: ")


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_bundles_and_datasets_that_are_none(
    command: str, tiny_bundle: Path, tiny_path: Path, tmp_path: Path
) -> None:
    rest = ["--out", tmp_path / "out"] if command == "predict" else []
    line = complaint(command, tmp_path, tiny_path, *rest)
    assert line.startswith(f"no run '{tmp_path}' in runs, and {tmp_path} is not the folder of a ru")
    line = complaint(command, tiny_bundle, tmp_path / "none", *rest)
    none = tmp_path / "none"
    expected = f"{none}: no media: " if command == "predict" else f"no dataset at {none}: "
    assert line.startswith(expected)
    write_dataset(
        str(tmp_path / "wide"),
        {"test": [replace(tiny_row("test", 0), tokens={"visual": np.ones((1, 7))})]},
        vocabulary=VOCABULARY,
        modalities=(replace(MODALITIES[0], dim=7),),
    )
    line = complaint(command, tiny_bundle, tmp_path / "wide", *rest)
    assert line.startswith("the bundle reads modality 'visual' with dim 6, but the dataset has dim")


@pytest.mark.usefixtures("ray_logs")
@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_split_or_a_device_that_is_not_there(
    command: str, tiny_bundle: Path, tiny_path: Path, tmp_path: Path
) -> None:
    rest = ["--out", tmp_path / "out"] if command == "predict" else []
    line = complaint(command, tiny_bundle, tiny_path, "--split", "demo", *rest)
    assert line.endswith("split 'demo' does not exist; splits with rows: train, val, test")
    line = complaint(command, tiny_bundle, tiny_path, "--device", "gpu", *rest)
    assert "needs 1 GPU, but this Ray cluster has 0" in line


def test_predictions_are_not_overwritten(
    tiny_bundle: Path, tiny_path: Path, tmp_path: Path, ray_logs: Path
) -> None:
    line = complaint("predict", tiny_bundle, tiny_path, "--out", tmp_path)
    assert line == f"{tmp_path} already exists: choose another --out"


def foreign(folder: Path, columns: dict[str, list[Any]]) -> Path:
    (folder / "train").mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "train" / "0.parquet")
    return folder


@pytest.mark.parametrize("command", ["check", "info"])
def test_folders_that_are_no_dataset(command: str, tmp_path: Path) -> None:
    line = complaint("data", command, tmp_path / "none")
    assert line.startswith(f"no dataset at {tmp_path / 'none'}: there is no such folder")
    path = foreign(tmp_path / "foreign", {"price": [1.0], "name": ["tea"]})
    line = complaint("data", command, path)
    assert str(path) in line
    assert "no column" in line


def archive(file: Path, **changes: Any) -> Path:
    """An archive of four clips, as `data.make` of the name npz reads them."""
    arrays: dict[str, Any] = {
        "video": np.ones((4, 2, 3), np.float32),
        "y": np.eye(4, 2, dtype=np.int64),
        "classes": np.array(["a", "b"]),
        "split": np.array([0, 0, 1, 2]),
        "names": np.array(["p", "q", "r", "s"]),
    }
    np.savez(file, **{**arrays, **changes})
    return file


NAN = np.full((4, 2, 3), np.nan, np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"video": NAN}, "NaN"), ({"video": np.ones((4, 2))}, "video")],
)
def test_features_that_are_wrong(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    make = {
        "name": "npz",
        "file": str(archive(tmp_path / "a.npz", **changes)),
        "modalities": {"video": "video"},
        "rates_hz": {"video": 1},
    }
    made = tmp_path / "made"
    line = complaint("data", "make", f"data.path={made}", f"data.make={json.dumps(make)}")
    assert message in line
    assert not (made / "dataset.json").exists()


def test_a_dataset_is_made(tmp_path: Path) -> None:
    file = archive(tmp_path / "a.npz")
    make = f"{{name: npz, file: {file}, modalities: {{video: video}}, rates_hz: {{video: 1}}}}"
    result = run("data", "make", f"data.path={tmp_path / 'made'}", f"data.make={make}")
    assert result.output == f"{tmp_path / 'made'}: 2 train, 1 val, 1 test\n"
    result = run("data", "check", tmp_path / "made")
    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == f"{tmp_path / 'made'}: no findings, 2 warnings"


def test_a_check_with_findings(copy: Path) -> None:
    truncate(copy)
    rename_labels(copy)
    result = run("data", "check", copy)
    *findings, summary = result.output.splitlines()
    assert result.exit_code == 1
    assert summary == f"{copy}: {len(findings)} findings"
    assert any(line.startswith("train/00002.parquet: ") for line in findings)
    assert any("unknown label 'spell'" in line for line in findings)


@pytest.mark.slow
def test_a_dataset_is_described(tiny_path: Path, tmp_path: Path) -> None:
    result = run("data", "info", tiny_path, "--plot", tmp_path / "plot.png")
    assert result.exit_code == 0
    for text in ("visual", "audio", "rhyme", "45", "23", "11"):
        assert text in result.output
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


LISTED = ["name", "id", "kind", "state", "val/mAP", "started"]


@pytest.mark.slow
def test_runs_are_listed_by_id(runs_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(records, "current_code", lambda: Code(commit="0123456789abcdef"))
    with open_tracker(TrackingConfig(experiment="listed"), str(runs_folder)) as tracker:
        for name, key in (("base [x]", "a" * 32), ("base [x]", "b" * 32), ("wide", "c" * 32)):
            tracker.start_run(name, key=key, params={}, tags={"raymc.kind": "run"})
            tracker.log_epoch(key, 1, {"val/mAP": 0.5}, is_best=True)
            time.sleep(0.01)  # MLflow's times are in milliseconds
        tracker.start_run("trial", key="c/0", parent="c" * 32, params={}, tags={})
    settings = [f"run.folder={runs_folder}", "tracking.experiment=listed"]
    heads, *rows = run("runs", *settings).output.splitlines()
    assert heads.split() == [*LISTED, "commit"]
    assert [row.split("  ")[0] for row in rows] == ["wide", "base [x]", "base [x]"]
    now = datetime.now().strftime("%Y-%m-%d")
    assert [row.split()[1:-3] for row in rows[:1]] == [
        ["cccccccc", "sweep", "of", "1", "running", "0.5000"]
    ]
    assert all(row.split()[-3] == now for row in rows)
    assert all("0123456789abcdef".startswith(row.split()[-1]) for row in rows)
    said, _, row = run("runs", "base [x]", *settings).output.splitlines()
    assert said == (
        "2 runs are meant by base [x]; this is the newest, bbbbbbbb (the others: aaaaaaaa)"
    )
    assert row.split()[:3] == ["base", "[x]", "bbbbbbbb"]
    assert run("runs", "aaaaaa", *settings).output.splitlines()[1].split()[2] == "aaaaaaaa"
    assert run("runs", "wide", *settings).output.split()[:2] == ["trial", "state"]


def test_sweeps_that_nobody_knows(runs_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with open_tracker(TrackingConfig(experiment="empty"), str(runs_folder)):
        pass
    settings = [f"run.folder={runs_folder}", "tracking.experiment=empty"]
    line = complaint("runs", "mine", *settings)
    assert line == "MLflow has no run or sweep 'mine'; there are: none"
    assert run("runs", *settings).output.split() == LISTED
    line = complaint("runs", f"run.folder={runs_folder / 'none'}")
    assert line.startswith("MLflow at sqlite:///")
    assert line == complaint("ui", f"run.folder={runs_folder / 'none'}")


def test_a_report_of_no_sweep(tmp_path: Path) -> None:
    line = complaint("report", "mine", f"run.folder={tmp_path}")
    assert line.startswith(f"no run 'mine' in {tmp_path}, ")
    assert "(there are: none)" in line
    assert run("report", "mine", "--price", "-1").exit_code == 2


def test_the_configuration_goes_round(file: Path, config: Config, tmp_path: Path) -> None:
    printed = run("config", file, "loss.margin=0.25").stdout
    (tmp_path / "again.yaml").write_text(printed)
    assert load(tmp_path / "again.yaml") == override(config, {"loss.margin": 0.25})
    assert run("config", tmp_path / "again.yaml").stdout == printed
    assert yaml.safe_load(run("config").stdout)["loss"]["margin"] == Config().loss.margin
    assert run("config", "--reference").stdout == config_reference() + "\n"


def test_options_are_settings(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Config] = []
    monkeypatch.setattr("raymc.cli.runs.run_tune", lambda config, *_: given.append(config))
    options = ["--trials", "7", "--workers", "2", "--gpus-per-trial", "0.25", "--name", "mine"]
    assert run("tune", file, *options, "train.epochs=9").exit_code == 0
    (config,) = given
    assert (config.search.trials, config.train.workers, config.train.epochs) == (7, 2, 9)
    assert (config.search.gpus_per_trial, config.run.name) == (0.25, "mine")


def test_ctrl_c_is_no_error(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("raymc.cli.runs.run_train", interrupt)
    result = run("train", file)
    assert result.exit_code == 130
    assert result.stderr == "raymc: interrupted; run the same command again to resume\n"


def groups(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """The paths of a command and all below it."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from groups(inner, *path, name)


def test_no_summary_is_cut() -> None:
    for path in groups(main):
        result = CliRunner().invoke(main, [*path, "--help"], env={"COLUMNS": "80"})
        assert result.exit_code == 0
        _, _, commands = result.output.partition("Commands:\n")
        assert not [line for line in commands.splitlines() if line.endswith("...")], path
        assert all(len(line) <= 80 for line in result.output.splitlines()), path


def test_commands_stand_in_the_order_of_use() -> None:
    listed = main.list_commands(click.Context(main))
    use = ["demo", "extract", "data", "train", "tune", "runs", "evaluate", "predict", "submit"]
    assert [name for name in listed if name in use] == use


@pytest.mark.slow
def test_the_command_itself_is_light(runs_folder: Path) -> None:
    with open_tracker(TrackingConfig(experiment="light"), str(runs_folder)):
        pass
    known = [f"run.folder={runs_folder}", "tracking.experiment=light"]
    light = ["--help"], ["config"], ["import", "--help"], ["import", "npz", "--help"]
    cases = [
        *((case, 0) for case in light),
        (["runs", *known], 0),
        (["train", "trian.epochs=3"], 2),
    ]
    program = f"""
import sys
from click.testing import CliRunner
import raymc
from raymc.cli.main import main
for arguments, code in {cases}:
    assert CliRunner().invoke(main, arguments).exit_code == code, arguments
    loaded = {{name.partition(".")[0] for name in sys.modules}} & {HEAVY}
    assert not loaded, (arguments, loaded)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    done = subprocess.run([RAYMC, "train", "loss.margn=1"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "raymc: unknown setting 'loss.margn': did you mean 'margin'?\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "--out", "x"], "no media are named"),
        (["extract", "nowhere", "--out", "x"], "nowhere: no media"),
        (["extract", "nowhere"], "where to write the dataset? Name a folder, such as --out data/"),
        (
            ["extract", "nowhere", "--out", "x", "--visual", "patch"],
            "unknown visual encoder 'patch'; did you",
        ),
        (["extract", "nowhere", "--out", "x", "--max-failures", "5%"], "nowhere: no media"),
        (["extract", "nowhere", "--max-failures", "some"], "setting extract.max_failures = 'some'"),
        (["extract", "nowhere", "--max-failures", "200%"], "setting extract.max_failures = 2.0"),
        (
            ["extract", "nowhere", "extract.fp=1"],
            "unknown setting 'extract.fp': did you mean 'fps'",
        ),
        (
            ["import", "npz", "--file", "nope.npz", "--out", "x", *NPZ_OPTIONS],
            "nope.npz: no such file",
        ),
        (
            ["import", "arff", "--train", "a.arff", "--labels", "a.xml", "--out", "x"],
            "a.xml",
        ),
        (["train", "x" * 300], f"{'x' * 300} can't be used: File name too long"),
        (["evaluate", "x" * 300], "x" * 300),
        (["export", "x", "--out", "x" * 300], "no run 'x'"),
        (["predict", "x" * 300, "x", "--out", "x.csv"], "x" * 300),
    ],
)
def test_media_and_formats_that_cannot_be_used(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert complaint(*arguments).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_format_is_imported(tmp_path: Path) -> None:
    arrays = {
        "seen": np.ones((6, 2, 3), np.float16),
        "y": np.eye(6, 2, dtype=np.uint8),
        "classes": np.array(["a", "b"]),
        "split": np.array([0, 0, 0, 1, 1, 2]),
        "names": np.array(list("uvwxyz")),
    }
    np.savez(tmp_path / "some.npz", **arrays)
    out = tmp_path / "out"
    result = run("import", "npz", "--file", tmp_path / "some.npz", "--out", out, *NPZ_OPTIONS)
    assert result.exit_code == 0, result.output
    assert result.output.split(": ")[-1].strip() == "3 train, 2 val, 1 test"
    assert open_dataset(str(out)).manifest.modality("visual").rate_hz == 2.0


def test_annotations_are_imported_as_a_table(tmp_path: Path) -> None:
    tasks = []
    for name, labels in (("a.mp4", ["counting", "shapes, big"]), ("b.mp4", ["shapes, big"])):
        spoken = {"start": 0.5, "end": 2.25, "labels": labels}
        result = {"type": "labels", "value": spoken}
        tasks.append({"data": {"video": name}, "annotations": [{"result": [result]}]})
    source = tmp_path / "tasks.json"
    source.write_text(json.dumps(tasks))
    for out in (tmp_path / "codes.csv", tmp_path / "deep" / "codes.xlsx"):
        result = run("import", "label-studio", source, "--out", out)
        assert result.exit_code == 0, result.output
        assert "2 rows; Label Studio; path" in result.output
        assert "2 labels: shapes, big 2, counting 1; 1 only once" in result.output
        told = result.output.replace("\n", "")
        assert f"{out}: 2 clipsnext, make a dataset of it: " in told
        frame = raymc.annotations(source)
        assert_frame_equal(raymc.annotations(out), frame)
    assert [*frame["labels"]] == [["counting", "shapes, big"], ["shapes, big"]]
    assert (tmp_path / "codes.csv").read_text("utf-8-sig").splitlines()[2] == (
        'b.mp4,0.5,2.25,"[""shapes, big""]"'
    )
    missing = tmp_path / "x.csv"
    for arguments, message in (
        (["elan", source, "--out", missing], f"{source}: this is a file of Label Studio, not what"),
        (["elan", source, "--out", out], f"{out} already exists: choose another --out"),
        (["elan", source, "--out", "x.json"], "x.json: the table is written as .csv or .xlsx"),
        ([source], f"{source}: name its format first, one of approve, arff, boris, coin, elan"),
    ):
        assert complaint("import", *map(str, arguments)).startswith(message)
    assert not missing.exists()
