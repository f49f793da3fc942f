"""The searcher, called as Tune calls it: what the study and the disk hold afterwards."""

from errno import ENOSPC
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any

import pytest
from optuna.trial import TrialState

from cluster.chaos.services import PostgresServer
from raymc.config import Config, override
from raymc.errors import ResourceError
from raymc.events import EpochEnded
from raymc.search.gathering import NODE
from raymc.search.searcher import FAILURE, HandingOut, StudySearcher, trial_folder
from raymc.search.study import open_study, outside_space
from raymc.search.sweep import report_to_tune
from raymc.search.trials import Trial, trials_of
from raymc.training.runs import open_run
from raymc.training.worker import EPOCH, IS_LAST


class Told:
    """A searcher, and a stand-in for Tune that leaves a folder as each epoch's checkpoint."""

    def __init__(self, config: Config, folder: Path, *, session: str = "session-000") -> None:
        self.config, self.heard = config, list[Trial]()
        settings = {"run.folder": str(folder), "run.name": "sweep"}
        run = open_run(override(config, settings), sweep=True)
        self.session = run.folder / "trials" / session
        self.study = open_study(run)
        self.searcher = StudySearcher(
            self.study, config, session=self.session, scheduler=None, listener=self.heard.append
        )

    def start(self, tune_id: str) -> int:
        """Begin a trial; returns its number."""
        settings = self.searcher.suggest(tune_id)
        assert settings is not None
        return settings["number"]

    def epoch(self, number: int, epoch: int, value: float) -> dict[str, Any]:
        """What a trial reports of an epoch."""
        name = f"checkpoint_{epoch - 1:06d}"
        (self.session / trial_folder(number) / name).mkdir(parents=True)
        return {EPOCH: epoch, "val/mAP": value, IS_LAST: epoch == 5, "checkpoint_dir_name": name}

    def trials(self) -> list[Trial]:
        """What the study holds."""
        return trials_of(self.study.trials, self.config)

    def left(self, number: int) -> list[str]:
        """The checkpoints that are left, once all is written."""
        self.searcher._await_writes()
        return sorted(path.name for path in (self.session / trial_folder(number)).iterdir())


@pytest.fixture
def config(tiny_config: Config) -> Config:
    return override(tiny_config, {"search.trials": 2, "train.epochs": 5})


@pytest.fixture
def told(config: Config, tmp_path: Path) -> Told:
    return Told(config, tmp_path)


def test_the_best_the_newest_and_the_one_before_are_kept(told: Told) -> None:
    number, result = told.start("a"), dict[str, Any]()
    for epoch, value in enumerate((0.1, 0.9, 0.3, 0.4, 0.2), 1):
        result = told.epoch(number, epoch, value)
        told.searcher.on_trial_result("a", result)
        kept = {1: [0], 2: [0, 1], 3: [1, 2], 4: [1, 2, 3], 5: [1, 3, 4]}[epoch]
        assert told.left(number) == [f"checkpoint_{at:06d}" for at in kept]
    told.searcher.on_trial_complete("a", result)
    assert told.left(number) == ["checkpoint_000001"]
    assert told.study.trials[number].value == 0.9
    trial = told.trials()[number]
    assert (trial.state, trial.value) == ("complete", 0.9)
    assert trial.checkpoint == str(told.session / trial_folder(number) / "checkpoint_000001")


def test_an_epoch_that_is_told_twice_is_noted_once(told: Told) -> None:
    number = told.start("a")
    first = told.epoch(number, 1, 0.5)
    told.searcher.on_trial_result("a", first)
    told.searcher.on_trial_result("a", {**first, "val/mAP": 0.7})
    told.searcher.on_trial_complete("a", {FAILURE: "no luck"})
    trial = told.trials()[number]
    assert [epoch.metrics for epoch in trial.epochs] == [{"val/mAP": 0.5}]
    assert (trial.state, trial.message) == ("failed", "no luck")
    assert [(heard.epoch, heard.state) for heard in told.heard] == [
        (0, "running"),
        (1, "running"),
        (1, "failed"),
    ]


def test_what_a_dead_driver_left_is_handed_out_again(
    told: Told, config: Config, tmp_path: Path
) -> None:
    number = told.start("a")
    for epoch, value in enumerate((0.2, 0.6), 1):
        told.searcher.on_trial_result("a", told.epoch(number, epoch, value))
    told.searcher._await_writes()
    again = Told(config, tmp_path, session="session-001")
    assert again.searcher.due == 2
    assert again.start("b") == number
    (resumed,) = again.heard
    assert [epoch.value for epoch in resumed.epochs] == [0.2, 0.6]
    again.searcher.on_trial_result("b", again.epoch(number, 2, 0.8))  # it was noted before
    again.searcher.on_trial_result("b", again.epoch(number, 3, 0.5))
    again.searcher.on_trial_complete("b", {})
    trial = again.trials()[number]
    assert trial.state == "pruned"
    assert [epoch.value for epoch in trial.epochs] == [0.2, 0.6, 0.5]
    assert trial.best == {"val/mAP": 0.6, EPOCH: 2}
    assert Path(trial.checkpoint).is_dir()
    assert again.left(number) == []


@pytest.mark.slow
def test_no_trial_starts_when_the_hours_are_over(config: Config, tmp_path: Path) -> None:
    short = override(config, {"search.hours": 1e-9})
    told = Told(short, tmp_path)
    assert told.searcher.due == 2
    number = told.start("a")
    assert told.searcher.due == 0
    assert told.searcher.suggest("b") is None  # what is under way may yet be lost
    again = Told(short, tmp_path, session="session-001")
    assert again.searcher.due == 1
    assert again.start("a") == number  # what was begun is finished
    again.searcher.on_trial_complete("a", {**again.epoch(number, 1, 0.3), IS_LAST: True})
    assert again.searcher.suggest("b") == "FINISHED"
    longer = Told(override(config, {"search.hours": 1.0}), tmp_path, session="session-002")
    assert longer.start("b") == number + 1


def test_a_trial_whose_process_is_lost_is_handed_out_again(config: Config, tmp_path: Path) -> None:
    told = Told(override(config, {"search.trials": 1, "train.max_failures": 2}), tmp_path)
    number, losses = told.start("a"), "ab"
    for epoch, tune_id in enumerate(losses, 1):
        told.searcher.on_trial_result(tune_id, told.epoch(number, epoch, 0.1 * epoch))
        assert told.searcher.suggest("x") is None  # what is under way may yet be lost
        told.searcher.on_trial_complete(tune_id, error=True)
        again = told.searcher.suggest("abc"[epoch])
        assert (again["number"], again["folder"]) == (number, f"trial-{number:04d}.{epoch}")
    told.searcher.on_trial_result("c", {**told.epoch(number, 3, 0.3), IS_LAST: True})
    told.searcher.on_trial_complete("c", {IS_LAST: True})
    assert told.searcher.suggest("x") == "FINISHED"
    (trial,) = told.trials()
    assert trial.state == "complete"
    assert [epoch.number for epoch in trial.epochs] == [1, 2, 3]
    assert [heard.epoch for heard in told.heard] == [0, 1, 1, 2, 2, 3, 3]


def test_a_trial_whose_process_is_lost_too_often_has_failed(config: Config, tmp_path: Path) -> None:
    told = Told(override(config, {"search.trials": 1, "train.max_failures": 1}), tmp_path)
    for tune_id in "ab":
        told.start(tune_id)
        told.searcher.on_trial_complete(tune_id, error=True)
    assert told.searcher.suggest("x") == "FINISHED"
    (trial,) = told.trials()
    assert trial.state == "failed"
    assert "lost more often than train.max_failures allows" in trial.message


@pytest.mark.slow
def test_a_database_that_is_restarted_loses_nothing(config: Config, tmp_path: Path) -> None:
    pytest.importorskip("psycopg2")
    with TemporaryDirectory(prefix="raymc-") as folder:  # others than we get no further in pytest's
        Path(folder).chmod(0o711)
        server = PostgresServer(Path(folder, "postgres"), ("study",))
        try:
            server.start()
        except ResourceError as error:
            pytest.skip(str(error))
        try:
            told = Told(override(config, {"search.storage": server.address("study")}), tmp_path)
            number = told.start("a")
            told.searcher.on_trial_result("a", told.epoch(number, 1, 0.3))
            told.searcher._await_writes()
            server.kill()
            told.searcher.on_trial_result("a", told.epoch(number, 2, 0.6))
            back = Timer(0.5, server.start)
            back.start()
            other = told.start("b")
            told.searcher.on_trial_complete("a", told.epoch(number, 3, 0.5))
            back.join()
            trials = told.study.trials
        finally:
            server.kill()
    assert [(trial.number, trial.state) for trial in trials] == [
        (number, TrialState.PRUNED),
        (other, TrialState.RUNNING),
    ]
    assert trials[number].intermediate_values == {1: 0.3, 2: 0.6, 3: 0.5}


def test_an_epoch_that_cannot_be_written_is_an_error(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("raymc.search.searcher.note_epoch", fail)
    number = told.start("a")
    told.searcher.on_trial_result("a", told.epoch(number, 1, 0.5))
    with pytest.raises(OSError, match="the disk is full"):
        told.searcher.on_trial_complete("a", {})


def test_the_search_is_over_for_tune_unless_a_trial_is_left_to_hand_out(told: Told) -> None:
    """Tune holds a process, and so a node, for further trials until the search is over."""
    trials = HandingOut(told.searcher, concurrent=4)
    assert not trials.is_finished()
    first, second = told.start("a"), told.start("b")
    assert trials.is_finished()
    told.searcher.on_trial_complete("b", told.epoch(second, 1, 0.3), error=True)  # it was lost
    assert not trials.is_finished()
    assert told.start("c") == second
    assert trials.is_finished()
    for name, number in (("a", first), ("c", second)):
        told.searcher.on_trial_complete(name, told.epoch(number, 5, 0.4))
    assert trials.is_finished()
    assert [trial.state for trial in told.trials()] == ["complete"] * 2


def test_a_trial_waits_while_its_storage_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported, left = list[tuple[dict[str, Any], str]](), 2

    def report(metrics: dict[str, Any], *, checkpoint: Any) -> None:
        nonlocal left
        if left:
            left -= 1
            raise OSError(ENOSPC, "No space left on device")
        reported.append((metrics, checkpoint.path))

    monkeypatch.setattr("ray.tune.report", report)
    event = EpochEnded(3, {"val/mAP": 0.5}, is_best=True, seconds=1.0, is_last=True)
    report_to_tune(event, tmp_path, node="a")
    assert reported == [({"val/mAP": 0.5, EPOCH: 3, IS_LAST: True, NODE: "a"}, str(tmp_path))]


def test_settings_outside_their_space_are_named(tiny_config: Config) -> None:
    choices = {"search.space": {"optimizer.lr": {"choices": [0.3, 0.4]}}, "optimizer.lr": 0.2}
    assert outside_space(override(tiny_config, choices)) == {"optimizer.lr": 0.2}
    assert outside_space(override(tiny_config, {**choices, "optimizer.lr": 0.3})) == {}
