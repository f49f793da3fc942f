"""Records while MLflow is unreachable, stalls, refuses or dies, and the spool they wait in."""

import logging
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND
from sockets import free_port
from test_models import as_user, expected_scores, frame, save_tiny_bundle
from tracking_cases import away, kill, run_server, runs_of, start, steps, wait_until

from raymc.config import TrackingConfig
from raymc.errors import ResourceError
from raymc.tracking import Tracker, count_left, open_tracker, ui_command
from raymc.tracking.models import log_bundle
from raymc.tracking.writer import SPOOL_FILE, Record, Spool, may_pass


def test_records_wait_while_mlflow_is_away(
    folder: str,
    config: TrackingConfig,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[logging.LogRecord],
) -> None:
    tracker = open_tracker(config, folder)
    with away(monkeypatch) as calls:
        began = time.monotonic()
        run = start(tracker)
        for epoch in range(1, 51):
            tracker.log_epoch(run, epoch, {"val/mAP": epoch / 100})
        tracker.end_run(run, "complete")
        assert time.monotonic() - began < 1.0
        wait_until(lambda: len(calls) >= 3)
    assert tracker.close() == 0
    (only,) = runs_of(tracker)
    assert steps(only, "val/mAP", tracker.uri) == [(epoch, epoch / 100) for epoch in range(1, 51)]
    assert only.info.status == "FINISHED"
    assert [record.getMessage() for record in logged] == [
        f"MLflow at {tracker.uri} is unreachable (connection refused); records wait, "
        "and the run continues"
    ]


def test_a_lost_answer_doubles_nothing(
    folder: str, config: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = open_tracker(config, folder)
    with away(monkeypatch, stores=True) as calls:
        start(tracker)
        wait_until(lambda: bool(calls))
    tracker.run_id("a")
    with away(monkeypatch, stores=True) as calls:
        tracker.log_epoch("a", 1, {"val/mAP": 0.5})
        wait_until(lambda: len(calls) >= 2)
    wait_until(lambda: tracker._writer.waiting == 0)
    with away(monkeypatch, stores=True) as calls:
        tracker.end_run("a", "complete", metrics={"cost/seconds": 3.0})
        wait_until(lambda: len(calls) >= 2)
    assert tracker.close() == 0
    (only,) = runs_of(tracker)
    for name, value in (("val/mAP", 0.5), ("cost/seconds", 3.0)):
        history = MlflowClient(tracker.uri).get_metric_history(only.info.run_id, name)
        assert [(point.step, point.value) for point in history] == [(1, value)]
    assert only.info.status == "FINISHED"


class HttpError(OSError):
    """As artifact stores raise it."""

    def __init__(self, status_code: int) -> None:
        self.response = self
        self.status_code = status_code


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (MlflowException("x"), True),
        (MlflowException.invalid_parameter_value("x"), False),
        (MlflowException("a proxy's 404", error_code=ENDPOINT_NOT_FOUND), True),
        (HttpError(503), True),
        (HttpError(429), True),
        (HttpError(403), False),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (PermissionError(), False),
        (ModuleNotFoundError("boto3"), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, passes: bool) -> None:
    assert may_pass(error) is passes


def test_close_counts_what_never_arrived(
    folder: str,
    config: TrackingConfig,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[logging.LogRecord],
) -> None:
    tracker = open_tracker(config, folder)
    with away(monkeypatch):
        run = start(tracker)
        tracker.log_epoch(run, 1, {"val/mAP": 0.1})
        began = time.monotonic()
        assert tracker.close(timeout_seconds=0.3) == 2
        assert time.monotonic() - began < 1.0
        tracker.log_epoch(run, 2, {"val/mAP": 0.1})
        assert tracker.close() == 2
    assert [record.levelno for record in logged] == [logging.WARNING] * 2
    assert "2 records were not written" in logged[-1].getMessage()
    assert runs_of(tracker) == []


def test_a_refused_record_does_not_hold_up_the_others(
    folder: str, config: TrackingConfig, logged: list[logging.LogRecord]
) -> None:
    tracker = open_tracker(config, folder)
    tracker.log_epoch("never started", 1, {"val/mAP": 0.1})
    tracker.log_epoch(start(tracker), 1, {"val/mAP": 0.1})
    assert tracker.close() == 1
    assert [record.getMessage() for record in logged] == [
        "MLflow refused epoch 1 of never started: run never started was not started"
    ]
    assert runs_of(tracker)[0].data.metrics["val/mAP"] == 0.1


def test_one_can_wait_until_everything_is_there(
    folder: str, config: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_tracker(config, folder) as tracker:
        with away(monkeypatch):
            run = start(tracker)
            with pytest.raises(ResourceError, match=r"is unreachable; 1 records wait$"):
                tracker.wait(timeout_seconds=0.1)
            tracker.log_epoch(run, 1, {"val/mAP": 0.1})
        tracker.wait()
        assert steps(runs_of(tracker)[0], "val/mAP", tracker.uri) == [(1, 0.1)]


@pytest.mark.slow
def test_a_server_that_stalls_dies_and_comes_back_has_every_record_and_takes_models(
    folder: str, config: TrackingConfig, tmp_path: Path
) -> None:
    with open_tracker(config, folder) as local:
        start(local)
    port = free_port()
    command = ui_command(local.uri, port)
    server = run_server(command, tmp_path)
    try:
        remote = TrackingConfig(uri=f"http://127.0.0.1:{port}", experiment="server")
        tracker = open_tracker(remote, folder, folder=tmp_path)
        run = start(tracker)
        tracker.log_epoch(run, 1, {"val/mAP": 0.01})
        tracker.run_id(run)
        os.killpg(server.pid, signal.SIGSTOP)
        assert longest_call(tracker, run, range(2, 11)) < 1.0
        os.killpg(server.pid, signal.SIGCONT)
        wait_until(lambda: tracker._writer.waiting == 0, 30.0)
        os.killpg(server.pid, signal.SIGSTOP)
        assert longest_call(tracker, run, range(11, 16)) < 1.0  # one of them is on its way
        kill(server)
        assert longest_call(tracker, run, range(16, 21)) < 1.0
        other = start(tracker, "b")
        tracker.log_json(other, "config.json", {"a": 1})
        assert count_left(tmp_path) == 12
        server = run_server(command, tmp_path)
        tracker.end_run(run, "complete")
        assert tracker.close(timeout_seconds=60.0) == 0
        assert count_left(tmp_path) == 0
        (stored,) = [one for one in runs_of(tracker) if one.data.tags["raymc.key"] == "a"]
        assert stored.info.status == "FINISHED"
        expected = [(epoch, epoch / 100) for epoch in range(1, 21)]
        assert steps(stored, "val/mAP", tracker.uri) == expected
        files = MlflowClient(tracker.uri).list_artifacts(tracker.run_id(other))
        assert [file.path for file in files] == ["config.json"]

        bundles = [save_tiny_bundle(tmp_path, seed) for seed in (0, 1)]
        for bundle in bundles:
            log_bundle(
                bundle, stored.info.run_id, uri=tracker.uri, register_as="remote", alias="champion"
            )
        with as_user(tracker.uri):
            model = mlflow.pyfunc.load_model("models:/remote@champion")
        scores = model.predict(frame()).iloc[:, 1:4].to_numpy()
        np.testing.assert_allclose(scores, expected_scores(bundles[1]), rtol=1e-5, atol=1e-6)
    finally:
        kill(server)


def longest_call(tracker: Tracker, run: str, epochs: range) -> float:
    """Record epochs; return the seconds of the call that took longest."""
    seconds = []
    for epoch in epochs:
        began = time.monotonic()
        tracker.log_epoch(run, epoch, {"val/mAP": epoch / 100})
        seconds.append(time.monotonic() - began)
    return max(seconds)


def record(number: int) -> Record:
    metrics = {"val/mAP": number / 10, "train/loss": float("inf")}
    return Record(f"epoch {number}", "log_epoch", {"run": "ä", "metrics": metrics})


def spool_with(folder: Path, *numbers: int) -> Spool:
    spool = Spool(folder)
    for number in numbers:
        spool.add(record(number))
    return spool


def test_the_next_process_finds_what_is_left(tmp_path: Path) -> None:
    spool_with(tmp_path, 1, 2).close(keep=True)
    assert count_left(tmp_path) == 2
    spool = Spool(tmp_path)
    assert spool.left == [record(1), record(2)]
    spool.add(record(3))
    spool.close(keep=True)
    assert Spool(tmp_path).left == [record(1), record(2), record(3)]


def test_nothing_is_left_of_what_was_written(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, 1, 2)
    spool.clear()
    assert count_left(tmp_path) == 0
    spool.add(record(3))
    spool.close(keep=True)
    spool = Spool(tmp_path)
    assert spool.left == [record(3)]
    spool.close(keep=False)
    assert list(tmp_path.iterdir()) == []
    assert count_left(tmp_path) == 0


def test_a_line_that_a_crash_tore_is_left_out(tmp_path: Path) -> None:
    spool_with(tmp_path, 1, 2).close(keep=True)
    file = tmp_path / SPOOL_FILE
    file.write_bytes(file.read_bytes()[:-5])
    spool = Spool(tmp_path)
    assert spool.left == [record(1)]
    spool.add(record(3))
    spool.close(keep=True)
    assert Spool(tmp_path).left == [record(1), record(3)]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file grows beyond some bytes, as if the disk were full then."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_had_no_space_is_kept_in_order_when_there_is_some(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, 1)
    size = (tmp_path / SPOOL_FILE).stat().st_size
    for limit in (size, size + 20):  # no byte of the line fits; a part of it does
        with files_of_at_most(limit), pytest.raises(OSError, match=r"large|space"):
            spool.add(record(limit))
        assert (tmp_path / SPOOL_FILE).stat().st_size == size
    assert spool.unsaved == [record(size), record(size + 20)]
    spool.add(record(4))
    assert spool.unsaved == []
    spool.close(keep=True)
    assert Spool(tmp_path).left == [record(1), record(size), record(size + 20), record(4)]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, 1)
    with pytest.raises(ResourceError, match=r"another process is writing the records of /"):
        Spool(tmp_path)
    spool.close(keep=True)
    assert Spool(tmp_path).left == [record(1)]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"mlflow-spool.jsonl can't be written: No such file"):
        Spool(tmp_path / "none")


def test_a_file_of_something_else(tmp_path: Path) -> None:
    (tmp_path / SPOOL_FILE).write_text("notes\n")
    with pytest.raises(ResourceError, match=r"does not contain records: move it elsewhere"):
        Spool(tmp_path)
