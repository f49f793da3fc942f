"""The fault table: what is counted, and one fault really done."""

import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.chaos.faults import FAULTS, kill_driver
from cluster.chaos.run import Outcome, do_fault, fault_table
from cluster.chaos.scene import small_config
from cluster.chaos.soak import Watch, soak_table
from cluster.processes import kill_marked, marked, resident_bytes


def outcome(fault: str, **given: object) -> Outcome:
    known = {"is_right": True, "submissions": 1, "lost_trials": 0}
    known |= {"lost": None, "doubled": None, "repeated_steps": None}
    known |= {"problems": [], "recoveries": [], "seconds": 60.0}
    return Outcome(fault=fault, **{**known, **given})  # pyright: ignore[reportArgumentType]


def test_the_table_counts_by_fault() -> None:
    table = fault_table(
        [
            outcome("driver", submissions=2, recoveries=[9.0]),
            outcome("worker", lost=0, doubled=0, repeated_steps=7, recoveries=[4.0]),
            outcome("driver", is_right=False, submissions=4, lost_trials=2, recoveries=[11.0]),
            outcome("driver", problems=["MLflow has the trials [1, 1]"], recoveries=[10.0]),
        ]
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert [row[0] for row in rows[2:]] == ["training worker killed", "driver of a sweep killed"]
    assert rows[2][1:] == [
        "raymc train",
        "1",
        "1 of 1",
        "1 of 1",
        "0, 0",
        "7",
        "–",
        "1 of 1",
        "4.0",
    ]
    told = ["raymc tune", "3", "2 of 3", "1 of 3", "–, –", "–", "2", "1 of 3"]
    assert rows[3][1:] == [*told, "10.0 (9.0 to 11.0)"]


def test_a_run_that_never_went_on_is_told() -> None:
    assert "| inf |" in fault_table([outcome("worker", recoveries=[math.inf])])


def test_memory_is_told_by_quarters() -> None:
    driver, head = [n << 20 for n in (1, 9, 2, 2, 3, 3, 4, 4)], [5 << 20] * 8
    seen = Watch(["a"] * 3, driver, head)
    lines = soak_table(outcome("soak", seconds=61.0), seen, 40).splitlines()
    assert lines[0] == "40 trials in 61 s, 3 faults: ended complete, 0 trials lost"
    assert lines[-2] == "| driver | 5 MiB | 2 MiB | 3 MiB | 4 MiB |"
    assert lines[-1] == "| head | 5 MiB | 5 MiB | 5 MiB | 5 MiB |"
    failed = soak_table(outcome("soak", problems=["x"]), Watch(), 40)
    assert "DID NOT END WELL, 0 trials lost\nx\n" in failed
    assert ", 40 trials lost" in soak_table(outcome("soak", is_right=False), Watch(), 40)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_has_settings_and_a_name_of_its_own(fault: object, tmp_path: Path) -> None:
    assert (
        len({each.name for each in FAULTS}) == len({each.title for each in FAULTS}) == len(FAULTS)
    )
    assert small_config(tmp_path, **fault.settings).train.worker_resources == {"fake_gpu": 1}  # pyright: ignore[reportAttributeAccessIssue]


def test_processes_are_known_by_their_mark() -> None:
    mark = f"mark-{random.getrandbits(64)}"
    program = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'input()'])"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "RAYMC_TEST": mark},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    while len(pids := marked("RAYMC_TEST", mark)) < 2:
        assert process.poll() is None
    assert process.pid in pids
    assert all(sys.executable in command for command in pids.values())
    assert resident_bytes([*pids]) > resident_bytes([process.pid]) > 1 << 20
    kill_marked("RAYMC_TEST", mark)
    assert marked("RAYMC_TEST", mark) == {}
    assert resident_bytes([*pids]) == 0
    process.wait()


@pytest.mark.cluster
@pytest.mark.slow
def test_a_sweep_whose_driver_dies_goes_on() -> None:
    (fault,) = [each for each in FAULTS if each.happen is kill_driver]
    done = do_fault(fault, random.Random(0))
    assert (done.is_right, done.problems, done.lost_trials) == (True, [], 0), done
    assert done.submissions == 2
    assert 0 < done.recoveries[0] < math.inf


NAMES = ("node", "drain", "full", "readonly", "truncated", "head", "postgres")
STEPS_OF_AN_EPOCH = 480 // 16  # of `small_config`, and so between checkpoints
APART = ["unshare", "--pid", "--fork", "--mount-proc", "true"]


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_ends_right_by_itself(name: str) -> None:
    (fault,) = [each for each in FAULTS if each.name == name]
    if fault.wants_root and (os.geteuid() or subprocess.run(APART, check=False).returncode):
        pytest.skip("needs a root that may mount")
    for server, command in {"redis": "redis-server", "postgres": "createdb"}.items():
        if server in fault.needs and not shutil.which(command):
            pytest.skip(f"there is no {command}")
    done = do_fault(fault, random.Random(0))
    assert (done.is_right, done.problems, done.submissions) == (True, [], 1), done
    assert (done.lost, done.doubled, done.lost_trials) == (0, 0, 0)
    assert (done.repeated_steps or 0) <= STEPS_OF_AN_EPOCH
    assert all(seconds < math.inf for seconds in done.recoveries)
