"""What a cluster has and what it may grow to, what that allows, and who can reach it."""

import os
import re
import socket
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from drivers import running, wait_until
from ray.util.state import list_actors
from sockets import LOOPBACK, addresses_of

from raymc.config import Config, override
from raymc.errors import ConfigError, ResourceError
from raymc.runtime.connect import (
    GROWS_TO,
    capacity,
    connect,
    expect_nodes,
    worker_resources,
)
from raymc.search.sweep import concurrent_trials

TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
pytestmark = pytest.mark.usefixtures("ray_logs")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the environment back after each test."""
    monkeypatch.setenv(TIMEOUT, "")
    monkeypatch.delenv(TIMEOUT)
    monkeypatch.setenv(GROWS_TO, "CPU=40,GPU=4,fake_gpu=2")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("ray://127.0.0.1:10001", "HOST:PORT"),
        ("http://127.0.0.1:8265", "`raymc submit`"),
        ("nowhere", "expected HOST:PORT"),
        ("another server", "what listens there is not Ray"),
    ],
)
def test_an_address_where_no_cluster_answers(
    monkeypatch: pytest.MonkeyPatch, address: str, why: str
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        if address == "another server":  # takes connections and says nothing
            address = f"127.0.0.1:{server.getsockname()[1]}"
            monkeypatch.setattr("raymc.runtime.connect._ANSWER_SECONDS", 0.5)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ResourceError, match=why) as caught:
            connect()
    assert address in str(caught.value)
    assert "\n" not in str(caught.value)


_WAITING = """
import time
from raymc.runtime import interruption
with interruption.ending_in_order("tune"):
    from raymc.runtime.connect import connect
    connect()
    interruption.remember_started()  # as it does from time to time
    print("connected:", *(one.pid for one in interruption._state.started), flush=True)
    time.sleep(600)
"""


def test_a_command_does_not_wait_for_a_ray_that_has_died(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with running(sys.executable, "-c", _WAITING, log=log) as process:
        wait_until(lambda: re.search("connected: .*\n", log.read_text()) is not None, process)
        told = log.read_text().partition("connected: ")[2].splitlines()[0]
        family = [psutil.Process(int(pid)) for pid in told.split() if psutil.pid_exists(int(pid))]
        next(one for one in family if one.name() == "raylet").kill()
        assert process.wait(300) == 1
        assert not [one for one in family if one.is_running() and one.status() != "zombie"]
    what = "Ray's processes on this machine have ended unexpectedly"
    advice = "run the same command again to resume"
    assert f"raymc: {what}; {advice}" in log.read_text().splitlines()


def test_all_of_ray_listens_on_this_machine_alone() -> None:
    children = psutil.Process().children(recursive=True)
    addresses = addresses_of(child.pid for child in children)
    assert len(addresses) > 5
    assert {host for host, _ in addresses} <= LOOPBACK


def test_a_ray_of_ours_is_small_and_tells_its_actors() -> None:
    tests = psutil.Process()
    commands = {child: " ".join(child.cmdline()) for child in tests.children(recursive=True)}
    assert not [command for command in commands.values() if "monitor.py" in command]
    of_ray = commands.keys() - set(tests.children())  # among which may be those of other tests
    assert len([child for child in of_ray if "multiprocessing" in commands[child]]) < 5
    assert list_actors(filters=[("class_name", "=", "Nobody")]) == []


def changed(config: Config, **settings: Any) -> Config:
    return override(config, {name.replace("__", "."): x for name, x in settings.items()})


def test_capacity_is_what_there_is_or_may_be() -> None:
    most = capacity()
    assert (most["CPU"], most["GPU"], most["fake_gpu"]) == (40, 4, 2)
    assert most["object_store_memory"] > 0


def test_a_cluster_that_does_not_grow(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(GROWS_TO)
    assert capacity()["CPU"] == 3
    each = worker_resources(changed(tiny_config, train__device="auto"))
    assert each == {"CPU": 1.0}
    assert concurrent_trials(tiny_config, each) == 2
    assert expect_nodes(tiny_config, each) == ""
    assert TIMEOUT not in os.environ


@pytest.mark.parametrize(
    ("settings", "gpus"),
    [
        ({"train__device": "gpu"}, 1.0),
        ({"train__device": "auto"}, 1.0),
        ({"train__device": "cpu"}, 0.0),
        ({"train__device": "auto", "train__workers": 5}, 0.0),
        ({"train__device": "gpu", "search__gpus_per_trial": 0.5, "train__workers": 8}, 0.5),
    ],
)
def test_gpus_that_may_come_count(
    settings: dict[str, Any], gpus: float, tiny_config: Config
) -> None:
    assert worker_resources(changed(tiny_config, **settings)).get("GPU", 0) == gpus


def test_workers_wait_for_nodes(tiny_config: Config) -> None:
    config = changed(tiny_config, train__device="gpu", train__workers=2)
    waiting = expect_nodes(config, worker_resources(config))
    assert waiting == "waiting for 2 GPU: the cluster starts nodes"
    assert float(os.environ[TIMEOUT]) > 600
    config = changed(tiny_config, train__workers=4, train__worker_resources={"fake_gpu": 0.5})
    each = worker_resources(config)
    assert each == {"CPU": 1.0, "fake_gpu": 0.5}
    assert expect_nodes(config, each) == "waiting for 4 CPU, 2 fake_gpu: the cluster starts nodes"
    assert expect_nodes(tiny_config, worker_resources(tiny_config)) == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train__device": "gpu", "train__workers": 5}, r"needs 5 GPU, but this Ray cluster has 4"),
        ({"train__workers": 41}, r"train.workers is 41, each with 1 CPU, but this .* has 40 CPU:"),
        (
            {"train__workers": 2, "train__worker_resources": {"fake_gpu": 1.5}},
            r"each with 1.5 fake_gpu, but this Ray cluster has 2 fake_gpu: ask for fewer workers",
        ),
    ],
)
def test_what_can_never_come_is_refused(
    settings: dict[str, Any], message: str, tiny_config: Config
) -> None:
    with pytest.raises(ResourceError, match=message):
        worker_resources(changed(tiny_config, **settings))


@pytest.mark.parametrize(
    ("settings", "each", "trials"),
    [
        ({}, {}, 39),
        ({}, {"GPU": 1.0}, 4),
        ({"train__workers": 2}, {"GPU": 0.5}, 4),
        ({"search__concurrent": 3}, {"GPU": 1.0}, 3),
        ({}, {"fake_gpu": 1.0}, 2),
    ],
)
def test_trials_are_planned_for_what_may_come(
    settings: dict[str, Any], each: dict[str, float], trials: int, tiny_config: Config
) -> None:
    config = changed(tiny_config, **settings)
    assert concurrent_trials(config, {"CPU": 1.0, **each}) == trials


def test_not_even_one_trial_fits(tiny_config: Config) -> None:
    message = r"1 workers with 1 CPU, 3 fake_gpu each .* \(39 CPU, 2 fake_gpu, with one CPU"
    with pytest.raises(ResourceError, match=message):
        concurrent_trials(tiny_config, {"CPU": 1.0, "fake_gpu": 3.0})


@pytest.mark.parametrize("limits", ["GPU", "GPU=many", "4"])
def test_limits_that_are_none(limits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GROWS_TO, limits)
    with pytest.raises(ConfigError, match=rf"{GROWS_TO}={limits}: expected limits such as"):
        capacity()
