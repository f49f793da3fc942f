"""A run whose checkpoints are in a bucket: killed, gone on with, taken home and audited."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from drivers import kill, running, wait_until
from tiny import SPLIT_ROWS

from raymc.errors import CheckpointError, DataError
from raymc.training import checkpoint
from raymc.training.bundle import load_bundle
from raymc.training.checkpoint import Progress
from raymc.training.on_ray import SNAPSHOT, best_checkpoint, check_writable, forget_torn_list

BUCKET = "runs"
KINDS = ("access_key_id", "secret_access_key")
SECRETS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty bucket that this process may use."""
    for name, value in environment_for(s3).items():
        monkeypatch.setenv(name, value)
    client_of(s3).create_bucket(Bucket="empty")
    return "s3://empty"


def environment_for(s3: str) -> dict[str, str]:
    return {**SECRETS, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": s3}


def client_of(s3: str) -> Any:
    keys = {f"aws_{kind}": SECRETS[f"AWS_{kind.upper()}"] for kind in KINDS}
    return boto3.client("s3", endpoint_url=s3, region_name="us-east-1", **keys)


def test_the_best_checkpoint_is_taken_home(s3: str, bucket: str, tmp_path: Path) -> None:
    for name, epoch in (("checkpoint_a", 1), ("checkpoint_b", 2), ("checkpoint_c", 2)):
        progress = Progress(epoch, 2, {}, {}, [])
        made = tmp_path / "made"
        checkpoint.save(made, {"x": torch.full((2,), float(epoch))}, {}, progress)
        for file in made.iterdir():
            key = f"runs/mine/{name}/{file.name}"
            if (name, file.name) != ("checkpoint_c", checkpoint.TRAINING):  # which is torn
                client_of(s3).upload_file(str(file), "empty", key)
    best = best_checkpoint(f"{bucket}/runs/mine", tmp_path / "deep" / "mine")
    assert best == tmp_path / "deep" / "mine" / "checkpoint"
    assert checkpoint.load(best).weights["x"].tolist() == [2.0, 2.0]
    with pytest.raises(
        CheckpointError, match=r"the best epoch's .*: there is none in s3://empty/n"
    ):
        best_checkpoint(f"{bucket}/nowhere", tmp_path)


def test_a_torn_list_in_a_bucket_is_forgotten(s3: str, bucket: str) -> None:
    address = f"{bucket}/torn"
    check_writable(address)
    assert forget_torn_list(address) == []
    client_of(s3).put_object(Bucket="empty", Key=f"torn/{SNAPSHOT}", Body=b'{"ray_ver')
    [problem] = forget_torn_list(address)
    assert "is made anew" in problem
    assert "\n" not in problem
    assert forget_torn_list(address) == []
    with pytest.raises(DataError, match="can't read or write s3://nobucket/runs"):
        check_writable("s3://nobucket/runs")


@pytest.mark.slow
def test_checkpoints_in_a_bucket(s3: str, tiny_path: Path, tmp_path: Path) -> None:
    environment, client = environment_for(s3), client_of(s3)
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
    assert "resuming at epoch" in log.read_text()
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
