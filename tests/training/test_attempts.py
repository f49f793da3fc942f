"""What a driver notes of a run's starts, and what each restart cost."""

from pathlib import Path

import pytest

from raymc.events import Ended, EpochEnded, Event, Saved, Started, Stepped, Warned
from raymc.training.audit import Attempt, AttemptRecorder, load_attempts, restarts
from raymc.training.runs import ATTEMPTS_FILE


def started(epoch: int, step: int, workers: int = 1) -> Started:
    return Started(
        epochs=9,
        steps_per_epoch=10,
        rows=1,
        parameters=1,
        first_epoch=epoch,
        first_step=step,
        workers=workers,
    )


def stepped(epoch: int, step: int) -> Stepped:
    return Stepped(epoch, step, loss=1.0, samples_per_second=1.0)


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def record(folder: Path, clock: Clock, *events: tuple[float, Event]) -> None:
    recorder = AttemptRecorder(folder, clock=clock)
    for at, event in events:
        clock.now = float(at)
        recorder(event)


def test_a_run_that_crashes_twice(tmp_path: Path) -> None:
    clock = Clock()
    record(
        tmp_path,
        clock,
        (100, started(1, 0)),
        (101, stepped(1, 8)),
        (102, EpochEnded(1, {}, is_best=True, seconds=1.0)),
        (103, Saved(1, 4, 1)),
        (105, stepped(2, 7)),
        (130, started(2, 4, workers=2)),
        (131, Warned("torn")),
        (132, stepped(2, 6)),
    )
    record(tmp_path, clock, (200, started(2, 4)), (207, Saved(1, 8, 1)), (208, Ended("", 1)))
    assert load_attempts(tmp_path) == [
        Attempt(1, 10, 0, 17, started=100.0, went_on=101.0, heard=105.0),
        Attempt(2, 10, 14, 16, started=130.0, went_on=132.0, heard=132.0),
        Attempt(1, 10, 14, 18, started=200.0, went_on=207.0, heard=207.0),
    ]
    first, second = restarts(load_attempts(tmp_path))
    assert (first.repeated_steps, first.seconds) == (3, 27)
    assert (second.repeated_steps, second.seconds) == (2, 75)


def test_a_later_checkpoint_than_was_heard_of_repeats_nothing(tmp_path: Path) -> None:
    record(tmp_path, Clock(), (1, started(1, 0)), (2, stepped(1, 3)), (9, started(1, 5)))
    [restart] = restarts(load_attempts(tmp_path))
    assert (restart.repeated_steps, restart.seconds) == (0, 7)


def test_steps_are_written_once_a_second(tmp_path: Path) -> None:
    clock, seen = Clock(), []
    recorder = AttemptRecorder(tmp_path, clock=clock)
    recorder(started(1, 0))
    for step in range(1, 10):
        clock.now += 0.3
        recorder(stepped(1, step))
        seen.append(load_attempts(tmp_path)[0].last_step)
    assert seen == [0, 0, 0, 4, 4, 4, 4, 8, 8]
    assert [path.name for path in tmp_path.iterdir()] == [ATTEMPTS_FILE]


def test_news_before_any_start_are_nobody_s(tmp_path: Path) -> None:
    AttemptRecorder(tmp_path)(stepped(1, 1))
    assert load_attempts(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"workers": 1}]', "nonsense"])
def test_notes_that_cannot_be_read_are_begun_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / ATTEMPTS_FILE).write_text(text)
    record(tmp_path, Clock(), (1, started(1, 0)))
    assert len(load_attempts(tmp_path)) == 1


def test_a_note_that_cannot_be_written_is_written_later(tmp_path: Path) -> None:
    folder, clock = tmp_path / "run", Clock()
    recorder = AttemptRecorder(folder, clock=clock)
    recorder(started(1, 0))  # there is no such folder: as good as a full disk
    folder.mkdir()
    recorder(Stepped(1, 1, 1.0, 1.0))
    assert [attempt.last_step for attempt in load_attempts(folder)] == [1]
