"""Runs in this process: the bits of the loop, resumed after faults, and when Ray is needed."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import SPLIT_ROWS, fit_here

from raymc.config import Config, override
from raymc.data.shards import Dataset
from raymc.errors import DataError, DivergedError, TrainingError
from raymc.events import Ended, EpochEnded, Event, Saved, Started, Warned
from raymc.training import checkpoint, here, keeping
from raymc.training.bundle import WEIGHTS
from raymc.training.row_log import RowLog, audit
from raymc.training.runs import Run, open_run


@pytest.fixture
def config(tiny_config: Config, tmp_path: Path) -> Config:
    changes = {"run.folder": str(tmp_path), "run.name": "run", "train.checkpoint_steps": 2}
    return override(tiny_config, changes)


def checkpoints(folder: Path) -> list[tuple[int, int, Path]]:
    """Return a run's checkpoints by epoch and step."""
    found = [file.parent for file in folder.glob(f"*/{checkpoint.PROGRESS}")]
    loaded = [(checkpoint.load(one).progress, one) for one in found]
    return sorted((progress.epoch, progress.part.steps, one) for progress, one in loaded)


@pytest.mark.slow
def test_an_interrupted_run_comes_to_the_bits_of_the_loop(
    config: Config, tiny: Dataset, tmp_path: Path
) -> None:
    run, heard = open_run(override(config, {"train.epochs": 2})), list[Event]()
    whole = dict[int, bytes]()

    def keep(event: EpochEnded, made: Path | None) -> None:
        assert made is not None
        whole[event.epoch] = (made / WEIGHTS).read_bytes()

    fit_here(tiny, run.config, keep)

    def interrupt(event: Event) -> None:
        heard.append(event)
        if isinstance(event, Saved) and (event.epoch, event.step) == (1, 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        here.train(run, tiny, listeners=[interrupt])
    (run.folder / keeping.SNAPSHOT).write_text("of Ray Train, which began the run")
    epoch, step, newest = checkpoints(run.folder)[-1]
    assert (epoch, step) == (1, 4)
    (newest / WEIGHTS).write_bytes(b"")
    (run.folder / f"{checkpoint.FOLDER_PREFIX}torn").mkdir()

    again: list[Event] = []
    threads = torch.get_num_threads()
    best = here.train(run, tiny, listeners=[again.append])
    assert torch.get_num_threads() == threads
    torn, corrupt = (event.message for event in again if isinstance(event, Warned))
    assert torn.endswith("torn: it is incomplete")
    assert corrupt.startswith(f"checkpoint {newest} is corrupt")
    [start] = (event for event in again if isinstance(event, Started))
    assert (start.first_epoch, start.first_step, start.rows) == (2, 2, SPLIT_ROWS["train"])
    assert isinstance(again[-1], Ended)
    assert checkpoint.load_progress(best).epoch == again[-1].best_epoch
    assert (best / WEIGHTS).read_bytes() == whole[again[-1].best_epoch]
    kept = checkpoints(run.folder)
    assert len(kept) <= keeping.KEPT
    assert kept[-1][:2] == (2, 0)
    assert (kept[-1][2] / WEIGHTS).read_bytes() == whole[2]
    assert not (run.folder / keeping.SNAPSHOT).exists()
    rows = RowLog.from_json(checkpoint.load_rows(kept[-1][2]))
    assert all(one.is_right for one in audit(rows, rows=45, epochs=2, is_part=False))

    heard.clear()
    assert here.train(run, tiny, listeners=[heard.append]) == best  # all epochs are done
    assert [type(event) for event in heard] == [Started, EpochEnded, Ended]


@pytest.mark.slow
def test_what_goes_wrong_ends_in_one_line(
    config: Config, tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "PATIENCE_SECONDS", 0.0)
    run, heard = open_run(override(config, {"train.epochs": 1})), list[Event]()

    def deaf(event: Event) -> None:
        raise LookupError(event)

    with pytest.raises(LookupError, match=r"^Started\("):
        here.train(run, tiny, listeners=[deaf, heard.append])
    assert isinstance(heard[-1], Ended)  # nothing of the training was lost

    full = replace(run, storage=str(tmp_path / "full"))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", _no_space)
        with pytest.raises(TrainingError, match=r"^training failed: .*No space left on device$"):
            here.train(full, tiny)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"can't read or write .*/file: ") as caught:
        here.train(replace(run, storage=str(tmp_path / "file")), tiny)
    assert "\n" not in str(caught.value)
    diverging = replace(run, config=override(config, {"loss.temperature": 1e-40}))
    with pytest.raises(DivergedError, match=r"^the loss became nan in epoch 1: try "):
        here.train(replace(diverging, storage=str(tmp_path / "other")), tiny)


def _no_space(*_: object) -> None:
    raise OSError(28, os.strerror(28))


@pytest.mark.parametrize(
    ("changes", "is_enough"),
    [
        ({}, True),
        ({"data.cache": "off"}, True),
        ({"train.workers": 2}, False),
        ({"train.workers": [1, 4]}, False),
        ({"train.worker_resources": {"node": 1}}, False),
        ({"train.device": "gpu"}, torch.cuda.is_available()),
        ({"train.device": "auto", "search.gpus_per_trial": 0.5}, torch.cuda.is_available()),
        ({"search.cpus_per_trial": 1000}, False),
        ({"data.cache": "object_store"}, False),
        ({"run.storage": "s3://bucket/runs"}, False),
    ],
)
def test_ray_is_started_for_what_needs_it(
    config: Config,
    tiny: Dataset,
    changes: dict[str, Any],
    is_enough: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run: Run = open_run(override(config, changes))
    assert here.is_enough(run, tiny) == is_enough
    monkeypatch.setattr(here, "ROWS_HERE", SPLIT_ROWS["train"] - 1)
    assert not here.is_enough(run, tiny)
    monkeypatch.undo()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert not here.is_enough(run, tiny)
