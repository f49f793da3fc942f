"""Jobs: their configurations hold, and their entry points are thin."""

import runpy
import sys
from pathlib import Path

import pytest

from raymc.cli.demo import demo_config
from raymc.config import check_space, load

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize("path", sorted(JOBS.glob("configs/**/*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_can_be_searched(path: Path) -> None:
    config = load(path)
    check_space(config)
    is_made_by_a_command = "#     python -m jobs.bench" in path.read_text("utf-8")
    assert config.data.make is not None or config.extract.source or is_made_by_a_command


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
