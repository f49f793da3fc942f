"""Runs that are saved and killed within epochs: what they end with, and which rows they used."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_loop import assert_same_checkpoint
from tiny import SPLIT_ROWS, feeds_of
from two_workers import run_as_two

from raymc.config import Config, from_dict, override, to_dict
from raymc.data.feed.feed import Feed
from raymc.data.shards import Dataset, open_dataset
from raymc.errors import CheckpointError
from raymc.events import EpochEnded, Event, Saved, Started
from raymc.training import checkpoint, loop
from raymc.training.learner import Workers
from raymc.training.loop import Store, Write
from raymc.training.row_log import RowLog, audit

STEPS = 6  # of an epoch: 45 rows in batches of 8
Position = tuple[int, int]


@dataclass
class Run:
    """A run in this process, saved every `interval` steps or where `asked`, killed at `kill`."""

    folder: Path
    interval: int = 0
    asked: Iterable[Position] = ()
    kill: Position | None = None
    events: list[Event] = field(default_factory=list)
    saved: list[Position] = field(default_factory=list)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    _waiting: tuple[Write, Path] | None = None

    def train(self, config: Config, dataset: Dataset, resume: Path | None = None) -> "Run":
        workers = Workers.current()
        feeds = feeds_of(dataset, config, share=(workers.rank, workers.count))
        steps = self._positions(resume)
        try:
            loop.fit(
                override(config, {"train.checkpoint_steps": self.interval}),
                dataset.manifest,
                feeds,
                device=torch.device("cpu"),
                emit=self.events.append,
                report=Store(lambda: next(steps) in self.asked, self._keep),
                resume=resume,
            )
        except InterruptedError:
            assert self.kill
        self._write_waiting()
        return self

    def _positions(self, resume: Path | None) -> Iterator[Position]:
        first = (0, 0)
        if resume:
            progress = checkpoint.load_progress(resume)
            first = (progress.epoch, progress.part.steps)
        everything = ((epoch, step) for epoch in range(99) for step in range(1, STEPS + 1))
        return (position for position in everything if position > first)

    def _keep(self, event: EpochEnded | Saved, take: Callable[[], Write] | None) -> None:
        """Write the checkpoint before this one, as if it took until now."""
        self._write_waiting()
        position = event.epoch, event.step if isinstance(event, Saved) else 0
        if isinstance(event, EpochEnded):
            timed = ("train/samples_per_second", "train/waiting")
            self.metrics[event.epoch] = {k: v for k, v in event.metrics.items() if k not in timed}
        assert (take is None) == bool(Workers.current().rank)
        if take is not None:
            self._waiting = (take(), self.checkpoint(position))
        self.saved.append(position)
        if position == self.kill:
            raise InterruptedError

    def _write_waiting(self) -> None:
        if self._waiting:
            write, folder = self._waiting
            write(folder)
            self._waiting = None

    def checkpoint(self, position: Position) -> Path:
        return self.folder / f"checkpoint_{position[0]}_{position[1]}"

    def log(self, position: Position) -> RowLog:
        return RowLog.from_json(checkpoint.load_rows(self.checkpoint(position)))


@pytest.fixture(scope="module")
def config(tiny_config: Config) -> Config:
    """Two epochs with all that is drawn at random, and a running average of the weights."""
    random = {"model.dropout": 0.3, "model.modality_dropout": 0.5, "model.depth": 1}
    return override(tiny_config, {**random, "train.epochs": 2, "optimizer.average_epochs": 0.5})


@pytest.fixture(scope="module")
def whole(config: Config, tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing interrupts, saved at the ends of epochs alone."""
    return Run(tmp_path_factory.mktemp("whole")).train(config, tiny)


@pytest.fixture(scope="module")
def saved(config: Config, tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run, saved after every step; each checkpoint is written a step later."""
    return Run(tmp_path_factory.mktemp("saved"), interval=1).train(config, tiny)


@pytest.mark.slow
def test_checkpoints_come_when_they_are_due(config: Config, tiny: Dataset, tmp_path: Path) -> None:
    asked = [(0, 3), (1, 1), (1, 5), (1, 6)]
    run = Run(tmp_path, interval=4, asked=asked).train(config, tiny)
    assert run.saved == sorted({*asked, (0, 4), (1, 4), (1, 0), (2, 0)})
    for position in run.saved:
        progress = checkpoint.load_progress(run.checkpoint(position))
        assert (progress.epoch, progress.part.steps) == position
        assert (progress.metrics == {}) == (position[0] == 0)
        assert progress.part.rows == (0 if position[1] == 0 else 45 * position[1] // 6)


@pytest.mark.slow
def test_taking_checkpoints_changes_nothing(whole: Run, saved: Run) -> None:
    assert saved.metrics == whole.metrics
    assert_same(saved.checkpoint((2, 0)), whole.checkpoint((2, 0)))


def assert_same(one: Path, other: Path) -> None:
    """As of other runs; but for the interval, which the settings hold."""
    for path in (one, other):
        loaded = checkpoint.load(path)
        cleared = replace(loaded.progress, config={})
        checkpoint.save(path, loaded.weights, loaded.training_state, cleared, rows=loaded.rows)
    assert_same_checkpoint(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("position", [(0, 1), (1, 0), (1, 3), (1, 6)])
def test_a_run_resumed_anywhere_is_the_uninterrupted_one(
    whole: Run, saved: Run, config: Config, tiny: Dataset, tmp_path: Path, position: Position
) -> None:
    rest = Run(tmp_path).train(config, tiny, resume=saved.checkpoint(position))
    started = rest.events[0]
    assert isinstance(started, Started)
    assert (started.first_epoch, started.first_step) == (position[0] + 1, position[1])
    assert rest.metrics == {
        epoch: found for epoch, found in whole.metrics.items() if epoch > position[0]
    }
    for epoch in rest.metrics:
        assert_same(rest.checkpoint((epoch, 0)), whole.checkpoint((epoch, 0)))


@pytest.mark.slow
def test_a_run_killed_again_and_again(
    whole: Run, config: Config, tiny: Dataset, tmp_path: Path
) -> None:
    kills, last, metrics = [(0, 2), (0, 4), (1, 4)], None, {}
    for attempt, kill in enumerate([*kills, None]):
        run = Run(tmp_path / str(attempt), interval=2, kill=kill).train(config, tiny, resume=last)
        metrics |= run.metrics
        last = run.checkpoint(kill) if kill else None
    assert metrics == whole.metrics
    assert_same(run.checkpoint((2, 0)), whole.checkpoint((2, 0)))
    log = run.log((2, 0))
    found = audit(log, rows=SPLIT_ROWS["train"], epochs=2, is_part=False)
    assert [one.once for one in found] == [SPLIT_ROWS["train"]] * 2
    assert all(one.is_right for one in found)
    assert [one.attempts for one in found] == [3, 2]
    assert [one.steps for one in found] == [STEPS] * 2
    firsts = [(s.epoch, s.first_step) for s in log.segments]
    lasts = [(s.epoch, s.steps) for s in log.segments]
    for last_step, next_step in itertools.pairwise(zip(firsts, lasts, strict=True)):
        end, begin = last_step[1], next_step[0]
        assert begin in (end, (end[0] + 1, 0))


@pytest.mark.slow
def test_a_killed_attempt_leaves_no_trace_after_its_last_checkpoint(
    config: Config, tiny: Dataset, tmp_path: Path
) -> None:
    first = Run(tmp_path / "first", asked=[(1, 2), (1, 5)], kill=(1, 5)).train(config, tiny)
    rest = Run(tmp_path / "rest").train(config, tiny, resume=first.checkpoint((1, 2)))
    found = audit(rest.log((2, 0)), rows=SPLIT_ROWS["train"], epochs=2, is_part=False)
    assert all(one.is_right for one in found)
    assert found[1].attempts == 2


def test_what_batches_hold_is_what_is_recorded(
    config: Config, tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Feed.training

    def doubling(self: Feed, epoch: int, *, skip: int = 0) -> Any:
        batches = list(training(self, epoch, skip=skip))
        return [*batches[:2], batches[1], *batches[3:]]

    monkeypatch.setattr(Feed, "training", doubling)
    run = Run(tmp_path, kill=(1, 0)).train(config, tiny)
    [found] = audit(run.log((1, 0)), rows=SPLIT_ROWS["train"], epochs=1, is_part=False)
    assert found.repeated in (7, 8)  # the rows of one of six batches
    assert found.lost in (7, 8)
    assert not found.is_right


def work(rank: int, folder: str, values: dict[str, Any]) -> None:
    """What each of two workers does: go on from where one stopped, and stop in turn."""
    torch.set_num_threads(1)  # more threads than cores only wait for each other
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    config = from_dict(values)
    run = Run(Path(folder) / "two", asked=[(0, 5), (1, 3)], kill=(1, 3))
    resume = Path(folder) / "one" / "checkpoint_0_2"
    run.train(config, open_dataset(config.data.path), resume=resume)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_one_worker_then_two_then_one(tiny_config: Config, tiny: Dataset, tmp_path: Path) -> None:
    plain = override(
        tiny_config, {"model.dropout": 0.0, "model.modality_dropout": 0.0, "model.depth": 1}
    )
    alone = Run(tmp_path / "alone").train(plain, tiny)
    Run(tmp_path / "one", interval=2, kill=(0, 2)).train(plain, tiny)
    run_as_two(work, str(tmp_path), to_dict(plain))
    last = Run(tmp_path / "last")
    last.train(plain, tiny, resume=tmp_path / "two" / "checkpoint_1_3")
    for epoch, metrics in last.metrics.items():
        for name in ("train/loss", "val/loss", "val/mAP"):
            assert metrics[name] == pytest.approx(alone.metrics[epoch][name], rel=1e-3)
    found = audit(last.log((3, 0)), rows=SPLIT_ROWS["train"], epochs=3, is_part=False)
    assert [one.once for one in found] == [SPLIT_ROWS["train"]] * 3
    assert [one.workers for one in found] == [(1, 2), (2, 1), (1,)]
    assert [one.attempts for one in found] == [2, 2, 1]


@pytest.mark.slow
def test_a_checkpoint_whose_record_is_foreign(
    whole: Run, config: Config, tiny: Dataset, tmp_path: Path
) -> None:
    loaded = checkpoint.load(whole.checkpoint((1, 0)))
    state = loaded.weights, loaded.training_state, loaded.progress
    checkpoint.save(tmp_path / "foreign", *state, rows={"rows": 3})
    with pytest.raises(CheckpointError, match="the record of rows can't be read"):
        Run(tmp_path).train(config, tiny, resume=tmp_path / "foreign")
