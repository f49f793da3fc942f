"""Extraction on Ray: what one process would write, in order, whatever happens on the way."""

import csv
import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
from drivers import RAYMC, kill, running, wait_until
from example_dataset import contents
from ray.util.state import list_tasks
from rich.console import Console
from videos import Crashing, write_video

from raymc.cli.data import run_extract
from raymc.config import Config, override
from raymc.data.check import check_dataset
from raymc.data.shards import open_dataset, read_shard
from raymc.data.shards.write import JOURNAL_FOLDER
from raymc.errors import DataError, ExtractionError
from raymc.features.clips import Failure
from raymc.features.extraction import (
    EncodedClip,
    encode,
    extract_source,
    make_encoders,
    plan_extraction,
)
from raymc.features.sources import Listing, list_media, list_sources

SPLITS = ("train", "train", "val", "test")

pytestmark = pytest.mark.slow  # extraction on Ray, or of many clips


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five videos of different lengths."""
    folder = tmp_path_factory.mktemp("videos")
    lengths = (2.0, 0.5, 3.2, 1.0, 2.4)
    return [
        write_video(folder / f"{seed}.mp4", seconds=seconds, seed=seed)
        for seed, seconds in enumerate(lengths)
    ]


def write_table(file: Path, videos: Sequence[Path], rows: int) -> Path:
    """A table of `rows` clips, which are the videos over and over."""
    with file.open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["id", "path", "labels", "split", "url"])
        for i in range(rows):
            labels = ";".join(["even"] * (i % 2 == 0) + ["third"] * (i % 3 == 0))
            video = videos[i % len(videos)]
            out.writerow(
                [f"clip-{i:02d}", video, labels, SPLITS[i % 4], f"https://example.org/{i}"]
            )
    return file


def configured(source: Path | str, out: Path, **settings: object) -> Config:
    changes = {"extract.source": str(source), "data.path": str(out), "extract.shard_rows": 3}
    return override(Config(), changes | {f"extract.{k}": v for k, v in settings.items()})


def expected(config: Config) -> tuple[dict[str, list[EncodedClip]], list[Failure]]:
    """What one process makes of the same media, without Ray: clips by split, and failures."""
    plan = plan_extraction(config.extract)
    light, heavy = (make_encoders(config.extract, names) for names in (plan.light, plan.heavy))
    clips: dict[str, list[EncodedClip]] = {}
    failures: dict[str, list[Failure]] = {}
    for source in list_media(config.extract).sources:
        for item in extract_source(source, plan, light):
            if isinstance(item, EncodedClip):
                item = encode(item, source.path, plan, heavy)
                clips.setdefault(source.split, []).append(item)
            found = [item] if isinstance(item, Failure) else item.failures
            failures.setdefault(source.split, []).extend(found)
    order = [name for name in ("train", "val", "test") if name in failures]
    return clips, [failure for split in order for failure in failures[split]]


def assert_as_expected(config: Config) -> list[Failure]:
    """The dataset has what one process makes, row by row; returns the failures."""
    clips, failures = expected(config)
    dataset = open_dataset(config.data.path)
    assert list(dataset.manifest.splits) == [s for s in ("train", "val", "test") if s in clips]
    for split, extracts in clips.items():
        tables = [read_shard(dataset, shard) for shard in dataset.split(split)]
        assert all(len(table) == config.extract.shard_rows for table in tables[:-1])
        rows = [row for table in tables for row in table.to_pylist()]
        for row, clip in zip(rows, extracts, strict=True):
            assert row["id"] == clip.id
            assert (row["start_seconds"], row["end_seconds"]) == (
                clip.start_seconds,
                clip.end_seconds,
            )
            for name, tokens in clip.tokens.items():
                assert row[name] == tokens, f"{clip.id} {name}"
    told = pq.read_table(Path(config.data.path) / "failures.parquet").to_pylist()
    assert [Failure(**row) for row in told] == failures
    assert check_dataset(config.data.path)[0] == []
    return failures


def rows_by_id(config: Config) -> dict[str, Mapping[str, object]]:
    dataset = open_dataset(config.data.path)
    tables = [read_shard(dataset, shard) for shard in dataset.split("train")]
    return {row["id"]: row for table in tables for row in table.to_pylist()}


def test_rows_are_those_of_one_process(ray_logs: Path, videos: list[Path], tmp_path: Path) -> None:
    table = write_table(tmp_path / "videos.csv", videos, 22)
    config = configured(table, tmp_path / "out", fps=5, license="CC0-1.0")
    printed = StringIO()
    summary = run_extract(config, Console(file=printed, width=200))
    assert assert_as_expected(config) == []
    assert (summary.files, summary.failed_files) == (22, 0)
    dataset = open_dataset(config.data.path)
    assert dataset.manifest.vocabulary.names == ("even", "third")
    assert dataset.manifest.license == "CC0-1.0"
    rows = read_shard(dataset, dataset.split("train")[0]).to_pylist()
    assert [row["id"] for row in rows] == ["clip-00", "clip-01", "clip-04"]
    assert [row["labels"] for row in rows] == [["even", "third"], [], ["even"]]
    assert rows[2]["url"] == "https://example.org/4"
    assert "22/22 files" in printed.getvalue()
    assert "12 train, 5 val, 5 test" in printed.getvalue()

    before = contents(tmp_path / "out")
    run_extract(config, Console(file=printed))
    assert contents(tmp_path / "out") == before


@pytest.mark.usefixtures("children_are_threads")
def test_broken_files_stop_nothing(videos: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    for video in videos[:3]:
        shutil.copy(video, folder)
    whole = videos[2].read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a video")
    (folder / "0.en-US.vtt").write_text("WEBVTT\n\n00:00.100 --> 00:00.900\nwe count\n")
    config = configured(folder, tmp_path / "out", window_seconds=1.0, text="words")
    printed = StringIO()
    summary = run_extract(config, Console(file=printed, width=200))
    failures = assert_as_expected(config)
    failed = {Path(failure.path).name for failure in failures}
    assert failed == {"cut.mp4", "empty.mp4", "text.mp4"}
    assert summary.failed_files == 3
    assert "3 of 6 files could not be read in full" in printed.getvalue()
    for failure in failures:
        assert f"{failure.path}: {failure.stage}: {failure.error}" in printed.getvalue()
    told = r"text: \d of \d clips have none: \d without a text file beside the video, 1 in which"
    assert re.search(told, printed.getvalue())
    with pytest.raises(ExtractionError, match=r"3 of 6 files failed, more than .* \(40 %\)"):
        run_extract(override(config, {"extract.max_failures": 0.4}), Console(file=printed))

    shutil.copy(videos[3], folder / "cut.mp4")
    shutil.copy(videos[4], folder / "text.mp4")
    summary = run_extract(config, Console(file=printed, width=200))
    assert "files that had failed and were replaced: 2 read" in printed.getvalue()
    assert {Path(failure.path).name for failure in assert_as_expected(config)} == {"empty.mp4"}
    assert summary.failed_files == 1


@pytest.mark.usefixtures("children_are_threads")
def test_files_without_their_digest_give_no_row(videos: list[Path], tmp_path: Path) -> None:
    """A flipped bit in the last picture: nothing but the digest tells."""
    lines = ["path\tid\tsha256\tend_seconds"]
    for video in videos:
        digest = hashlib.sha256(video.read_bytes()).hexdigest()
        lines += [f"{video.name}\t{video.stem}\t{digest}\t"]
        lines += [f"{video.name}\t{video.stem}-half\t{digest}\t0.4"]
        shutil.copy(video, tmp_path)
    table = tmp_path / "videos.tsv"
    table.write_text("\n".join(lines))
    whole = configured(table, tmp_path / "whole", unlabelled=True)
    run_extract(whole, Console(file=StringIO()))
    assert assert_as_expected(whole) == []

    damaged = tmp_path / videos[2].name
    data = bytearray(damaged.read_bytes())
    data[data.index(b"mdat") + 2000] ^= 1
    damaged.write_bytes(data)
    config = configured(table, tmp_path / "out", unlabelled=True)
    run_extract(config, Console(file=StringIO()))
    failures = assert_as_expected(config)
    found = hashlib.sha256(data).hexdigest()
    expected = hashlib.sha256(videos[2].read_bytes()).hexdigest()
    assert [(x.path, x.id, x.stage, x.error) for x in failures] == [
        (str(damaged), name, "open", f"the file's sha256 is {found}; expected {expected}")
        for name in ("2", "2-half")
    ]
    rows, kept = rows_by_id(whole), rows_by_id(config)
    assert kept == {name: row for name, row in rows.items() if name not in ("2", "2-half")}
    assert len(kept) == 8


@pytest.mark.usefixtures("children_are_threads")
def test_media_without_a_single_clip(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "text.mp4").write_text("not a video")
    config = configured(tmp_path / "media", tmp_path / "out")
    with pytest.raises(
        ExtractionError, match=r"none of the 1 files has a clip that can be read; .*text\.mp4: "
    ):
        run_extract(config, Console(file=StringIO()))
    with pytest.raises(DataError, match="unfinished"):
        open_dataset(config.data.path)
    for out, message in (("media", r"holds media, such as text\.mp4"), ("file", "is a file: name")):
        (tmp_path / "file").touch()
        there = configured(tmp_path / "media", tmp_path / out)
        with pytest.raises(DataError, match=message):
            run_extract(there, Console(file=StringIO()))


@pytest.mark.usefixtures("children_are_threads")
def test_encoders_with_weights_work_in_actors_and_here(
    ray_logs: Path, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from small_models import PREPROCESSOR, clip, write_model

    weights = tmp_path / "weights"
    write_model(weights / "tiny" / "clip", clip(), preprocessor_config=PREPROCESSOR)
    table = write_table(tmp_path / "videos.csv", videos, 9)
    config = configured(table, tmp_path / "out", fps=2, visual="tiny/clip", weights=str(weights))
    run_extract(config, Console(file=StringIO()))
    assert assert_as_expected(config) == []
    assert plan_extraction(config.extract).heavy == {"visual"}
    monkeypatch.setattr("raymc.features.extraction.FILES_HERE", 0)
    there = override(config, {"data.path": str(tmp_path / "there")})
    run_extract(there, Console(file=StringIO()))
    assert contents(tmp_path / "there") == contents(tmp_path / "out")
    assert 1 <= most_at_once("(_decode)") <= (os.cpu_count() or 1)


def most_at_once(part: str) -> int:
    """Return how many of this process's tasks with this in their names ran at the same time.

    Commands in other tests join the same Ray as a cluster, and may use all of its CPUs.
    """
    job = ray.get_runtime_context().get_job_id()

    def found() -> list[Any]:
        tasks = list_tasks(filters=[("job_id", "=", job)], detail=True, limit=10_000)
        return [task for task in tasks if part in task.name]

    # Ray learns from one process that a task began, and from another that it ended.
    wait_until(lambda: {bool(x.start_time_ms and x.end_time_ms) for x in found()} == {True})
    spans = [(task.start_time_ms, task.end_time_ms) for task in found()]
    return max(sum(begin <= at < end for begin, end in spans) for at, _ in spans)


def test_a_crash_of_the_decoder_is_a_failure_of_its_file(
    ray_logs: Path, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path / "videos.csv", videos, 24)
    config = configured(table, tmp_path / "out", fps=5, window_seconds=0.5)
    run_extract(override(config, {"data.path": f"{tmp_path}/whole"}), Console(file=StringIO()))
    sources = list_sources(str(table))
    for k in (8, 9, 20):
        sources[k] = Crashing(**vars(sources[k]), driver=os.getpid())
    listing = Listing(sources, ())
    monkeypatch.setattr("raymc.features.on_ray.list_media", lambda config: listing)
    summary = run_extract(config, Console(file=StringIO()))
    assert [(x.path, x.id, x.stage, x.error) for x in summary.failures] == [
        (sources[k].path, f"clip-{k:02d}", "open", "its decoder crashed (SIGSEGV)")
        for k in (8, 9, 20)
    ]
    whole = rows_by_id(override(config, {"data.path": f"{tmp_path}/whole"}))
    lost = {"clip-08", "clip-09", "clip-20"}
    kept = {name: row for name, row in whole.items() if name.partition("@")[0] not in lost}
    assert len(whole) > len(kept) + 3
    assert list(rows_by_id(config).items()) == list(kept.items())


def test_a_killed_job_goes_on(joined: dict[str, str], videos: list[Path], tmp_path: Path) -> None:
    table = write_table(tmp_path / "videos.csv", videos, 60)
    whole = configured(table, tmp_path / "whole", window_seconds=1.0, fps=10)
    run_extract(whole, Console(file=StringIO()))
    out = tmp_path / "out"
    command = [RAYMC, "extract", table, "--out", out, "--window", "1", "--fps", "10"]
    command += ["extract.shard_rows=3", "--visual", "patches"]
    with running(*command, log=tmp_path / "log.txt", environment=joined) as process:
        wait_until(lambda: len(list((out / JOURNAL_FOLDER).glob("*.json"))) > 4, process)
        kill(process)
    shards = {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")}
    written = len(list((out / JOURNAL_FOLDER).glob("*.json")))
    assert written < len(list((tmp_path / "whole").glob("*/*.parquet")))
    run_extract(override(whole, {"data.path": str(out)}), Console(file=StringIO()))
    assert contents(out) == contents(tmp_path / "whole")
    kept = sum(file.stat().st_mtime_ns == when for file, when in shards.items())
    assert kept >= written
