"""Finds MLflow: which address applies, whether it answers, and its experiment.

Every address is checked before MLflow's client uses it, because the client would retry an
unreachable server for four minutes.
"""

import os
import socket
import sqlite3
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from raymc.addresses import (
    keep_password,
    limit_connecting,
    resolved,
    with_password,
    without_password,
)
from raymc.config import TrackingConfig
from raymc.errors import ConfigError, ResourceError
from raymc.tracking.records import reason

if TYPE_CHECKING:
    import mlflow


_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_ANSWER_SECONDS = 5.0
_SWITCHES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the writer retries
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",  # or a model would include uv.lock of the working directory
}


def tracking_uri(config: TrackingConfig, runs_folder: str) -> str:
    """Return MLflow's address: the config's, MLFLOW_TRACKING_URI, or a file in the runs folder.

    It has no password. If it is that of MLFLOW_TRACKING_URI but for the password, which settings
    do not keep, the variable's is used to connect.

    Raises:
        ConfigError: Neither is set, and the runs folder is remote, where no database can be; or
            the address names a variable that is not set.
    """
    given = keep_password(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if uri := config.uri or given:
        return resolved(uri)
    if "://" in runs_folder:
        raise ConfigError(
            f"runs folder {runs_folder}: MLflow's default database can't be in remote storage; "
            "set tracking.uri or MLFLOW_TRACKING_URI to a server or a database"
        )
    return f"sqlite:///{(Path(runs_folder).resolve() / 'mlflow.db').as_posix()}"


def open_client(uri: str, *, create: bool) -> "mlflow.MlflowClient":
    """Return a client, once the store has answered; `create` makes a missing local file.

    Raises:
        ConfigError: MLflow can't write to an address of this kind.
        ResourceError: The server or database does not answer.
    """
    if uri.partition(":")[0] in (uri, "", "file"):
        raise ConfigError(
            f"tracking.uri {without_password(uri)}: MLflow can't write to a folder; expected "
            "sqlite:///FILE.db, another database, or http(s)://HOST:PORT of a server"
        )
    check_reachable(uri, create=create)
    _set_switches()
    from mlflow import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    with answering(uri):
        try:
            return MlflowClient(tracking_uri=with_password(uri))
        except (ImportError, ValueError, SQLAlchemyError) as error:  # no such database, or driver
            raise unusable(uri, error) from error


def open_experiment(client: "mlflow.MlflowClient", name: str, runs_folder: str) -> str:
    """Return the id of an experiment, made if it doesn't exist.

    Its artifacts go to the runs folder unless a server stores them.

    Raises:
        ResourceError: MLflow refuses, or the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    artifacts = f"{runs_folder.rstrip('/')}/artifacts"
    if _is_server(client.tracking_uri):
        artifacts = None
    elif "://" not in runs_folder:
        artifacts = (Path(runs_folder).resolve() / "artifacts").as_uri()
    try:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            return client.create_experiment(name, artifact_location=artifacts)
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS":  # another process was faster
            return open_experiment(client, name, runs_folder)
        raise unusable(client.tracking_uri, error) from error
    if experiment.lifecycle_stage == "deleted":
        raise ResourceError(
            f"experiment {name!r} was deleted in MLflow: restore it there, or set "
            "tracking.experiment to another name"
        )
    return experiment.experiment_id


def ui_command(uri: str, port: int = 5000) -> list[str]:
    """Return the command that serves MLflow's pages on http://127.0.0.1:PORT.

    Run it with this process's environment, which has the address, because everyone on this machine
    can read a command, and in which telemetry is switched off. The command is empty if `uri` is a
    server's, which has these pages already.

    Raises:
        ResourceError: There are no records at `uri`, or the port is taken.
    """
    if _is_server(uri):
        return []
    check_reachable(uri, create=False)
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise ResourceError(
            f"port {port} of this machine can't be used ({reason(error)}): if MLflow isn't running "
            "there already, choose another port with --port"
        ) from error
    _set_switches()
    server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    quiet = ["--workers", "1", "--uvicorn-opts", "--log-level=warning"]
    os.environ["MLFLOW_BACKEND_STORE_URI"] = with_password(uri)
    return [*server, *quiet]


def check_reachable(uri: str, *, create: bool) -> None:
    """Check within seconds that an address answers; `create` makes a local file's folder.

    Raises:
        ResourceError: It doesn't.
    """
    try:
        address = urlsplit(uri)
        kind = address.scheme.partition("+")[0]
        if kind == "sqlite":
            _check_file(sqlite_file(uri), create=create)
        elif kind in ("http", "https"):
            host = address.netloc.rpartition("@")[2]
            health = f"{kind}://{host}{address.path.rstrip('/')}/health"
            urllib.request.urlopen(health, timeout=_ANSWER_SECONDS).close()
        elif kind in _PORTS and address.hostname:
            server = (address.hostname, address.port or _PORTS[kind])
            socket.create_connection(server, timeout=_ANSWER_SECONDS).close()
    except urllib.error.HTTPError:
        return  # it answers; MLflow's client deals with a proxy or a login
    except (OSError, ValueError, HTTPException, sqlite3.Error) as error:
        raise unusable(uri, error) from error


def sqlite_file(uri: str) -> Path:
    """Return the file of an address such as `sqlite:///runs/mlflow.db`."""
    return Path(uri.partition(":///")[2].partition("?")[0])


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turn MLflow's errors inside the block into the one line of `unusable`.

    Raises:
        ResourceError: MLflow is unreachable, or refuses.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise unusable(uri, error) from error


def unusable(uri: str, error: BaseException) -> ResourceError:
    """Return an error that says in one line why an address can't be used, and what to do."""
    return ResourceError(
        f"MLflow at {without_password(uri)} can't be used ({reason(error)}): start or repair it, "
        "correct tracking.uri or MLFLOW_TRACKING_URI, or leave both empty for a local file"
    )


def _check_file(file: Path, *, create: bool) -> None:
    if create:
        file.parent.mkdir(parents=True, exist_ok=True)
    elif not file.exists():
        raise FileNotFoundError("there is no such file: nothing has been recorded there yet")
    with closing(sqlite3.connect(file, timeout=_ANSWER_SECONDS)) as database:
        database.execute("PRAGMA schema_version")


def _is_server(uri: str) -> bool:
    return uri.startswith(("http:", "https:", "databricks"))


def _set_switches() -> None:
    """Set MLflow's switches, which it reads when it is imported; what the user has set stays."""
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    limit_connecting()
