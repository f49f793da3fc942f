"""Runs on Ray Train: the same on one worker and two, resumed after crashes, and what goes wrong."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ray.util.state import list_actors
from safetensors.torch import load_file
from tiny import SPLIT_ROWS, feed_of, fit_here

from raymc.config import Config, from_dict, override
from raymc.data.shards import Dataset, open_dataset
from raymc.errors import CheckpointError, DataError, DivergedError
from raymc.events import Ended, EpochEnded, Event, Saved, Started, Warned
from raymc.metrics.metrics import evaluate_scores
from raymc.training import checkpoint
from raymc.training.audit import AttemptRecorder, load_attempts, restarts
from raymc.training.bundle import WEIGHTS
from raymc.training.keeping import SNAPSHOT
from raymc.training.learner import make_model
from raymc.training.on_ray import equip, train
from raymc.training.row_log import RowLog, audit
from raymc.training.runs import open_run
from raymc.training.validation import predict

PLAIN = {"model.dropout": 0.0, "model.modality_dropout": 0.0, "train.max_failures": 0}
Configure = Callable[..., Config]


@dataclass
class Run:
    """A run of `train`, and the events its driver was told."""

    folder: Path
    checkpoint: Path
    events: list[Event] = field(default_factory=list)

    def epochs(self) -> list[EpochEnded]:
        return [event for event in self.events if isinstance(event, EpochEnded)]


@pytest.fixture(scope="module")
def configure(ray_logs: Path, runs_folder: Path, tiny_config: Config) -> Configure:
    """Names a run and changes its settings."""

    def named(name: str, **settings: Any) -> Config:
        names = {"run.name": name, "run.folder": str(runs_folder), "tracking.experiment": name}
        changes = {key.replace("__", "."): value for key, value in settings.items()}
        return override(tiny_config, {**PLAIN, **names, **changes})

    return named


def trained(config: Config) -> Run:
    events: list[Event] = []
    run = equip(open_run(config))
    best = train(run, open_dataset(config.data.path), listeners=[events.append])
    return Run(run.folder, best, events)


@pytest.fixture(scope="module")
def both(configure: Configure) -> Run:
    """Three epochs on two workers."""
    return trained(configure("both", train__workers=2))


def test_two_workers_train_what_one_does(
    both: Run, tiny: Dataset, configure: Configure, tmp_path: Path
) -> None:
    alone: list[EpochEnded] = []
    weights = load_file(uninterrupted(configure("both"), tiny, tmp_path / "one", alone) / WEIGHTS)
    assert len(both.epochs()) == len(alone) == 3
    for one, two in zip(alone, both.epochs()):
        assert one.epoch == two.epoch
        assert one.metrics.keys() == two.metrics.keys()
        for name in one.metrics.keys() - {"train/samples_per_second", "train/waiting"}:
            assert two.metrics[name] == pytest.approx(one.metrics[name], abs=1e-4), name
    others = load_file(checkpoints(both.folder)[-1][1] / WEIGHTS)
    for name, weight in weights.items():
        np.testing.assert_allclose(others[name].numpy(), weight.numpy(), atol=1e-3, err_msg=name)


def test_every_validation_row_counts_once(both: Run, tiny: Dataset) -> None:
    loaded = checkpoint.load(both.checkpoint)
    config = from_dict(dict(loaded.progress.config))
    model = make_model(config, tiny.manifest)
    model.load_state_dict(loaded.weights)
    found = predict(model, feed_of(tiny, "val", config), device=torch.device("cpu"))
    assert found.rows.tolist() == list(range(SPLIT_ROWS["val"]))
    scores = evaluate_scores(found.scores, found.labels, found.observed)
    for name, value in scores.to_dict().items():
        assert loaded.progress.metrics[f"val/{name}"] == pytest.approx(value, abs=1e-6)


def test_the_driver_hears_everything_in_order(both: Run) -> None:
    started, ended = both.events[0], both.events[-1]
    assert isinstance(started, Started)
    assert (started.rows, started.epochs, started.first_epoch) == (SPLIT_ROWS["train"], 3, 1)
    assert [event.epoch for event in both.epochs()] == [1, 2, 3]
    assert [event.is_last for event in both.epochs()] == [False, False, True]
    assert isinstance(ended, Ended)
    assert ended.best == max((e.metrics for e in both.epochs()), key=lambda m: m["val/mAP"])


def test_the_best_and_the_last_two_checkpoints_are_kept(both: Run) -> None:
    best = max(both.epochs(), key=lambda event: event.metrics["val/mAP"])
    assert checkpoint.load(both.checkpoint).progress.epoch == best.epoch
    assert {epoch for epoch, _ in checkpoints(both.folder)} >= {best.epoch, 2, 3}


@pytest.mark.slow
def test_a_run_goes_on_after_each_fault(
    configure: Configure, tiny: Dataset, tmp_path: Path
) -> None:
    # small steps, so that the epoch is still under way when the news has come and been acted on
    steps = {"batch__size": 1, "train__checkpoint_steps": 5, "train__max_failures": 1}
    config = configure("faults", model__dropout=0.1, **steps)
    run = equip(open_run(config))
    folder = run.folder
    in_the_way = [folder / SNAPSHOT, folder / ".written"]  # what can't be written where folders are
    events: list[Event] = []

    def disturb(event: Event) -> None:
        """Lock Ray's list of checkpoints for a while, and kill the worker that starts then."""
        events.append(event)
        turns = [type(each) for each in events if isinstance(each, Started | Saved)]
        if turns == [Started] == [type(event)]:
            for path in in_the_way:
                lock(path)
        elif isinstance(event, Warned):
            for path in in_the_way:
                path.rmdir()
        elif turns.count(Started) == 2 and turns[-2:] == [Started, type(event)]:
            ours = [("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
            [worker] = list_actors(filters=ours)
            os.kill(worker.pid, signal.SIGKILL)

    best = train(run, tiny, listeners=[disturb, AttemptRecorder(folder)])
    [warned] = (event.message for event in events if isinstance(event, Warned))
    assert re.match(rf"Ray can't write to {folder} \(.*{SNAPSHOT}.*\): retrying for up to", warned)
    starts = [event for event in events if isinstance(event, Started)]
    positions = [(start.first_epoch, start.first_step) for start in starts]
    assert len(positions) == 3
    assert positions == sorted(set(positions))
    whole = uninterrupted(config, tiny, tmp_path / "whole")
    assert (checkpoints(folder)[-1][1] / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    checkpoint.verify(best)
    rows = RowLog.from_json(checkpoint.load_rows(checkpoints(folder)[-1][1]))
    found = audit(rows, rows=SPLIT_ROWS["train"], epochs=3, is_part=False)
    assert [one.once for one in found] == [45] * 3
    assert all(one.is_right for one in found)
    assert all(
        restart.repeated_steps <= 10  # one checkpoint may be under way
        for restart in restarts(load_attempts(folder))
    )

    torn, last = checkpoints(folder)[-1]
    assert torn == 3
    weights = (last / WEIGHTS).read_bytes()
    (last / checkpoint.TRAINING).write_bytes(b"")
    known = folder / SNAPSHOT
    known.write_text(known.read_text()[:-9])
    again = trained(config)
    list_torn, checkpoint_torn = (e.message for e in again.events if isinstance(e, Warned))
    assert re.match(
        rf"Ray's list of checkpoints, {known}, can't be read and is rebuilt: ", list_torn
    )
    assert re.match(rf"checkpoint {last} is corrupt.*; using the one before", checkpoint_torn)
    assert [event.first_epoch for event in again.events if isinstance(event, Started)] == [3]
    assert [event.epoch for event in again.epochs()] == [3]
    epoch, made = checkpoints(folder)[-1]
    assert epoch == 3
    assert (made / WEIGHTS).read_bytes() == weights
    kept = checkpoint.load_progress(again.checkpoint)
    assert kept.epoch == kept.best_epoch

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


def uninterrupted(
    config: Config, dataset: Dataset, folder: Path, epochs: list[EpochEnded] | None = None
) -> Path:
    """Train in this process; returns the last epoch's checkpoint, and adds to the epochs."""

    def keep(event: EpochEnded, made: Path | None) -> None:
        if epochs is not None:
            epochs.append(event)
        if event.is_last and made is not None:
            shutil.copytree(made, folder)

    fit_here(dataset, config, keep)
    return folder


def test_a_run_that_diverges(configure: Configure) -> None:
    with pytest.raises(DivergedError, match=r"^the loss became nan in epoch 1: try ") as caught:
        trained(configure("diverging", loss__temperature=1e-40))
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
