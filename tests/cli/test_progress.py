"""What is shown while datasets are made."""

from io import StringIO

import pytest
from rich.console import Console

from raymc.cli.display import ExtractDisplay, rows_progress
from raymc.events import ExtractProgress


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
    printed = StringIO()
    with rows_progress(Console(file=printed, force_terminal=is_terminal, width=80)) as on_row:
        on_row(1, 3)
        on_row(3, 3)
    assert ("3/3" in printed.getvalue()) == is_terminal
