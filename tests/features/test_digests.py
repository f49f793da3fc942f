"""Digests of sources: damage of any kind is a failure, and a whole file is what it was."""

import hashlib
import os
import random
import subprocess
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
from damage import DAMAGES, FUZZED, write_fuzzed

from raymc.config import ExtractConfig
from raymc.errors import DataError
from raymc.features.clips import Failure
from raymc.features.extraction import EncodedClip, extract_source, make_encoders, plan_extraction
from raymc.features.sources import Digests, Source, list_sources

PLAN = plan_extraction(ExtractConfig(window_seconds=0.6))
ENCODERS = make_encoders(PLAN.config, PLAN.light)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return write_fuzzed(tmp_path_factory.mktemp("whole"))


def source_of(path: Path, data: bytes) -> Source:
    return Source(path=str(path), id="x", sha256=hashlib.sha256(data).hexdigest())


def extracted(source: Source) -> list[EncodedClip | Failure]:
    return list(extract_source(source, PLAN, ENCODERS))


@pytest.mark.slow
@pytest.mark.parametrize("name", FUZZED)
def test_no_damage_goes_unnoticed(tmp_path: Path, whole: dict[str, bytes], name: str) -> None:
    source = source_of(tmp_path / name, whole[name])
    rng = random.Random(name)
    damaged = 0
    for damage in DAMAGES * 60:
        data = bytearray(whole[name])
        damage(data, rng)
        if data == whole[name]:
            continue
        damaged += 1
        (tmp_path / name).write_bytes(data)
        found = hashlib.sha256(data).hexdigest()
        error = f"the file's sha256 is {found}; expected {source.sha256}"
        assert extracted(source) == [Failure(path=source.path, id="x", stage="open", error=error)]
    assert damaged > 250


@pytest.mark.parametrize("name", FUZZED)
def test_whole_files_are_not_affected(tmp_path: Path, whole: dict[str, bytes], name: str) -> None:
    (tmp_path / name).write_bytes(whole[name])
    source = source_of(tmp_path / name, whole[name])
    clips = extracted(source)
    assert len(clips) == 2
    assert clips == extracted(replace(source, sha256=None))


def test_files_at_an_address() -> None:
    data = random.Random(0).randbytes(3_000_001)
    source = replace(source_of(Path(), data), path=f"memory://{uuid4().hex}/a.gz")
    with fsspec.open(source.path, "wb") as file:
        file.write(data)
    Digests().check(source)
    with pytest.raises(DataError, match="expected 00000"):
        Digests().check(replace(source, sha256="0" * 64))


def test_parts_of_a_file_are_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"some")
    source, digests = source_of(path, b"some"), Digests()
    digests.check(source)
    path.unlink()
    digests.check(replace(source, id="y", start_seconds=2.0))
    with pytest.raises(DataError, match="no such file"):
        Digests().check(source)


@pytest.mark.parametrize("name", ["missing.mp4", "pipe.mp4", "", "a\0b.mp4"])
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (failure,) = extracted(replace(source_of(tmp_path, b""), path=f"{tmp_path}/{name}"))
    assert isinstance(failure, Failure)
    assert failure.stage == "open"
    assert "\n" not in failure.error


def test_a_table_made_by_sha256sum(tmp_path: Path, whole: dict[str, bytes]) -> None:
    """As the README shows it."""
    (tmp_path / "b, c.mp4").write_bytes(whole["b.mp4"])
    printed = subprocess.check_output(["sha256sum", "b, c.mp4"], cwd=tmp_path, text=True)
    (tmp_path / "videos.tsv").write_text("sha256\tpath\n" + printed.replace("  ", "\t"))
    (source,) = list_sources(str(tmp_path / "videos.tsv"))
    expected = source_of(tmp_path / "b, c.mp4", whole["b.mp4"])
    assert source == replace(expected, id="b, c", extra={"sha256": expected.sha256})
    assert len(extracted(source)) == 2
