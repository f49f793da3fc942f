"""Jobs: their configurations hold, their entry points are thin, and one is really submitted."""

import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from drivers import running, wait_until, write_config
from tiny import LABELS

from cluster.processes import free_ports
from raymc.cli.demo import demo_config
from raymc.config import Config, check_space, load, override
from raymc.training.bundle import load_bundle

JOBS = Path(__file__).parents[2] / "jobs"
RAY = Path(sys.executable).with_name("ray")
OF_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}


@pytest.mark.parametrize("path", sorted(JOBS.glob("configs/**/*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_can_be_searched(path: Path) -> None:
    config = load(path)
    check_space(config)
    assert config.data.make is not None or config.extract.source


def test_the_demo_is_a_configuration_like_any_other() -> None:
    assert load(JOBS / "configs" / "demo.yaml") == demo_config(Path("raymc-demo"))


@pytest.mark.parametrize("command", ["data", "extract", "predict", "train", "tune"])
def test_entry_points_do_what_the_command_line_does(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = JOBS / f"{command}.py"
    assert len(file.read_text().splitlines()) <= 40
    monkeypatch.setattr(sys, "argv", [str(file), "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(file), run_name="__main__")
    assert capsys.readouterr().out.startswith(f"Usage: {file.name} {command} ")


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """The head of a cluster that takes jobs; all its ports are free ones.

    The Ray of the other tests can't be given a port for its agent, and takes no jobs if another
    Ray on the machine has the usual one.
    """
    port, dashboard, agent = free_ports(3)
    address = f"http://127.0.0.1:{dashboard}"
    environment = {**OF_RAY, "RAY_API_SERVER_ADDRESS": address}
    with TemporaryDirectory(prefix="ray-") as folder:  # Ray's sockets need a short path
        where = ["--port", port, "--dashboard-port", dashboard, "--temp-dir", folder]
        where += ["--dashboard-agent-listen-port", agent, "--num-cpus", "3"]
        start = ["start", "--head", "--block", *where, "--object-store-memory", str(300 << 20)]
        with running(RAY, *start, log=tmp_path / "head.log", environment=environment) as process:
            wait_until(lambda: _takes_jobs(address), process)
            yield address


def _takes_jobs(address: str) -> bool:
    """Say whether the head has begun to take jobs, by having it do nothing once."""
    return submit(address, "true").returncode == 0


def submit(address: str, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a job, to its end."""
    return subprocess.run(
        [RAY, "job", "submit", "--address", address, "--", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **OF_RAY, "RAY_API_SERVER_ADDRESS": address},
        timeout=300,
    )


@pytest.mark.slow
def test_a_job_is_submitted(
    head: str, tiny_config: Config, runs_folder: Path, tmp_path: Path
) -> None:
    names = {"run.name": "job", "run.folder": str(runs_folder), "tracking.experiment": "job"}
    file = write_config(override(tiny_config, names), tmp_path / "config.yaml")
    done = submit(head, sys.executable, JOBS / "train.py", file, "train.epochs=1")
    assert done.returncode == 0, done.stdout
    bundle = runs_folder / "job" / "bundle"
    assert f"bundle: {bundle}" in done.stdout
    assert load_bundle(bundle).vocabulary.names == LABELS
    assert load_bundle(bundle).config.train.epochs == 1
