"""Addresses of MLflow: which is in force, which can be used, and what a bad one says."""

import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from sockets import free_port
from tracking_cases import silent_server

from raymc.config import TrackingConfig
from raymc.errors import ConfigError, RaymcError, ResourceError
from raymc.tracking import connect, list_runs, open_tracker, runs_page, tracking_uri, ui_command


@pytest.mark.parametrize(
    ("uri", "variable", "expected"),
    [
        ("http://a:1", "http://b:2", "http://a:1"),
        ("", "http://b:2", "http://b:2"),
        ("", "", "sqlite:////data/runs/mlflow.db"),
    ],
)
def test_the_config_then_the_environment_then_a_local_file(
    uri: str, variable: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    assert tracking_uri(TrackingConfig(uri=uri), "/data/runs") == expected


@pytest.mark.parametrize(
    ("uri", "kind", "message"),
    [
        ("file:///tmp/mlruns", ConfigError, r"file:///tmp/mlruns: MLflow can't write to a folder"),
        ("runs/mlruns", ConfigError, r"expected sqlite:///FILE.db"),
        ("http://127.0.0.1:CLOSED", ResourceError, r"MLflow at http.*Connection refused"),
        ("http://me:secret@127.0.0.1:SILENT", ResourceError, r"http://me@.*timed out"),
        ("http://127.0.0.1:port", ResourceError, r"can't be used \(nonnumeric port"),
        ("postgresql://me:secret@127.0.0.1:CLOSED/x", ResourceError, r"//me@.*refused"),
        ("sqlite:////dev/null/x.db", ResourceError, r"start or repair it, correct tracking.uri"),
        ("sqlite:///TEXT", ResourceError, r"file is not a database"),
        ("postgresql://me:secret@[::1/x", ResourceError, r"//\[::1/x can't be used \(Invalid"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Dsecret", ResourceError, r"c:/// can't .*'pyodbc'"),
        ("nonsense://x", ResourceError, r"nonsense://x can't be used"),
    ],
)
def test_an_unusable_address_is_one_quick_line(
    uri: str,
    kind: type[RaymcError],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connect, "_ANSWER_SECONDS", 0.2)
    text = tmp_path / "text"
    text.write_text("no database " * 100)
    with silent_server() as silent:
        for name, value in (("CLOSED", free_port()), ("SILENT", silent), ("TEXT", text)):
            uri = uri.replace(name, str(value))
        began = time.monotonic()
        with pytest.raises(kind, match=message) as caught:
            open_tracker(TrackingConfig(uri=uri), str(tmp_path))
        assert time.monotonic() - began < 3.0
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_default_file_cannot_be_in_remote_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match=r"runs folder s3://b/runs: .*set tracking.uri"):
        open_tracker(TrackingConfig(), "s3://b/runs")


def test_a_deleted_experiment_is_explained(folder: str, config: TrackingConfig) -> None:
    with open_tracker(config, folder) as tracker:
        MlflowClient(tracker.uri).delete_experiment(tracker.experiment_id)
    with pytest.raises(ResourceError, match=r"was deleted in MLflow: restore it there"):
        open_tracker(config, folder)


def test_reading_does_not_create_a_database(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for read in (list_runs, ui_command):
        with pytest.raises(ResourceError, match="nothing has been recorded there yet"):
            read(uri)
    assert not list(tmp_path.iterdir())


def test_a_taken_port_is_one_clear_line(folder: str, config: TrackingConfig) -> None:
    uri = open_tracker(config, folder).uri
    with silent_server() as port, pytest.raises(ResourceError, match=rf"port {port} .*--port"):
        ui_command(uri, port)


def test_the_page_of_an_experiment_shows_sweeps(folder: str, config: TrackingConfig) -> None:
    server = "http://127.0.0.1:5000/"
    with open_tracker(config, folder) as tracker:
        assert runs_page(tracker.uri, "none", server) == "http://127.0.0.1:5000"
        page = f"http://127.0.0.1:5000/#/experiments/{tracker.experiment_id}/runs"
        page += "?workflowType=machine_learning"
        assert runs_page(tracker.uri, config.experiment, server) == page
        tracker.start_run("a", key="a", params={}, tags={})
        tracker.set_views("a", ["loss.margin"], "val/mAP")
        assert tracker.close() == 0
    shared = f"{page}&viewStateShareKey=raymc-sweeps"
    assert runs_page(tracker.uri, config.experiment, server) == shared


def test_a_server_shows_its_own_page() -> None:
    assert ui_command("https://mlflow.example.org") == []
