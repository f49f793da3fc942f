"""cluster/sky.yaml: as SkyPilot's schemas want it, and what its script does on each node."""

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from commands import ROOT, parse

TASK = yaml.safe_load((ROOT / "cluster" / "sky.yaml").read_text())
SCHEMAS = json.loads((Path(__file__).parent / "schemas" / "skypilot.json").read_text())


def problems(task: dict[str, Any]) -> list[str]:
    """Return what SkyPilot's loader refuses; it looks into resources and storage one by one."""
    parts = [("task", task), ("resources", task["resources"])]
    parts += [("storage", each) for each in task["file_mounts"].values()]
    return [
        error.message
        for name, part in parts
        for error in jsonschema.Draft202012Validator(SCHEMAS[name]).iter_errors(part)
    ]


def test_the_task_is_right() -> None:
    assert problems(TASK) == []
    line = f"raymc {TASK['envs']['COMMAND']} {TASK['envs']['SETTINGS']} --name x"
    parse(shlex.split(line.replace(" lessons.yaml", " jobs/configs/digits.yaml")))
    assert not {"RAY_AUTH_TOKEN"} & set(TASK["envs"])
    assert TASK["secrets"] == {"RAY_AUTH_TOKEN": None}  # asked for, and never in the file
    for script in (TASK["setup"], TASK["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("section", "key", "value", "found"),
    [
        ("resources", "use_spott", True, "'use_spott' was unexpected"),
        ("resources", "use_spot", "yes", "'yes' is not of type 'boolean'"),
        ("", "nodes", 2, "'nodes' was unexpected"),
        ("", "num_nodes", "two", "'two' is not of type 'integer'"),
    ],
)
def test_mistakes_are_found(section: str, key: str, value: Any, found: str) -> None:
    task = json.loads(json.dumps(TASK))
    (task[section] if section else task)[key] = value
    assert found in "\n".join(problems(task))


PROGRAM = """#!/bin/sh
echo "$(basename $0) $*" >> "$ASKED"
case "$1" in
  health-check) test ! -e "$ASKED.ended" && touch "$ASKED.ended" ;;
  train) exit "$CODE" ;;
esac
"""


@pytest.mark.parametrize(("rank", "code"), [(0, 0), (0, 7), (1, 7)])
def test_the_head_tells_how_the_job_went_and_others_wait_for_it(
    tmp_path: Path, rank: int, code: int
) -> None:
    for name in ("ray", "raymc"):
        (tmp_path / name).write_text(PROGRAM)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    (tmp_path / "sleep").chmod(0o755)
    asked = tmp_path / "asked"
    environment = {
        **TASK["envs"],
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "HOME": str(tmp_path / "home"),
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NODE_RANK": str(rank),
        "SKYPILOT_NUM_GPUS_PER_NODE": "1",
        "ASKED": str(asked),
        "CODE": str(code),
    }
    done = subprocess.run(["bash", "-c", TASK["run"]], env=environment, check=False)
    lines = asked.read_text().splitlines()
    if rank:
        assert done.returncode == 0
        assert lines[0] == "ray start --address=10.0.0.1:6379 --num-gpus=1"
        assert lines[1:] == ["ray health-check --address=10.0.0.1:6379"] * 2
    else:
        assert done.returncode == code
        assert lines[0].startswith("ray start --head --port=6379 --dashboard-host=127.0.0.1")
        assert lines[1].startswith("raymc train lessons.yaml data.path=s3://")
        assert lines[2] == "ray stop"
