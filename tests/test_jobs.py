"""Jobs: their configurations hold, their entry points are thin, and one is really submitted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LABELS
from drivers import write_config

from raymc.bundle import load_bundle
from raymc.config import Config, check_space, load, override
from raymc.demo import demo_config

JOBS = Path(__file__).parent.parent / "jobs"
RAY = Path(sys.executable).with_name("ray")


@pytest.mark.parametrize("name", sorted(path.stem for path in JOBS.glob("configs/*.yaml")))
def test_every_configuration_can_be_searched(name: str) -> None:
    config = load(JOBS / "configs" / f"{name}.yaml")
    check_space(config)
    assert config.data.make is not None


def test_the_demo_is_a_configuration_like_any_other() -> None:
    assert load(JOBS / "configs" / "demo.yaml") == demo_config(Path("raymc-demo"))


@pytest.mark.parametrize("command", ["data", "predict", "train", "tune"])
def test_entry_points_do_what_the_command_line_does(command: str) -> None:
    file = JOBS / f"{command}.py"
    assert len(file.read_text().splitlines()) <= 40
    helped = subprocess.run(
        [sys.executable, file, "--help"], capture_output=True, text=True, check=True
    )
    assert helped.stdout.startswith(f"Usage: {file.name} {command} ")


@pytest.mark.slow
def test_a_job_is_submitted(
    ray_logs: Path, tiny_config: Config, runs_folder: Path, tmp_path: Path
) -> None:
    names = {"run.name": "job", "run.folder": str(runs_folder), "tracking.experiment": "job"}
    file = write_config(override(tiny_config, names), tmp_path / "config.yaml")
    job = [sys.executable, str(JOBS / "train.py"), str(file), "train.epochs=1"]
    submit = ["job", "submit", "--address", os.environ["RAY_API_SERVER_ADDRESS"]]
    done = subprocess.run(
        [RAY, *submit, "--", *job],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    bundle = runs_folder / "job" / "bundle"
    assert f"bundle: {bundle}" in done.stdout
    assert load_bundle(bundle).vocabulary.names == LABELS
    assert load_bundle(bundle).config.train.epochs == 1
