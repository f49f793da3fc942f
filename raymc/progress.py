"""What a person sees while datasets are made: a bar on a terminal, a line now and then elsewhere.

May import raymc.events, raymc.tables, raymc.display and rich; knows neither Ray nor MLflow.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from raymc.display import print_plain
from raymc.events import ExtractProgress
from raymc.tables import duration

_SECONDS_A_LINE = 10.0  # where lines are all there is


@contextmanager
def rows_progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Show a bar of rows, gone at the end; yields what to tell a row's number and the total."""
    progress = Progress(
        TextColumn("rows"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        expand=True,
        disable=not console.is_interactive,
    )
    task = progress.add_task("rows", total=None)
    with progress:
        yield lambda row, rows: progress.update(task, completed=row, total=rows)


class ExtractDisplay:
    """Shows how far an extraction is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._began = self._said = clock()
        self._first: tuple[int, float] | None = None  # files done when the first was told, and when
        self._progress = Progress(
            TextColumn("files"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", style="cyan"),
            console=console,
            transient=True,
            expand=True,
            disable=not console.is_interactive,
        )
        self._files = self._progress.add_task("files", total=None, note="")

    def __enter__(self) -> "ExtractDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def handle(self, event: ExtractProgress) -> None:
        """Show how far the job is."""
        now = self._clock()
        self._first = self._first or (event.done_files, now)
        note = self._note(event, now)
        self._progress.update(self._files, total=event.files, completed=event.done_files, note=note)
        is_due = now - self._said >= _SECONDS_A_LINE or event.done_files == event.files
        if not self._console.is_interactive and is_due:
            self._said = now
            print_plain(self._console, f"{event.done_files:,}/{event.files:,} files  {note}")

    def _note(self, event: ExtractProgress, now: float) -> str:
        """Return the speed since this process began, what failed, and the time left."""
        seconds = max(now - self._began, 1e-9)
        parts = [f"{event.clips / seconds:,.1f} clips/s"]
        parts += [f"{event.seconds / seconds:,.1f} h of video/h"]
        parts += [f"{event.failed_files:,} failed"] if event.failed_files else []
        return "  ".join([*parts, *self._time_left(event, now)])

    def _time_left(self, event: ExtractProgress, now: float) -> list[str]:
        """From the speed since the first file was done: before that, processes were started."""
        assert self._first is not None
        done, then = self._first
        if event.done_files == done or event.done_files == event.files:
            return []
        seconds = (event.files - event.done_files) * (now - then) / (event.done_files - done)
        return [f"{duration(seconds)} left"]
