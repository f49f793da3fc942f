"""The fault table: what is counted, and faults in real runs."""

import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from cluster.chaos.faults import FAULTS, Fault
from cluster.chaos.run import Outcome, do_fault, fault_table
from cluster.chaos.scene import Scene, small_config
from cluster.chaos.services import Server
from cluster.chaos.soak import Watch, faults_of_soak, soak_table
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
    seen = Watch(["node", "disk", "node"], driver, head)
    lines = soak_table(outcome("soak", seconds=61.0), seen, 40).splitlines()
    told = "40 trials in 61 s, 3 faults: ended complete, 0 trials lost, submitted 1 times"
    assert lines[:2] == [told, "disk 1, node 2"]
    assert lines[-2] == "| driver | 5 MiB | 2 MiB | 3 MiB | 4 MiB |"
    assert lines[-1] == "| head | 5 MiB | 5 MiB | 5 MiB | 5 MiB |"
    failed = soak_table(outcome("soak", problems=["x"]), Watch(), 40)
    assert "DID NOT END WELL, 0 trials lost, submitted 1 times\n\nx\n" in failed
    assert ", 40 trials lost" in soak_table(outcome("soak", is_right=False), Watch(), 40)


def test_every_fault_has_settings_and_a_name_of_its_own(tmp_path: Path) -> None:
    assert len({each.name for each in FAULTS}) == len({each.title for each in FAULTS})
    assert len({each.name for each in FAULTS}) == len(FAULTS)
    for fault in FAULTS:
        config = small_config(tmp_path, **fault.settings)
        assert config.train.worker_resources == {"fake_gpu": 1}
    soak = faults_of_soak()
    assert {each.happen for each in soak} == {each.happen for each in FAULTS if not each.is_rude}
    assert {name for each in FAULTS for name in each.rays} == {
        n for each in soak for n in each.rays
    }


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


def test_a_server_is_started_with_what_its_command_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of MLflow's server puts the address of the database into the environment."""
    program = "import os, time; print(os.environ['RAYMC_TEST'], flush=True); time.sleep(600)"

    def command() -> list[str]:
        monkeypatch.setenv("RAYMC_TEST", "the database")
        return [sys.executable, "-S", "-c", program]

    log = tmp_path / "server.log"
    server = Server("", command, lambda: log.read_text() == "the database\n", log)
    server.start()
    server.kill()


STEPS_OF_AN_EPOCH = 480 // 16  # of `small_config`, and so between checkpoints
SERVERS = {"redis": "redis-server", "postgres": "createdb"}
APART = ["unshare", "--pid", "--fork", "--mount-proc", "true"]


def one_after_the_other(command: Literal["train", "tune"], *names: str, epochs: int) -> Fault:
    """Several faults in one run, which saves a cluster for each."""
    faults = [fault for name in names for fault in FAULTS if fault.name == name]
    settings = {section: dict(x) for fault in faults for section, x in fault.settings.items()}
    settings["train"] = {**settings.get("train", {}), "epochs": epochs}

    def happen(scene: Scene) -> None:
        for number, fault in enumerate(faults):
            if number:  # the first one's moment has come
                scene.wait_for_moment(fault.moment)
            fault.happen(scene)

    return Fault(
        name="+".join(names),
        title="several",
        command=command,
        happen=happen,
        moment=faults[0].moment,
        settings=settings,
        needs=tuple({need for fault in faults for need in fault.needs}),
        is_job=any(fault.is_job for fault in faults),
        retries=max(fault.retries for fault in faults),
        rays={name: value for fault in faults for name, value in fault.rays.items()},
    )


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        one_after_the_other("train", "full", "drain", "truncated", epochs=24),
        one_after_the_other("train", "head", epochs=80),
        one_after_the_other("tune", "sweep-node", "postgres", "rayjob", epochs=16),
    ],
    ids=lambda fault: fault.name,
)
def test_what_ends_right_by_itself(fault: Fault) -> None:
    if fault.wants_root and (os.geteuid() or subprocess.run(APART, check=False).returncode):
        pytest.skip("needs a root that may mount")
    for server in set(fault.needs) & set(SERVERS):
        if not shutil.which(SERVERS[server]):
            pytest.skip(f"there is no {SERVERS[server]}")
    done = do_fault(fault, random.Random(3))
    assert (done.is_right, done.problems, done.submissions) == (True, [], 1), done
    assert (done.lost, done.doubled, done.lost_trials) == (0, 0, 0)
    number = len(fault.name.split("+"))
    assert (done.repeated_steps or 0) <= STEPS_OF_AN_EPOCH * number
    assert len(done.recoveries) == number
    assert all(seconds < math.inf for seconds in done.recoveries)
