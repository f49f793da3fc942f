"""Files decoded apart: the same items, and a crash is a failure of its file."""

import os
from dataclasses import dataclass, replace
from threading import Barrier
from typing import Any

import pytest
import torch
from videos import Crashing, write_video

from raymc.config import ExtractConfig
from raymc.errors import ResourceError
from raymc.features.clips import Failure
from raymc.features.extraction import (
    END,
    Encoders,
    extract_files,
    extract_files_apart,
    extract_here,
    make_encoders,
    plan_extraction,
)
from raymc.features.sources import Source

PLAN = plan_extraction(ExtractConfig(window_seconds=0.5))
# A process for it starts in a third of the time: encoders of sound import torch.
SILENT = plan_extraction(ExtractConfig(window_seconds=0.5, audio="none"))


class Full(Source):
    """A file for which there is no memory."""

    def __getattribute__(self, name: str) -> Any:
        if name == "start_seconds":
            raise MemoryError("full")
        return super().__getattribute__(name)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, Source]]:
    """Four files with numbers of their own; the third is no video."""
    folder = tmp_path_factory.mktemp("videos")
    paths = [write_video(folder / f"{seed}.mp4", seconds=1.0, seed=seed) for seed in range(4)]
    paths[2].write_text("not a video")
    return [(k + 7, Source(path=str(path), id=path.stem)) for k, path in enumerate(paths)]


@pytest.mark.slow
def test_items_are_the_same_and_a_crash_or_an_endless_loop_is_a_failure(
    files: list[tuple[int, Source]],
) -> None:
    here = list(extract_files(files, SILENT, make_encoders(SILENT.config)))
    assert [number for number, _ in here] == [7, 7, 7, 8, 8, 8, 9, 9, 10, 10, 10]
    values = vars(files[0][1])

    def failed(number: int, how: str) -> list[tuple[int, Any]]:
        error = f"its decoder {how}"
        failure = Failure(path=values["path"], id=values["id"], stage="open", error=error)
        return [(number, failure), (number, END)]

    given = [
        (6, Crashing(**values, driver=os.getpid())),
        *files,
        (11, Crashing(**values, driver=os.getpid(), never_ends=True)),
    ]
    expected = [*failed(6, "crashed (SIGSEGV)"), *here, *failed(11, "never ended")]
    assert list(extract_files_apart(given, SILENT, cpu_seconds=0.5)) == expected


@pytest.mark.slow
def test_what_is_no_fault_of_a_file_is_raised(
    files: list[tuple[int, Source]],
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    unknown = replace(SILENT, config=replace(SILENT.config, visual="nothing"))
    with pytest.raises(ResourceError, match="ended with code 1 before it started"):
        list(extract_files_apart(files, unknown))
    assert "unknown visual encoder 'nothing'" in capfd.readouterr().err

    request.getfixturevalue("children_are_threads")  # this one does not end
    number, source = files[0]
    with pytest.raises(MemoryError, match="full"):
        list(extract_files_apart([(number, Full(**vars(source)))], PLAN))


@dataclass(frozen=True)
class Together:
    """An encoder that begins when another does."""

    encoder: Any
    begin: Barrier

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def encode(self, seen: Any) -> Any:
        self.begin.wait(10)
        return self.encoder.encode(seen)


def test_encoders_work_at_the_same_time_and_to_the_same_bits(
    files: list[tuple[int, Source]], children_are_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(extract_files(files, PLAN, make_encoders(PLAN.config)))
    begin = Barrier(2)

    def together(*given: Any, **named: Any) -> Encoders:
        made = make_encoders(*given, **named)
        return Encoders({name: Together(one, begin) for name, one in made.by_modality.items()})

    monkeypatch.setattr("raymc.features.extraction.make_encoders", together)
    plan = replace(PLAN, heavy=frozenset({"visual", "audio"}))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(extract_here(files, plan)) == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
