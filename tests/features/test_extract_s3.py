"""Extraction from a bucket to a bucket: the same dataset as from a folder to a folder."""

import io
import json
from pathlib import Path

import boto3
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from videos import write_video

from raymc.cli.main import main
from raymc.data.shards import open_dataset
from raymc.features.begun import states_of

BUCKET = "films"


@pytest.mark.slow
def test_a_bucket_of_videos_becomes_a_dataset_in_a_bucket(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    secrets = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret"}
    environment = {**secrets, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": s3}
    client = boto3.client(
        "s3",
        endpoint_url=s3,
        region_name="us-east-1",
        aws_access_key_id="someone",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket=BUCKET)
    (tmp_path / "videos").mkdir()
    for seed in range(3):
        video = write_video(tmp_path / "videos" / f"{seed}.mp4", seed=seed)
        client.upload_file(str(video), BUCKET, f"videos/{video.name}")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    there = ("extract", f"s3://{BUCKET}/videos", "--out", f"s3://{BUCKET}/dataset")
    done = CliRunner().invoke(main, [*there, "--visual", "patches"])
    assert done.exit_code == 0, done.output
    request.getfixturevalue("children_are_threads")  # the bucket was read by a process
    here = ("extract", str(tmp_path / "videos"), "--out", str(tmp_path / "dataset"))
    done = CliRunner().invoke(main, [*here, "--visual", "patches"])
    assert done.exit_code == 0, done.output
    keys = {one["Key"] for one in client.list_objects_v2(Bucket=BUCKET)["Contents"]}
    keys = {key for key in keys if key.startswith("dataset/") and not key.endswith("/")}
    local = tmp_path / "dataset"
    [shard] = open_dataset(str(local)).split("train")
    assert shard.rows == 3
    files = {path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()}
    assert {key.removeprefix("dataset/") for key in keys} == files
    body = client.get_object(Bucket=BUCKET, Key="dataset/train/00000.parquet")["Body"].read()
    tables = [pq.read_table(source) for source in (io.BytesIO(body), local / "train/00000.parquet")]
    assert tables[0]["path"].to_pylist() == [f"s3://{BUCKET}/videos/{n}.mp4" for n in range(3)]
    far, near = (table.drop_columns("path") for table in tables)
    assert far.equals(near)
    check = CliRunner().invoke(main, ["data", "check", f"s3://{BUCKET}/dataset"])
    assert (check.exit_code, "no findings" in check.output) == (0, True), check.output

    paths = [f"s3://{BUCKET}/videos/{name}.mp4" for name in (0, 1, "none")]
    before = states_of(paths)
    noted = json.loads(client.get_object(Bucket=BUCKET, Key="dataset/.media.json")["Body"].read())
    assert [noted["files"].get(path) for path in paths] == [before[path] for path in paths]
    assert [before[path] is None for path in paths] == [False, False, True]
    client.upload_file(str(tmp_path / "videos/0.mp4"), BUCKET, "videos/1.mp4")
    after = states_of(paths)
    assert [after[path] == before[path] for path in paths] == [True, False, True]
