"""Runs on Ray Train: resumed after crashes, and what goes wrong.

That two workers train what one does is proven in tests/search/test_search.py, by a sweep's trial.
"""

import json
import os
import pickle
import re
import shutil
import signal
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.train
import torch
from drivers import wait_until
from pyarrow import fs
from ray.util.state import list_actors
from ray.util.state.common import ActorState
from tiny import SPLIT_ROWS, fit_here

from raymc.config import Config, override, to_dict
from raymc.data.feed.shared import SharedData
from raymc.data.shards import Dataset, open_dataset
from raymc.errors import CheckpointError, DataError, DivergedError
from raymc.events import Ended, EpochEnded, Event, Saved, Started, Warned
from raymc.training import checkpoint, on_ray, worker
from raymc.training.audit import AttemptRecorder, load_attempts, restarts
from raymc.training.bundle import WEIGHTS
from raymc.training.keeping import SNAPSHOT
from raymc.training.on_ray import equip, train
from raymc.training.row_log import RowLog, audit
from raymc.training.runs import open_run

PLAIN = {"model.dropout": 0.0, "model.modality_dropout": 0.0, "train.max_failures": 0}
Configure = Callable[..., Config]


@pytest.fixture
def configure(ray_logs: Path, runs_folder: Path, tiny_config: Config) -> Configure:
    """Names a run and changes its settings."""

    def named(name: str, **settings: Any) -> Config:
        names = {"run.name": name, "run.folder": str(runs_folder), "tracking.experiment": name}
        changes = {key.replace("__", "."): value for key, value in settings.items()}
        return override(tiny_config, {**PLAIN, **names, **changes})

    return named


def trained(config: Config) -> Path:
    return train(equip(open_run(config)), open_dataset(config.data.path))


def training_workers() -> list[ActorState]:
    return list_actors(filters=[("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")])


@pytest.mark.slow
def test_a_run_goes_on_after_each_fault(
    configure: Configure, tiny: Dataset, tmp_path: Path
) -> None:
    # small steps, so that the epoch is still under way when the news has come and been acted on
    steps = {"batch__size": 1, "train__checkpoint_steps": 5, "train__max_failures": 1}
    config = configure("faults", model__dropout=0.1, **steps)
    run = equip(open_run(config))
    folder = run.folder
    listed, written = folder / SNAPSHOT, folder / ".written"
    events: list[Event] = []
    intact: list[checkpoint.Found] = []

    def disturb(event: Event) -> None:
        """Lock Ray's list of checkpoints; tear it and a checkpoint; kill who resumes."""
        events.append(event)
        turns = [type(each) for each in events if isinstance(each, Started | Saved)]
        if turns == [Started, Saved, Saved, Saved] and isinstance(event, Saved):
            lock(listed)
            lock(written)
        elif isinstance(event, Warned) and not intact:
            wait_until(lambda: not training_workers())  # or it would store one more
            newest, *intact[:] = checkpoint.find(fs.LocalFileSystem(), str(folder))[0]
            Path(newest.path, checkpoint.TRAINING).write_bytes(b"")
            listed.rmdir()
            listed.write_text('{"ray_ver')
            written.rmdir()
        elif turns.count(Started) == 2 and turns[-2:] == [Started, type(event)]:
            [alone] = training_workers()
            os.kill(alone.pid, signal.SIGKILL)

    best = train(run, tiny, listeners=[disturb, AttemptRecorder(folder)])
    locked, list_torn, *_, checkpoint_torn = (
        event.message for event in events if isinstance(event, Warned)
    )
    assert re.match(rf"Ray can't write to {folder} \(.*{SNAPSHOT}.*\): retrying for up to", locked)
    assert re.match(
        rf"Ray's list of checkpoints, {listed}, can't be read and is rebuilt: ", list_torn
    )
    assert re.match(rf"checkpoint {folder}.* is corrupt.*; using the one before", checkpoint_torn)
    starts = [event for event in events if isinstance(event, Started)]
    positions = [(start.first_epoch - 1, start.first_step) for start in starts]
    assert len(positions) == 3
    assert positions == sorted(set(positions))
    assert positions[1] == intact[0].position
    whole = uninterrupted(config, tiny, tmp_path / "whole")
    assert (checkpoints(folder)[-1][1] / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    rows = RowLog.from_json(checkpoint.load_rows(checkpoints(folder)[-1][1]))
    found = audit(rows, rows=SPLIT_ROWS["train"], epochs=3, is_part=False)
    assert [one.once for one in found] == [45] * 3
    assert all(one.is_right for one in found)
    assert all(
        restart.repeated_steps <= 15  # a checkpoint is lost, and one may be under way
        for restart in restarts(load_attempts(folder))
    )

    epochs = [event for event in events if isinstance(event, EpochEnded)]
    assert sorted({event.epoch for event in epochs}) == [1, 2, 3]
    assert [event.is_last for event in epochs[-2:]] == [False, True]
    assert isinstance(events[-1], Ended)
    checkpoint.verify(best)
    kept, top = checkpoint.load_progress(best), max(e.metrics["val/mAP"] for e in epochs)
    assert kept.epoch == events[-1].best_epoch
    assert kept.metrics["val/mAP"] == events[-1].best["val/mAP"] == top
    assert {epoch for epoch, _ in checkpoints(folder)} >= {kept.epoch, 3}

    for _, made in checkpoints(folder):
        (made / WEIGHTS).write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"^no checkpoint in .*faults.* is intact: choose "
    ) as caught:
        trained(config)
    assert "\n" not in str(caught.value)


def test_storage_that_cannot_be_written(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"can't read or write .*/file/[0-9a-f]{32}: ") as caught:
        trained(configure("nowhere", run__storage=str(tmp_path / "file")))
    assert "\n" not in str(caught.value)


def lock(path: Path) -> None:
    """Put a folder where Ray writes a file, which may be there already."""
    while not path.is_dir():
        path.unlink(missing_ok=True)
        with suppress(FileExistsError):
            path.mkdir()


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return a run's checkpoints by epoch."""
    found = [file.parent for file in folder.glob(f"*/{checkpoint.PROGRESS}")]
    return sorted((checkpoint.load(one).progress.epoch, one) for one in found)


def uninterrupted(config: Config, dataset: Dataset, folder: Path) -> Path:
    """Train in this process; returns the last epoch's checkpoint."""

    def keep(event: EpochEnded, made: Path | None) -> None:
        if event.is_last and made is not None:
            shutil.copytree(made, folder)

    fit_here(dataset, config, keep)
    return folder


def test_a_run_that_diverges(
    configure: Configure, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker returns its error, or Ray would start it again; what it returns is pickled."""
    config = configure("diverging", loss__temperature=1e-40)
    alone = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)

    class Trainer:
        def __init__(self, run: object, data: SharedData, **_: object) -> None:
            self.settings = {"config": to_dict(config), "data": data, "events": None}

        def fit(self) -> ray.train.Result:
            returned = pickle.loads(pickle.dumps(worker.train_worker(self.settings)))
            return ray.train.Result(None, None, None, None, return_value=returned)

    monkeypatch.setattr(ray.train, "get_context", lambda: alone)
    monkeypatch.setattr(worker, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(worker, "last_checkpoint", lambda tell: nullcontext())
    monkeypatch.setattr(worker, "PreemptionWatch", lambda: SimpleNamespace(is_due=lambda: False))
    monkeypatch.setattr(on_ray, "make_trainer", Trainer)
    with pytest.raises(DivergedError, match=r"^the loss became nan in epoch 1: try ") as caught:
        train(equip(open_run(config)), tiny)
    assert "\n" not in str(caught.value)


def test_tokens_that_only_training_decodes(
    tiny_config: Config, tiny_path: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(tiny_path, tmp_path / "data")
    shorten_tokens(path, "val/00001.parquet")
    message = r"modality 'visual', row 3: \d+ bytes are not a multiple of a token's 12"
    with pytest.raises(DataError, match=message) as caught:
        uninterrupted(tiny_config, open_dataset(str(path)), tmp_path / "none")
    assert "\n" not in str(caught.value)


def shorten_tokens(dataset: Path, file: str) -> None:
    """Take a byte from a row's tokens, and tell dataset.json of the new file."""
    table = pq.ParquetFile(dataset / file).read()
    at = table.column_names.index("visual")
    tokens = table["visual"].to_pylist()
    tokens[3] = tokens[3][:-1]
    column = pa.array(tokens, table.schema.field(at).type)
    pq.write_table(table.set_column(at, table.schema.field(at), column), dataset / file)
    values = json.loads((dataset / "dataset.json").read_text())
    for shard in values["splits"]["val"]:
        if shard["file"] == file:
            shard["bytes"] = (dataset / file).stat().st_size
    (dataset / "dataset.json").write_text(json.dumps(values))
