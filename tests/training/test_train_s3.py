"""A run whose checkpoints are in a bucket: killed, resumed, fetched and audited."""

import json
import re
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from drivers import RAYMC, kill, running, wait_until, write_config
from example_dataset import contents
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from pyarrow import fs
from ray.util import placement_group_table
from rich.console import Console
from tiny import SPLIT_ROWS, fit_here

from raymc.cli.runs import run_train
from raymc.config import Config, override
from raymc.data.shards import Dataset
from raymc.data.storage import open_address
from raymc.errors import CheckpointError, DataError
from raymc.events import EpochEnded
from raymc.training import checkpoint
from raymc.training.audit import audit_run
from raymc.training.bundle import WEIGHTS, load_bundle
from raymc.training.checkpoint import Progress
from raymc.training.keeping import SNAPSHOT, best_checkpoint, check_writable
from raymc.training.on_ray import forget_torn_list
from raymc.training.runs import read_run

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


@pytest.mark.slow
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
    with pytest.raises(CheckpointError, match=r"the best epoch's .*: s3://empty/n.* has none"):
        best_checkpoint(f"{bucket}/nowhere", tmp_path)


def test_a_torn_list_in_a_bucket_is_forgotten(s3: str, bucket: str) -> None:
    address = f"{bucket}/torn"
    check_writable(address)
    assert forget_torn_list(address) == []
    client_of(s3).put_object(Bucket="empty", Key=f"torn/{SNAPSHOT}", Body=b'{"ray_ver')
    [problem] = forget_torn_list(address)
    assert "is rebuilt" in problem
    assert "\n" not in problem
    assert forget_torn_list(address) == []
    with pytest.raises(DataError, match="can't read or write s3://nobucket/runs"):
        check_writable("s3://nobucket/runs")


@pytest.mark.slow
def test_a_killed_run_resumes_from_a_bucket(
    s3: str,
    bucket: str,
    tiny: Dataset,
    tiny_config: Config,
    tmp_path: Path,
    runs_folder: Path,
    joined: dict[str, str],
) -> None:
    settings = {
        "model.dropout": 0.1,
        "train.epochs": 3,
        "train.checkpoint_steps": 3,
        "run.folder": str(tmp_path),
        "run.name": "mine",
        "run.storage": f"{bucket}/deep",
        "tracking.uri": f"sqlite:///{runs_folder / 'mlflow.db'}",
        "tracking.experiment": "bucket",
    }
    config = override(tiny_config, settings)
    file = write_config(config, tmp_path / "run.yaml")
    # What the server has: to ask it would cost as much as the training does meanwhile.
    kept = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets["empty"].keys
    log, secrets = tmp_path / "log", environment_for(s3)
    # what `raymc submit --env` does for the workers of a job
    of_workers = json.dumps({"runtime_env": {"env_vars": secrets}})
    environment = {**secrets, **joined, "RAY_JOB_CONFIG_JSON_ENV_VAR": of_workers}
    with running(RAYMC, "train", file, log=log, environment=environment) as process:
        wait_until(lambda: any(key.endswith(f"/{SNAPSHOT}") for key in list(kept)), process)
        kill(process)
    assert not (tmp_path / "mine" / "bundle").exists()
    # Ray frees what the dead command's workers had, with no process of Ray Train that sees to it.
    wait_until(lambda: {one["state"] for one in placement_group_table().values()} <= {"REMOVED"})
    with running(RAYMC, "train", file, log=log, environment=environment) as process:
        assert process.wait(timeout=600) == 0, log.read_text()
    resumed = r"^resuming at epoch \d+( after step \d+)? of 3 epochs"
    assert re.search(resumed, log.read_text(), re.MULTILINE)

    run = read_run(tmp_path / "mine")
    found = audit_run(run)
    assert found.is_right
    assert [epoch.once for epoch in found.epochs] == [SPLIT_ROWS["train"]] * 3
    assert len(found.restarts) == 1
    fetched, whole = tmp_path / "fetched", tmp_path / "whole"
    fetched.mkdir()
    filesystem, _ = open_address(run.storage)
    fs.copy_files(found.checkpoint, str(fetched), source_filesystem=filesystem)

    def keep(event: EpochEnded, made: Path | None) -> None:
        if event.is_last and made is not None:
            shutil.copytree(made, whole)

    fit_here(tiny, config, keep)
    assert (fetched / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    bundle = load_bundle(str(run.folder / "bundle"))
    assert bundle.metrics
    assert not list(run.folder.glob(f"{checkpoint.FOLDER_PREFIX}*"))

    before, printed = contents(run.folder), StringIO()
    assert run_train(config, Console(file=printed, width=200)) == run.folder / "bundle"
    assert "run mine is finished: its bundle is " in printed.getvalue()
    assert contents(run.folder) == before
