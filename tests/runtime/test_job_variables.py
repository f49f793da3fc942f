"""Variables of a job: what may be sent, what may not, and a node that lacks a secret."""

import subprocess

import pytest

from raymc.errors import ConfigError
from raymc.runtime.variables import holds_password, required, sent


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_URI", "TOKENIZERS_PARALLELISM", "AWS_REGION"])
def test_what_may_be_sent(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://mlflow:5000/@here")
    assert sent((name,)) == {name: "http://mlflow:5000/@here"}


@pytest.mark.parametrize(
    "name",
    [
        *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD", "db_pass", "HF_TOKEN"),
        *("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "GOOGLE_APPLICATION_CREDENTIALS"),
    ],
)
def test_what_may_not_be_sent(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(ConfigError, match=f"^--env {name}: a secret"):
        sent((name,))


def test_passwords_in_addresses() -> None:
    assert holds_password("sqlite and postgresql+psycopg2://me:pa:ss@db:5432/x")
    assert holds_password("https://:ghp@github.com")
    for text in ("http://mlflow:5000", "s3://me@bucket/a:b", "http://h:1/a@b", "a:b@c"):
        assert not holds_password(text)


def test_a_node_without_a_secret_ends_the_job() -> None:
    line = required(("LESSON_ONE", "LESSON_TWO")) + "echo began"
    run = {"shell": True, "capture_output": True, "text": True}
    has = {"PATH": "/usr/bin:/bin", "LESSON_ONE": "1"}
    done = subprocess.run(line, env=has, **run)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("raymc: LESSON_TWO is not set on this node")
    done = subprocess.run(line, env={**has, "LESSON_TWO": "2"}, **run)
    assert (done.returncode, done.stdout) == (0, "began\n")
