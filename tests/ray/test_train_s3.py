"""A run whose checkpoints are in a bucket: killed, gone on with, taken home and audited."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from drivers import kill, running, wait_until
from moto.server import ThreadedMotoServer
from tiny import SPLIT_ROWS

from raymc import checkpoint
from raymc.bundle import load_bundle

BUCKET = "runs"
SECRETS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server that speaks S3, on this machine alone; yields its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.mark.slow
def test_checkpoints_in_a_bucket(s3: str, tiny_path: Path, tmp_path: Path) -> None:
    environment = {**SECRETS, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": s3}
    client = boto3.client(
        "s3",
        endpoint_url=s3,
        region_name="us-east-1",
        aws_access_key_id="someone",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket=BUCKET)

    def stored() -> set[str]:
        listed = client.list_objects_v2(Bucket=BUCKET, Prefix="deep/mine/checkpoint_")
        return {one["Key"] for one in listed.get("Contents", [])}

    settings = {
        "data.path": tiny_path,
        "data.make": "null",
        "batch.size": 8,
        "model.width": 16,
        "model.heads": 2,
        "train.epochs": 8,
        "train.device": "cpu",
        "train.threshold_confidence": 0,
        "train.checkpoint_steps": 2,
        "run.folder": tmp_path,
        "run.name": "mine",
        "run.storage": f"s3://{BUCKET}/deep",
    }
    given = [f"{name}={value}" for name, value in settings.items()]
    command = (sys.executable, "-m", "raymc", "train", *given)
    log = tmp_path / "log"
    with running(*command, log=log, environment=environment) as process:
        wait_until(lambda: "deep/mine/checkpoint_manager_snapshot.json" in stored(), process)
        kill(process)
    with running(*command, log=log, environment=environment) as process:
        assert process.wait(timeout=180) == 0, log.read_text()
    assert "going on at epoch" in log.read_text()
    bundle = load_bundle(str(tmp_path / "mine" / "bundle"))
    assert bundle.metrics
    assert not list((tmp_path / "mine").glob(f"{checkpoint.FOLDER_PREFIX}*"))
    assert any(key.endswith(checkpoint.ROWS) for key in stored())
    done = subprocess.run(
        [sys.executable, "-m", "raymc", "data", "audit", str(tmp_path / "mine")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no row lost, none used twice" in done.stdout
    assert done.stdout.count(f" {SPLIT_ROWS['train']} ") >= 8
