"""What the benchmark of starting runs, with commands that take no time."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from jobs.bench import startup as bench
from jobs.bench.measure import Measurement
from jobs.bench.startup import Settings, bench_startup, commands_table, config_of
from raymc.training.bundle import WEIGHTS
from raymc.training.runs import BUNDLE

SMALL = Settings(rounds=2, clips=8, new_clips=2, epochs=3, overrides={"model.width": "16"})


class Commands:
    """Stands in for whole commands; a run's weights are those of `weights` by its kind."""

    def __init__(self, folder: Path, **weights: bytes) -> None:
        self.folder, self.weights = folder, weights
        self.ran: list[Sequence[str]] = []

    def run(self, arguments: Sequence[str]) -> tuple[float, str]:
        self.ran.append(arguments)
        for name in (word.partition("=")[2] for word in arguments if word[:9] == "run.name="):
            bundle = self.folder / "runs" / name / BUNDLE
            bundle.mkdir(parents=True)
            (bundle / WEIGHTS).write_bytes(self.weights[name.partition("-")[0]])
        return 5.0, ""


def measured(folder: Path, monkeypatch: pytest.MonkeyPatch, **weights: bytes) -> list[Measurement]:
    commands = Commands(folder, **weights)
    monkeypatch.setattr(bench, "timed", commands.run)
    monkeypatch.setattr(bench, "recorded_seconds", lambda config, run: 2.0)
    return bench.measure(config_of(SMALL, folder), folder, rounds=2)


def test_each_command_runs_once_a_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(tmp_path, monkeypatch, here=b"same", ray=b"same")
    assert [one.name for one in found] == [
        *bench.LIMITS,
        *(bench.TRAIN, bench.TRAIN_ON_RAY, bench.EVALUATE, bench.PREDICT),
    ]
    assert all(one["seconds"] == [5.0, 5.0] for one in found)
    assert {one.name: one["around"] for one in found if one["in_epochs"] == [2.0, 2.0]} == {
        bench.TRAIN: [3.0, 3.0],
        bench.TRAIN_ON_RAY: [3.0, 3.0],
    }
    lines = commands_table(found).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    spread, cpu = "5.00 (5.00 to 5.00)", "0.0 (0.0 to 0.0)"
    assert [bench.RAY, spread, "", spread, cpu, "1.00 (1.00 to 1.00)"] in rows
    around = ["3.00 (3.00 to 3.00)", cpu, "0.60 (0.60 to 0.60)"]
    assert [bench.TRAIN, spread, "2.00", *around] in rows


def test_other_weights_on_ray_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="came to different weights"):
        measured(tmp_path, monkeypatch, here=b"one", ray=b"other")


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(config: object, folder: Path, *, rounds: int) -> list[Measurement]:
        assert (folder / "digits" / "dataset.json").exists()
        one = Measurement(bench.RAY)
        one.add(seconds=1.0, in_epochs=0.0, around=1.0, cpu=2.0)
        return [one]

    monkeypatch.setattr(bench, "measure", measure)
    printed = io.StringIO()
    bench_startup(Console(file=printed), SMALL, out=tmp_path)
    assert "3 epochs of 8 clips; evaluated and predicted: 2 clips" in printed.getvalue()
    written = json.loads((tmp_path / "startup.json").read_text())
    assert [one["name"] for one in written["measurements"]] == [bench.RAY]
    config = config_of(SMALL, tmp_path)
    assert (config.model.width, config.train.epochs) == (16, 3)
