"""`raymc data audit`: the last intact checkpoint of a run against its dataset."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny import SPLIT_ROWS

from raymc.cli.main import main
from raymc.config import Config, override
from raymc.data.shards import Dataset
from raymc.errors import CheckpointError, ConfigError
from raymc.events import Started, Stepped
from raymc.training import checkpoint
from raymc.training.audit import AttemptRecorder, audit_run
from raymc.training.checkpoint import ROWS, Part, Progress
from raymc.training.row_log import RowLog
from raymc.training.runs import find_run, open_run, read_run

N = SPLIT_ROWS["train"]


@pytest.fixture
def config(tiny_config: Config, tmp_path: Path) -> Config:
    return override(tiny_config, {"run.folder": str(tmp_path / "runs"), "run.name": "mine"})


def save(folder: Path, log: RowLog, epoch: int, step: int = 0) -> Path:
    """A checkpoint of nothing but progress and a record."""
    progress = Progress(epoch, epoch, {}, {}, [], part=Part(step))
    checkpoint.save(folder / f"checkpoint_{epoch}_{step}", {}, {}, progress, rows=log.to_json())
    return folder / f"checkpoint_{epoch}_{step}"


def used(log: RowLog, epoch: int, rows: np.ndarray) -> RowLog:
    log.add(epoch, rows, first_step=0, steps=6, workers=1)
    return log


def run_cli(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["data", "audit", *arguments], env={"COLUMNS": "200"})
    return done.exit_code, " ".join(done.output.split())


@pytest.mark.parametrize("at_storage", [False, True])
def test_the_last_checkpoint_is_audited(config: Config, tmp_path: Path, at_storage: bool) -> None:
    if at_storage:
        config = override(config, {"run.storage": f"file://{tmp_path}/elsewhere"})
    run = open_run(config)
    folder = tmp_path / "elsewhere" / run.id if at_storage else run.folder
    log = used(RowLog(N), 1, np.arange(N))
    save(folder, log, 1)
    last = save(folder, used(log, 2, np.arange(8)), 1, step=1)
    found = audit_run(run)
    assert Path(found.checkpoint) == last
    assert [(one.once, one.is_over) for one in found.epochs] == [(N, True), (8, False)]
    assert (found.rows, found.is_right, found.restarts) == (N, True, [])
    code, output = run_cli(str(Path(config.run.folder) / "mine"))
    assert code == 0
    assert f"run mine: {N} rows an epoch" in output
    assert f"{last}: no row lost, none used twice" in output


@pytest.mark.parametrize(
    ("rows", "lost", "repeated"),
    [
        (np.arange(N - 2), 2, 0),
        (np.append(np.arange(N), 7), 0, 1),
        (np.append(np.arange(1, N), 7), 1, 1),
    ],
)
def test_rows_lost_or_doubled_exit_with_1(
    config: Config, rows: np.ndarray, lost: int, repeated: int
) -> None:
    folder = open_run(config).folder
    save(folder, used(RowLog(N), 1, rows), 1)
    [epoch] = audit_run(read_run(folder)).epochs
    assert (epoch.lost, epoch.repeated) == (lost, repeated)
    code, output = run_cli("mine", f"run.folder={config.run.folder}")
    assert code == 1
    assert "rows were lost or used twice" in output


def test_a_torn_checkpoint_is_left_out(config: Config) -> None:
    folder = open_run(config).folder
    log = used(RowLog(N), 1, np.arange(N))
    intact = save(folder, log, 1)
    torn = save(folder, used(log, 2, np.arange(N)), 2)
    (torn / ROWS).write_text(json.dumps(log.to_json())[:-1])
    assert Path(audit_run(read_run(folder)).checkpoint) == intact
    (intact / checkpoint.WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"nothing to audit: .* has no intact checkpoint"):
        audit_run(read_run(folder))


def test_another_dataset_at_the_path_is_refused(config: Config, tiny: Dataset) -> None:
    run = open_run(override(config, {"data.path": "moved/away"}), dataset="0123456789abcdef")
    save(run.folder, used(RowLog(N), 1, np.arange(N)), 1)
    code, output = run_cli(str(run.folder), f"data.path={tiny.path}")
    now = tiny.manifest.digest()[:12]
    assert code == 2
    assert output == (
        f"raymc: run 'mine' was trained on another dataset (digest 0123456789ab) than {tiny.path} "
        f"holds now (digest {now}): name the folder it was moved to with data.path=FOLDER"
    )


def test_what_restarts_cost_is_told(config: Config) -> None:
    folder = open_run(config).folder
    save(folder, used(RowLog(N), 1, np.arange(N)), 1)
    recorder = AttemptRecorder(folder, clock=iter([0.0, 1.0, 31.0, 35.0]).__next__)
    plan = Started(epochs=3, steps_per_epoch=6, rows=N, parameters=1)
    for event in (plan, Stepped(1, 5, 1.0, 1.0), plan, Stepped(1, 2, 1.0, 1.0)):
        recorder(event)
    _, output = run_cli("mine", f"run.folder={config.run.folder}")
    told = "resumed once from a checkpoint: about 5 steps were repeated, and the longest pause took"
    assert f"{told} 34 s" in output


def test_there_is_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no run 'mine' in .*, and mine is not the folder of a run or bundle"
    ):
        find_run("mine", str(tmp_path))
    code, _ = run_cli("mine", f"run.folder={tmp_path}")
    assert code == 2
