"""A finished or interrupted extraction is used again only for the same media, settings and code."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from unittest.mock import Mock
from uuid import uuid4

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from example_dataset import contents

from raymc.cli.main import main
from raymc.cli.options import program
from raymc.config import ExtractConfig
from raymc.data.check import check_dataset
from raymc.data.shards import FAILURES_FILE, Row, ShardStream, open_dataset
from raymc.data.shards.manifest import MANIFEST_FILE
from raymc.data.shards.tokens import encode_tokens
from raymc.errors import DataError
from raymc.features import on_ray
from raymc.features.begun import AGAIN, MEDIA_FILE, changed_files, media_states, states_of
from raymc.features.clips import Failure
from raymc.features.extraction import END, EncodedClip, ExtractPlan, Item, plan_extraction
from raymc.features.on_ray import extract
from raymc.features.sources import Source, extra_fields, list_media


def begun(folder: Path, *, finish: bool) -> tuple[ExtractConfig, Path]:
    """An extraction of two files and one that is missing, as `extract` leaves it."""
    for name in ("a", "b"):
        (folder / f"{name}.mp4").write_bytes(name.encode() * 9)
    table = folder / "videos.csv"
    table.write_text("path,labels\na.mp4,one\nb.mp4,two\nc.mp4,one\n")
    config = ExtractConfig(source=str(table), audio="none", shard_rows=2, split="none")
    plan, sources = plan_extraction(config), on_ray._by_split(list_media(config).sources)
    stream = ShardStream(
        str(folder / "out"),
        on_ray._manifest(plan, sources, {}),
        extra_fields=extra_fields(sources),
    )
    on_ray._check_media(str(folder / "out"), stream, sources, plan)
    tokens = {"visual": np.zeros((1, plan.modalities[0].dim), np.float16)}
    for source in sources[:2]:
        stream.add(Row(source.id, source.labels, tokens, extra={"path": source.path}))
    stream.flush("train", {"file": 2, "clips": 0, "failures": []})
    if finish:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist([], on_ray._FAILURE_SCHEMA), sink)
        stream.write_beside(FAILURES_FILE, sink.getvalue())
        stream.finish()
    return config, folder / "out"


def again(config: ExtractConfig, out: Path) -> int:
    return extract(config, str(out), listener=lambda _: None).manifest.rows("train")


def replace_alike(file: Path) -> None:
    """Put other bytes in a file's place, as many, and of the same time."""
    known = file.stat()
    file.write_bytes(file.read_bytes()[::-1].swapcase())
    os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (
        lambda folder: (folder / "a.mp4").write_bytes(b"other"),
        r"^a media file has changed since .*/out was begun, such as .*/a.mp4: choose another",
    ),
    "a file of the same size and time": (
        lambda folder: replace_alike(folder / "a.mp4"),
        r"^a media file has changed since .*/out was begun, such as .*/a.mp4: choose another",
    ),
    "two files": (
        lambda folder: [(folder / f"{name}.mp4").write_bytes(b"other") for name in "ab"],
        r"^2 media files have changed since .*/out was begun, such as .*/a.mp4: choose another",
    ),
    "a file that was missing": (
        lambda folder: (folder / "c.mp4").write_bytes(b"there"),
        r"^a media file has changed since .*/out was begun, such as .*/c.mp4: choose another",
    ),
    "labels": (
        lambda folder: (folder / "videos.csv").write_text(
            "path,labels\na.mp4,two\nb.mp4,one\nc.mp4,one\n"
        ),
        r"out holds another dataset: different provenance \(.*sources_sha256\); choose another",
    ),
}


@pytest.mark.parametrize("finish", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_changed_media_are_refused(tmp_path: Path, name: str, finish: bool) -> None:
    if name == "a file that was missing" and not finish:
        return  # it is still to be read
    config, out = begun(tmp_path, finish=finish)
    change, message = CHANGES[name]
    change(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        again(config, out)
    assert "\n" not in str(caught.value)


def test_other_settings_and_another_raymc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, out = begun(tmp_path, finish=True)
    assert again(replace(config, device="cpu", max_failures=0.05), out) == 2
    assert again(config, shutil.copytree(out, tmp_path / "copy")) == 2  # somebody else's copy
    command = ["extract", config.source, "--out", str(out), "--audio", "none", "--split", "none"]
    told = CliRunner().invoke(main, [*command, "extract.shard_rows=2"]).output
    assert told.replace("\n", "").endswith(f"next, train on it: {program()} train {out}"), told
    (tmp_path / "a.mp4").unlink()  # media may be moved away once they are read
    assert again(config, out) == 2
    with pytest.raises(DataError, match=r"different .*provenance \(fps: 1.0 → 2.0\)"):
        again(replace(config, fps=2.0), out)
    monkeypatch.setattr(on_ray, "FEATURES", 2)
    with pytest.raises(DataError, match=r"/out was begun by a raymc that makes other features: ch"):
        again(config, out)


# Files that failed


class Reader:
    """Stands in for decoding on Ray: a file has as many clips as letters, and bad ones fail."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def items(
        self, sources: Sequence[Source], plan: ExtractPlan, first: int
    ) -> Iterator[tuple[int, Item]]:
        for number, source in enumerate(sources[first:], first):
            self.read.append(Path(source.path).name)
            try:
                text = Path(source.path.removeprefix("file://")).read_text()
            except OSError:
                text = "!"
            for at, letter in enumerate(text):
                place = {"path": source.path, "id": f"{source.id}@{at}-{at + 1}"}
                if letter == "!":
                    yield number, Failure(**place, stage="video", error="can't be read")
                    continue
                tokens = np.full((1, plan.modalities[0].dim), ord(letter), np.float16)
                yield (
                    number,
                    EncodedClip(
                        id=place["id"],
                        start_seconds=float(at),
                        end_seconds=at + 1.0,
                        tokens={"visual": encode_tokens(tokens, plan.modalities[0])},
                    ),
                )
            yield number, END


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    made = Reader()
    monkeypatch.setattr(on_ray, "connect", lambda: None)
    monkeypatch.setattr(on_ray, "extract_items", made.items)
    return made


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Six files of three splits; three of them have failures, one of these some clips too."""
    texts = {"a": "abc", "b": "!", "c": "c!cc", "d": "dd", "e": "ee"}
    folder = tmp_path / "media"
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.mp4").write_text(text)
    rows = zip("abcdef", ("train", "train", "train", "val", "train", "test"))
    lines = [f"{name}.mp4,x,{split}" for name, split in rows]
    (folder / "videos.csv").write_text("\n".join(["path,labels,split", *lines]))
    return folder


def settings(media: Path) -> ExtractConfig:
    return ExtractConfig(source=str(media / "videos.csv"), audio="none", text="words", shard_rows=2)


def replace_all(media: Path) -> list[str]:
    """Replace what failed, by shorter and longer files; returns their names in order."""
    (media / "b.mp4").write_text("bbbb")
    (media / "c.mp4").write_text("c")
    (media / "f.mp4").write_text("f")
    return ["b.mp4", "c.mp4", "f.mp4"]


def fresh(media: Path, out: Path) -> dict[str, bytes]:
    """What the same media give in a new folder."""
    extract(settings(media), str(out), listener=lambda _: None)
    return contents(out)


def test_failed_files_that_were_replaced_are_read_again(
    reader: Reader, media: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    first = extract(settings(media), out, listener=lambda _: None)
    assert (first.failed_files, first.read_again) == (3, 0)
    reader.read.clear()
    assert extract(settings(media), out, listener=lambda _: None) == first
    replaced = replace_all(media)
    (media / "a.mp4").unlink()  # was read, and may be moved away
    second = extract(settings(media), out, listener=lambda _: None)
    assert reader.read == replaced  # the rest was not
    assert (second.failed_files, second.read_again) == (0, 3)
    assert extract(settings(media), out, listener=lambda _: None).read_again == 0
    (media / "a.mp4").write_text("abc")
    expected = fresh(media, tmp_path / "fresh")
    expected.pop(MEDIA_FILE)
    found = contents(tmp_path / "out")
    found.pop(MEDIA_FILE)
    assert found == expected
    assert check_dataset(out) == ([], [])


def test_reading_again_may_be_interrupted(
    reader: Reader, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    extract(settings(media), str(out), listener=lambda _: None)
    replace_all(media)
    expected = fresh(media, tmp_path / "fresh")
    before = tmp_path / "before"
    shutil.copytree(out, before)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(on_ray, "_row", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(settings(media), str(out), listener=lambda _: None)
    assert open_dataset(str(out)).manifest == open_dataset(str(before)).manifest  # still there
    with monkeypatch.context() as interrupted:
        interrupted.setattr(ShardStream, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(settings(media), str(out), listener=lambda _: None)
    reader.read.clear()
    with monkeypatch.context() as interrupted:
        # the second call takes over what was written
        interrupted.setattr(on_ray, "take_over", Mock(side_effect=[None, KeyboardInterrupt]))
        with pytest.raises(KeyboardInterrupt):
            extract(settings(media), str(out), listener=lambda _: None)
    assert reader.read == []  # all was written by then
    (out / MANIFEST_FILE).unlink()  # killed while one was taking the other's place
    shutil.move(out / AGAIN / "train/00000.parquet", out / "train/00000.parquet")
    extract(settings(media), str(out), listener=lambda _: None)
    assert contents(out) == expected


def test_an_interrupted_extraction_reads_what_was_replaced(
    reader: Reader, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as interrupted:
        take = on_ray._Job._take

        def stop(job: on_ray._Job, file: int, item: Item, clips: int) -> None:
            take(job, file, item, clips)
            if file == 3:  # e.mp4, after the first shards
                raise KeyboardInterrupt

        interrupted.setattr(on_ray._Job, "_take", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(settings(media), str(out), listener=lambda _: None)
    replace_all(media)
    (media / "d.mp4").write_text("ddd")  # is still to be read
    summary = extract(settings(media), str(out), listener=lambda _: None)
    assert summary.failed_files == 0
    assert contents(out) == fresh(media, tmp_path / "fresh")


def test_a_text_beside_a_video_counts(reader: Reader, media: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    (media / "d.vtt").write_text("WEBVTT\n")
    extract(settings(media), out, listener=lambda _: None)
    (media / "d.vtt").unlink()
    extract(settings(media), out, listener=lambda _: None)
    (media / "d.vtt").write_text("WEBVTT\n\n00:00.000 --> 00:01.000\nnew\n")
    with pytest.raises(DataError, match=r"changed since .*, such as the text of .*/d\.mp4: choose"):
        extract(settings(media), out, listener=lambda _: None)


def test_files_at_an_address_count_as_local_ones(
    reader: Reader, media: Path, tmp_path: Path
) -> None:
    table, out = media / "videos.csv", str(tmp_path / "out")
    table.write_text(table.read_text().replace("\n", f"\nfile://{media}/"))
    extract(settings(media), out, listener=lambda _: None)
    (media / "d.mp4").write_text("DDD")
    message = r"^a media file has changed since .*/out was begun, such as file:///.*/d\.mp4: choose"
    with pytest.raises(DataError, match=message):
        extract(settings(media), out, listener=lambda _: None)
    (media / "d.mp4").unlink()
    replace_all(media)
    assert extract(settings(media), out, listener=lambda _: None).read_again == 3


def test_states_of_files_on_a_server(tmp_path: Path) -> None:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "a.mp4").write_text("a")
    (tmp_path / "b c.mp4").write_text("b")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        paths = [f"{address}/{name}" for name in ("a.mp4", "b%20c.mp4", "none.mp4")]
        before = states_of(paths)
        os.utime(tmp_path / "a.mp4", (1, 1))
        after = states_of(paths)
        server.shutdown()
    assert [before[path] is None for path in paths] == [False, False, True]
    assert [before[path] == after[path] for path in paths] == [False, True, True]
    escaped = f"file://{tmp_path}/b%20c.mp4"
    assert states_of([escaped])[escaped] == states_of([str(tmp_path / "b c.mp4")]).popitem()[1]
    assert states_of([f"{address}/a.mp4", "unknown://b/c"]) == dict.fromkeys(
        [f"{address}/a.mp4", "unknown://b/c"]
    )


def test_texts_beside_remote_media_count() -> None:
    folder, plan = f"memory://{uuid4().hex}", plan_extraction(ExtractConfig(text="words"))
    sources = [Source(path=f"{folder}/{name}.mp4", id=name) for name in "ab"]
    for name, data in (("a.mp4", b"x"), ("b.mp4", b"x"), ("a.en.vtt", b"WEBVTT")):
        with fsspec.open(f"{folder}/{name}", "wb") as file:
            file.write(data)
    before = media_states(sources, plan)["texts"]
    assert before == {sources[0].path: ["a.en.vtt", 6], sources[1].path: None}
    with fsspec.open(f"{folder}/a.en.vtt", "wb") as file:
        file.write(b"WEBVTT\n\n00:00.000 --> 00:01.000\nhello")
    now = media_states(sources, plan)["texts"]
    read = {source.path for source in sources}
    assert changed_files(before, now, read, failed=()) == {sources[0].path}
    unknown = [Source(path="unknown://b/c.mp4", id="c")]
    assert media_states(unknown, plan)["texts"] == {"unknown://b/c.mp4": None}


def test_other_weights_are_refused(
    reader: Reader, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, plan = str(tmp_path / "out"), plan_extraction(settings(media))
    for digest in ("ab", "ab", "cd"):
        told = replace(plan, weights={"visual": digest})
        monkeypatch.setattr(on_ray, "plan_extraction", lambda _, told=told: told)
        if digest == "ab":
            summary = extract(settings(media), out, listener=lambda _: None)
            assert summary.manifest.provenance["encoder_weights"] == {"visual": "ab"}
            continue
        with pytest.raises(DataError, match=r"out was begun with other weights of patches: choose"):
            extract(settings(media), out, listener=lambda _: None)
    # as versions before wrote it
    manifest = json.loads((tmp_path / "out" / "dataset.json").read_text())
    del manifest["provenance"]["encoder_weights"]
    (tmp_path / "out" / "dataset.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(
        on_ray, "plan_extraction", lambda _: replace(plan, weights={"visual": "ab"})
    )
    again = extract(settings(media), out, listener=lambda _: None)
    assert "encoder_weights" not in again.manifest.provenance
