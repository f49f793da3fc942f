"""What is shown while datasets are made."""

import threading
from io import StringIO

import pytest
from example_trials import TRIALS
from rich.console import Console

from raymc.cli.display import CountDisplay, ExtractDisplay, TrainDisplay, TrialsDisplay
from raymc.events import ExtractProgress, Started, Stepped


class Clock:
    """Shows the time that it is set to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_tell_speed_failures_and_the_time_left() -> None:
    printed, clock = StringIO(), Clock()
    with ExtractDisplay(Console(file=printed, width=200), clock=clock) as display:
        for files, clips, seconds, failed, now in (
            (1, 1, 3.0, 0, 104.0),  # too early for a line
            (2, 2, 6.0, 0, 110.0),
            (5, 5, 15.0, 1, 116.0),
            (10, 12, 36.0, 1, 120.0),
        ):
            clock.now = now
            display.handle(ExtractProgress(files, 10, clips, seconds, failed))
    assert printed.getvalue().splitlines() == [
        "2/10 files  0.2 clips/s  0.6 h of video/h  48.0 s left",
        "10/10 files  0.6 clips/s  1.8 h of video/h  1 failed",
    ]


def test_files_that_come_together_say_nothing_of_the_speed() -> None:
    printed, clock = StringIO(), Clock()
    with ExtractDisplay(Console(file=printed, width=200), clock=clock) as display:
        for files, now in ((1, 111.0), (8, 111.001), (8, 122.0), (12, 131.001), (92, 140.0)):
            clock.now = now
            display.handle(ExtractProgress(files, 92, files, 10.0 * files, 0))
    first, second, *_ = printed.getvalue().splitlines()
    assert first.endswith("video/h")
    assert first.startswith("1/92 files")
    assert second.startswith("8/92 files")
    assert second.endswith("video/h")


def test_what_is_to_be_done_is_told_before_any_of_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time until the first file, such as that of starting Ray, says nothing of the speed."""
    monkeypatch.setattr("raymc.cli.display._SECONDS_A_TICK", 3600.0)
    printed, clock = StringIO(), Clock()
    with ExtractDisplay(Console(file=printed, width=200), clock=clock) as display:
        display.handle(ExtractProgress(0, 40, 0, 0.0, 0))
        clock.now = 110.0
        display.say_if_due()
        for files, now in ((5, 130.0), (10, 140.0)):
            clock.now = now
            display.handle(ExtractProgress(files, 40, files, 3.0 * files, 0))
    assert printed.getvalue().splitlines() == [
        "0/40 files after 10.0 s",
        "5/40 files  0.2 clips/s  0.5 h of video/h",
        "10/40 files  0.2 clips/s  0.8 h of video/h  1:00 left",
    ]


def test_a_terminal_has_a_bar_that_is_gone_at_the_end() -> None:
    printed = StringIO()
    console = Console(file=printed, force_terminal=True, width=100)
    with ExtractDisplay(console) as display:
        display.handle(ExtractProgress(2, 4, 2, 6.0, 1))
        display.handle(ExtractProgress(3, 4, 3, 9.0, 1))
    assert "3/4" in printed.getvalue()
    assert "1 failed" in printed.getvalue()
    assert printed.getvalue().endswith("\x1b[2K")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_rows_are_counted(is_terminal: bool) -> None:
    printed, clock = StringIO(), Clock()
    console = Console(file=printed, force_terminal=is_terminal, width=80)
    with ExtractDisplay(console, clock=clock) as display:
        for rows, now in ((100, 101.0), (200, 111.0), (300, 112.0), (600, 131.0)):
            clock.now = now
            display.rows(rows, 600)
    if is_terminal:
        assert "600/600" in printed.getvalue()
        assert printed.getvalue().endswith("\x1b[2K")
    else:
        assert printed.getvalue() == "200/600 rows  40.0 s left\n600/600 rows\n"


def test_work_of_seconds_prints_nothing_without_a_terminal() -> None:
    printed = StringIO()
    with CountDisplay(Console(file=printed, force_terminal=False), "rows") as display:
        display.count(1, 2)
        display.count(2, 2)
    assert not printed.getvalue()


@pytest.mark.parametrize("kind", ["counted", "run", "sweep"])
def test_a_line_comes_also_while_nothing_ends(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymc.cli.display._SECONDS_A_TICK", 0.001)
    printed, clock = Lines(), Clock()
    console = Console(file=printed, force_terminal=False, width=200)
    said: list[str] = []

    def next_line() -> str:
        before = len(printed.getvalue())
        clock.now += 10.0
        assert printed.grew.wait(60)
        printed.grew.clear()
        return printed.getvalue()[before:].strip()

    if kind == "counted":
        with CountDisplay(console, "rows", clock=clock) as count:
            said.append(next_line())
            count.count(5, 20)
            said.append(next_line())
        assert said == ["working for 10.0 s", "5/20 rows"]
    elif kind == "run":
        with TrainDisplay(console, clock=clock) as run:
            said.append(next_line())
            run.handle(Started(epochs=2, steps_per_epoch=40, rows=1234, parameters=56789))
            printed.grew.clear()
            clock.now += 5.0
            run.handle(Stepped(epoch=1, step=20, loss=0.75, samples_per_second=99.0))
            said.append(next_line())
        assert said == ["working for 10.0 s", "epoch 1/2  step 20/40  loss 0.7500  15.0 s left"]
    else:
        with TrialsDisplay(console, trials=9, clock=clock) as sweep:
            said.append(next_line())
            sweep.update(TRIALS[5])
            said.append(next_line())
        assert said == ["9 trials: none started", "9 trials: 1 running"]


class Lines(StringIO):
    """Says when a line was written."""

    def __init__(self) -> None:
        super().__init__()
        self.grew = threading.Event()

    def write(self, text: str) -> int:
        """Write a part of a line, or its end."""
        written = super().write(text)
        if text.endswith("\n"):
            self.grew.set()
        return written
