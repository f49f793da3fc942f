"""cluster/sky.yaml: as SkyPilot's schemas want it, and what its script does on each node."""

import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from commands import ROOT, parse
from packaging.specifiers import SpecifierSet

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


PROGRAM = """#!/bin/bash
echo "$(basename $0) $*" >> "$ASKED"
case "$SKYPILOT_NODE_RANK $1 $2" in
  "0 health-check "*) test -e "$ASKED.started" ;;
  "1 health-check "*) test ! -e "$ASKED.ended" && touch "$ASKED.ended" ;;
  "0 train "*) echo "grows to $RAYMC_CLUSTER_GROWS_TO" >> "$ASKED"; exit "$CODE" ;;
  "0 start --head")
    trap 'kill $!; echo "the head was ended" >> "$ASKED"; exit' TERM
    /bin/sleep 60 & touch "$ASKED.started"
    wait ;;
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
        "SKYPILOT_NUM_NODES": "2",
        "OMP_NUM_THREADS": "1",
        "SKYPILOT_NUM_GPUS_PER_NODE": "1",
        "ASKED": str(asked),
        "CODE": str(code),
    }
    done = subprocess.run(["bash", "-c", TASK["run"]], env=environment, check=False)
    lines = asked.read_text().splitlines()
    own = "--num-gpus=1 --dashboard-agent-listen-port=52366"
    if rank:
        assert done.returncode == 0
        assert lines[0] == f"ray start --address=10.0.0.1:6379 {own}"
        assert lines[1:] == ["ray health-check --address=10.0.0.1:6379"] * 2
    else:
        assert done.returncode == code
        head, job, size, end = (line for line in lines if not line.startswith("ray health-check"))
        assert head.startswith("ray start --head --block --port=6379")
        assert head.endswith(f"--dashboard-host=127.0.0.1 {own}")
        assert job.startswith("raymc train lessons.yaml data.path=s3://")
        assert size == f"grows to CPU={2 * len(os.sched_getaffinity(0))},GPU=2"
        assert end == "the head was ended"  # by itself: `ray stop` would end SkyPilot's Ray, too


def test_raymc_is_installed_for_a_python_that_it_takes(tmp_path: Path) -> None:
    uv = tmp_path / ".local" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text(f"""#!/bin/sh
echo "uv $*" >> {tmp_path}/asked
mkdir -p ~/raymc-venv/bin
printf '#!/bin/sh\necho "pip $*" >> {tmp_path}/asked\n' > ~/raymc-venv/bin/pip
cp ~/raymc-venv/bin/pip ~/raymc-venv/bin/python
chmod +x ~/raymc-venv/bin/*
""")
    uv.chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    for _ in range(2):  # a machine is set up again for each job
        subprocess.run(["bash", "-c", TASK["setup"]], env=environment, check=True)
    made, *installed = (tmp_path / "asked").read_text().splitlines()
    assert installed == ["pip install --quiet --constraint cluster/constraints.txt .[media]"] * 2
    (python,) = re.findall(r"^uv venv --seed --python (\S+) \S+/raymc-venv$", made)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(python)
    assert f"ARG PYTHON_IMAGE=python:{python}." in (ROOT / "cluster" / "Dockerfile").read_text()
