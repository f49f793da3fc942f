"""A group that grows and shrinks with its cluster uses every row once."""

import json
import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
from drivers import write_config
from tiny import SPLIT_ROWS

from cluster.processes import without_ray
from raymc.config import Config, override
from raymc.training.audit import audit_run, load_attempts, restarts
from raymc.training.runs import read_run


@pytest.mark.slow
@pytest.mark.cluster
def test_a_node_comes_is_drained_and_goes(
    tiny_config: Config, tmp_path: Path, runs_folder: Path
) -> None:
    settings = {
        "batch.size": 2,
        "train.workers": [1, 2],
        "train.epochs": 100_000,
        "run.name": "elastic",
        "run.folder": str(tmp_path / "runs"),
        "tracking.uri": f"sqlite:///{runs_folder / 'mlflow.db'}",
    }
    config = write_config(override(tiny_config, settings), tmp_path / "config.yaml")
    program = Path(__file__).with_name("grow_and_shrink.py")
    done = subprocess.run(
        [sys.executable, program, tmp_path, config],
        env={**without_ray(), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        check=False,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, (tmp_path / "log").read_text()
    assert json.loads(done.stdout.splitlines()[-1])["seconds"] < 10
    attempts = load_attempts(tmp_path / "runs" / "elastic")
    assert [attempt.workers for attempt in attempts][:3] == [1, 2, 1]
    found = audit_run(read_run(tmp_path / "runs" / "elastic"))
    assert found.is_right
    *whole, part = found.epochs
    assert {epoch.once for epoch in whole} == {SPLIT_ROWS["train"]}
    in_order = [number for epoch in found.epochs for number in epoch.workers]
    assert [number for number, _ in groupby(in_order)] == [1, 2, 1]
    assert part.lost == 0
    grown, _ = restarts(attempts)[:2]
    assert grown.repeated_steps <= 2 * attempts[0].steps_per_epoch  # one that is being stored
