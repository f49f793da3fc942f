"""`raymc replay`: what MLflow missed of a run is there afterwards, in order and once."""

import logging
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from tracking_cases import away, runs_of, steps

from raymc.cli.main import main
from raymc.config import Config, override
from raymc.tracking import open_tracker
from raymc.tracking.writer import SPOOL_FILE
from raymc.training.runs import open_run


@pytest.fixture
def config(tiny_config: Config, runs_folder: Path, request: pytest.FixtureRequest) -> Config:
    """A run and an experiment of its own for every test."""
    name = request.node.name
    names = {"run.folder": str(runs_folder), "run.name": name, "tracking.experiment": name}
    return override(tiny_config, names)


def replay(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["replay", *arguments])
    return done.exit_code, done.output


def leave_records(config: Config, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Train in name only: MLflow hears of the start and the first epoch, and then nothing."""
    opened = open_run(config)
    folder = opened.folder
    tracker = open_tracker(config.tracking, config.run.folder, folder=folder)
    run = tracker.start_run(opened.name, key=opened.id, params={"a": 1}, tags={})
    tracker.log_epoch(run, 1, {"val/mAP": 0.1}, is_best=True)
    tracker.run_id(run)
    with away(monkeypatch):
        for epoch in (2, 3):
            tracker.log_epoch(run, epoch, {"val/mAP": epoch / 10}, is_best=True)
        tracker.log_text(run, "report.html", "<p>")
        tracker.end_run(run, "complete", metrics={"cost/seconds": 3.0})
        assert tracker.close(timeout_seconds=0.3) > 0
    return folder


def test_records_that_are_left_are_replayed_once(
    config: Config, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord]
) -> None:
    folder = leave_records(config, monkeypatch)
    assert f"records wait in {folder / SPOOL_FILE}" in logged[-1].getMessage()
    assert f"`raymc replay {folder}`" in logged[-1].getMessage()
    spooled = (folder / SPOOL_FILE).read_bytes()

    for _ in range(2):  # the second time as if the first had died before its end
        code, output = replay(folder.name, f"run.folder={folder.parent}")
        assert (code, output.split(" has ")[0]) == (0, f"{folder.name}: MLflow")
        assert not (folder / SPOOL_FILE).exists()
        with open_tracker(config.tracking, config.run.folder) as tracker:
            (only,) = runs_of(tracker)
        assert only.info.status == "FINISHED"
        assert only.data.tags["raymc.state"] == "complete"
        for name in ("val/mAP", "best/mAP"):
            assert steps(only, name, tracker.uri) == [(1, 0.1), (2, 0.2), (3, 0.3)]
        assert steps(only, "cost/seconds", tracker.uri) == [(3, 3.0)]
        (folder / SPOOL_FILE).write_bytes(spooled)


def test_the_bundle_is_added_once(
    config: Config, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path
) -> None:
    folder = leave_records(config, monkeypatch)
    shutil.copytree(tiny_bundle, folder / "bundle")
    code, output = replay(str(folder))
    assert code == 0
    assert "records, and the model models:/m-" in output
    assert replay(str(folder)) == (0, f"{folder.name}: MLflow has 0 records\n")
    with open_tracker(config.tracking, config.run.folder) as tracker:
        (only,) = runs_of(tracker)
    assert only.outputs is not None
    assert len(only.outputs.model_outputs) == 1
    copy = shutil.copytree(folder, folder.with_name(f"{folder.name}-copy"))
    line = f"raymc: {copy} is a copy of {folder}: replay that one\n"
    assert replay(str(copy)) == (2, line)


def test_the_next_run_of_the_name_writes_what_is_left_first(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = leave_records(config, monkeypatch)
    with open_tracker(config.tracking, config.run.folder, folder=folder) as tracker:
        run = tracker.start_run("renamed", key=open_run(config).id, params={}, tags={})
        tracker.log_epoch(run, 4, {"val/mAP": 0.4})
        assert tracker.close() == 0
    (only,) = runs_of(tracker)
    assert steps(only, "val/mAP", tracker.uri) == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert only.info.status == "RUNNING"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("nothing",),
            "no run 'nothing' in runs, and nothing is not the folder of a run or bundle: check",
        ),
        (("FOLDER", "tracking.uri=http://127.0.0.1:1"), "can't be used ("),
    ],
)
def test_what_cannot_be_replayed_is_one_line(
    arguments: tuple[str, ...], message: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(open_run(config).folder)
    code, output = replay(*(folder if each == "FOLDER" else each for each in arguments))
    assert code == 2
    assert output.startswith("raymc: ")
    assert message in output
    assert output.count("\n") == 1
