"""The README says what is true: its reference is generated, its commands are those CI runs."""

import re
from pathlib import Path

from raymc.config import config_reference

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SETTINGS = (ROOT / "jobs" / "configs" / "README.md").read_text()


def test_reference_is_what_the_dataclasses_say() -> None:
    match = re.search(r"<!-- reference -->\n(.*)<!-- /reference -->", SETTINGS, re.DOTALL)
    assert match is not None
    problem = "put what `raymc config --reference` prints into jobs/configs/README.md"
    assert match[1].strip() == config_reference().strip(), problem


def test_ci_runs_the_test_command() -> None:
    command = next(line for line in README.splitlines() if line.endswith("/pytest"))
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_module_is_in_the_house() -> None:
    house = README.split("## The house")[1].split("## How it works")[0]
    modules = [p.name for p in (ROOT / "raymc").iterdir() if p.suffix == ".py" or p.is_dir()]
    named = {name for name in modules if not name.startswith("__")}
    assert {name for name in named if name.removesuffix("/") not in house} == set()
