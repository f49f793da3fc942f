"""The databases of cluster/kuberay: a job's role can use its study, and nothing of MLflow's."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from commands import ROOT

from cluster.chaos.services import PostgresServer, running

pytestmark = pytest.mark.skipif(shutil.which("createdb") is None, reason="there is no Postgres")
PASSWORDS = {"MLFLOW_PASSWORD": "it's one", "STUDY_PASSWORD": 'an"other'}


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Postgres as the manifests start it: with its script, run once by the superuser."""
    documents = yaml.safe_load_all((ROOT / "cluster/kuberay/base/postgres.yaml").read_text())
    (script,) = [each["data"] for each in documents if each["kind"] == "ConfigMap"]
    with TemporaryDirectory() as folder:  # whose parents its own user may enter
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder) / "postgres", databases=())
        with running(server):
            done = asked(server, "raymc", "postgres", script["roles.sql"], **PASSWORDS)
            assert done.returncode == 0, done.stderr
            yield server


def asked(
    server: PostgresServer, role: str, database: str, sql: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    where = ["--host", "127.0.0.1", "--port", server.port, "--username", role]
    return subprocess.run(
        ["psql", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--tuples-only", *where, database],
        input=sql,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
def test_each_role_has_its_own_database_alone(server: PostgresServer) -> None:
    make = "CREATE TABLE trials (number int); INSERT INTO trials VALUES (7); TABLE trials"
    for role, database in (("study", "optuna"), ("mlflow", "mlflow")):
        assert asked(server, role, database, make).stdout.split()[-1] == "7"
    for role, database in (("study", "mlflow"), ("study", "postgres"), ("mlflow", "optuna")):
        refused = asked(server, role, database, "SELECT 1")
        assert "permission denied for database" in refused.stderr
    for sql in ("CREATE ROLE more", "CREATE DATABASE more", "COPY (SELECT 1) TO PROGRAM 'id'"):
        assert asked(server, "study", "optuna", sql).returncode != 0
    kept = asked(server, "raymc", "postgres", "SELECT rolpassword FROM pg_authid WHERE rolcanlogin")
    assert kept.stdout.count("SCRAM-SHA-256$") == 2
