"""Checkpoints come back as they were saved, or not at all."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow.fs import LocalFileSystem

from raymc.errors import CheckpointError, DataError
from raymc.training import checkpoint
from raymc.training.checkpoint import DIGESTS, PROGRESS, ROWS, TRAINING, WEIGHTS, Part, Progress

FILES = (WEIGHTS, TRAINING, PROGRESS, ROWS, DIGESTS)
PROGRESS_MADE = Progress(
    epoch=3,
    best_epoch=2,
    metrics={"train/loss": 0.1 + 0.2, "val/mAP": float("inf")},
    best={"val/mAP": 0.7},
    thresholds=[0.25, None, -1.0],
    is_over=True,
    reason="early stop",
    config={"model": {"width": 16}, "data": {"modalities": []}},
    dataset={"digest": "abc", "vocabulary": {"names": ["a", "ä"]}},
    part=Part(steps=7, loss=0.1 + 0.7, rows=56, seconds=1e-9),
)
ROWS_MADE = {"rows": 9, "attempt": 1, "segments": [], "counts": {}}


def small_learner(seed: int = 0) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model and an AdamW that has taken two steps."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def save(folder: Path, *, seed: int = 0, progress: Progress = PROGRESS_MADE) -> None:
    model, optimizer = small_learner(seed)
    checkpoint.save(folder, model.state_dict(), optimizer.state_dict(), progress, rows=ROWS_MADE)


def assert_holds(folder: Path, *, seed: int = 0, progress: Progress = PROGRESS_MADE) -> None:
    model, optimizer = small_learner(seed)
    loaded = checkpoint.load(folder)
    assert loaded.progress == progress == checkpoint.load_progress(folder)
    assert loaded.rows == ROWS_MADE == checkpoint.load_rows(folder)
    for weights in (loaded.weights, checkpoint.load_weights(folder)):
        assert weights.keys() == model.state_dict().keys()
        assert all(torch.equal(weights[name], x) for name, x in model.state_dict().items())
    state = optimizer.state_dict()
    assert loaded.training_state["param_groups"] == state["param_groups"]
    for index, moments in state["state"].items():
        found = loaded.training_state["state"][index]
        assert all(torch.equal(found[name], value) for name, value in moments.items())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint."""
    save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_what_is_saved_comes_back(folder: Path) -> None:
    assert_holds(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_a_later_save_replaces_the_earlier_one(folder: Path) -> None:
    later = replace(PROGRESS_MADE, epoch=4, thresholds=[])
    save(folder, seed=1, progress=later)
    assert_holds(folder, seed=1, progress=later)
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def test_what_an_interrupted_save_left_does_not_mix_in(folder: Path) -> None:
    partial = folder.with_name("checkpoint.partial")
    partial.mkdir()
    (partial / "left over").write_text("")
    save(folder, seed=1)
    assert_holds(folder, seed=1)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_a_folder_on_the_way_is_made(tmp_path: Path) -> None:
    save(tmp_path / "a" / "b")
    assert_holds(tmp_path / "a" / "b")


@pytest.mark.parametrize("at", range(4))
def test_an_interrupted_save_leaves_the_old_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    calls = iter(range(10))

    def failing(write: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if next(calls) == at:
                raise OSError("no space left on device")
            return write(*args, **options)

        return call

    monkeypatch.setattr(checkpoint, "save_file", failing(checkpoint.save_file))
    monkeypatch.setattr(torch, "save", failing(torch.save))
    monkeypatch.setattr(Path, "write_text", failing(Path.write_text))
    with pytest.raises(OSError, match="no space"):
        save(folder, seed=1)
    assert_holds(folder)
    fresh = folder.with_name("fresh")
    calls = iter(range(10))
    with pytest.raises(OSError, match="no space"):
        save(fresh, seed=1)
    assert not fresh.exists()


def refuses(folder: Path, message: str = "checkpoint") -> None:
    """Neither `load` nor `verify` accept the checkpoint, and say so in one line."""
    for read in (checkpoint.load, checkpoint.verify):
        with pytest.raises(CheckpointError, match=message) as caught:
            read(folder)
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_or_torn(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    for share in (0.0, 0.01, 0.3, 0.7, 0.99, 1.0):
        path.write_bytes(whole[: min(len(whole) - 1, int(share * len(whole)))])
        refuses(folder)
    path.write_bytes(whole + b"\0")
    refuses(folder)
    path.unlink()
    refuses(folder, name)
    path.write_bytes(whole)
    assert_holds(folder)


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
@pytest.mark.parametrize("name", FILES)
def test_a_byte_that_flipped(folder: Path, name: str, flip: int) -> None:
    path = folder / name
    whole = path.read_bytes()
    step = 1 if len(whole) < 500 else len(whole) // 250
    for at in [*range(0, len(whole), step), len(whole) - 1]:
        flipped = bytearray(whole)
        flipped[at] ^= flip
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError):
            checkpoint.verify(folder)
    refuses(folder)


@pytest.mark.parametrize("digests", ["{}", "[]", "5", "null", '"text"', "[[1, 2], [3, 4]]"])
def test_digests_that_say_nothing(folder: Path, digests: str) -> None:
    (folder / DIGESTS).write_text(digests)
    refuses(folder)


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    refuses(tmp_path / "nowhere", "not a complete checkpoint: digests.json can't be read")
    with pytest.raises(CheckpointError, match=r"not a raymc checkpoint: progress.json"):
        checkpoint.load_progress(tmp_path)
    with pytest.raises(CheckpointError, match="can't be read"):
        checkpoint.load_weights(tmp_path)


@pytest.mark.parametrize("progress", ["", "[]", "5", "{}", '{"epoch": 1}', '{"epochs": 1}'])
def test_progress_that_is_foreign(folder: Path, progress: str) -> None:
    replace_file(folder, PROGRESS, progress.encode())
    with pytest.raises(CheckpointError, match=f"{PROGRESS} can't be read"):
        checkpoint.load(folder)


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Replace a file, and its digest too, as somebody would who wants it to be believed."""
    (folder / name).write_bytes(data)
    digests = json.loads((folder / DIGESTS).read_text())
    digests[name] = hashlib.sha256(data).hexdigest()
    (folder / DIGESTS).write_text(json.dumps(digests))


class Attack:
    """Unpickled, it runs a command."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("in_archive", [False, True])
def test_a_pickle_with_code_is_refused_and_not_run(
    folder: Path, tmp_path: Path, in_archive: bool
) -> None:
    attack = {"state": Attack(tmp_path / "trace"), "param_groups": []}
    if in_archive:
        torch.save(attack, tmp_path / "attack.pt")
        data = (tmp_path / "attack.pt").read_bytes()
    else:
        data = pickle.dumps(attack, protocol=2)
    replace_file(folder, TRAINING, data)
    with pytest.raises(CheckpointError, match="can't be read") as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", [WEIGHTS, TRAINING])
@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x80\x02", b"PK\x03\x04", b"\0" * 64])
def test_a_foreign_file_with_the_right_digest(folder: Path, name: str, data: bytes) -> None:
    replace_file(folder, name, data)
    with pytest.raises(CheckpointError, match="can't be read"):
        checkpoint.load(folder)


def found_in(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the checkpoints that are found, furthest first, and of the others."""
    found, unreadable = checkpoint.find(LocalFileSystem(), str(folder))
    return [Path(one.path).name for one in found], [Path(path).name for path in unreadable]


def test_checkpoints_of_a_run_are_found_furthest_first(tmp_path: Path) -> None:
    positions = {"b": (1, 0), "c": (0, 7), "a": (1, 12), "e": (2, 0), "d": (1, 3)}
    for name, (epoch, steps) in positions.items():
        progress = replace(PROGRESS_MADE, epoch=epoch, part=Part(steps))
        save(tmp_path / f"checkpoint_{name}", progress=progress)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "checkpoint_manager_snapshot.json").write_text("{}")
    names = [f"checkpoint_{name}" for name in "eadbc"]
    assert found_in(tmp_path) == (names, [])
    (tmp_path / names[0] / PROGRESS).unlink()
    (tmp_path / names[2] / PROGRESS).write_text('{"epoch"')
    (tmp_path / names[3] / PROGRESS).write_text("[1]")
    names_left, unreadable = found_in(tmp_path)
    assert names_left == [names[1], names[4]]
    assert sorted(unreadable) == sorted([names[0], names[2], names[3]])


def test_a_run_without_checkpoints(tmp_path: Path) -> None:
    assert found_in(tmp_path) == ([], [])
    assert found_in(tmp_path / "nowhere") == ([], [])
    assert checkpoint.best_of([]) == []


def test_the_best_epoch_s_checkpoint_is_told_from_those_after_it(tmp_path: Path) -> None:
    for name, best, (epoch, steps) in [("a", 1, (1, 0)), ("b", 2, (2, 0)), ("c", 2, (2, 9))]:
        progress = replace(PROGRESS_MADE, epoch=epoch, best_epoch=best, part=Part(steps))
        save(tmp_path / f"checkpoint_{name}", progress=progress)
    found, _ = checkpoint.find(LocalFileSystem(), str(tmp_path))
    assert [Path(one.path).name for one in checkpoint.best_of(found)] == ["checkpoint_b"]


def test_a_folder_out_of_reach(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="can't read or write") as caught:
        checkpoint.find(LocalFileSystem(), str(tmp_path / "file"))
    assert "\n" not in str(caught.value)
