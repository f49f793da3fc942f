"""`raymc timeline`: where in a video each label shows, as a page or a file for other programs."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console

from raymc.cli.display import CountDisplay
from raymc.cli.options import OWN_THRESHOLD, print_unread
from raymc.data.storage import whole_file, write_text
from raymc.errors import DataError, RaymcError
from raymc.evaluation.neighbours import training_clips
from raymc.evaluation.timeline import Timeline, make_timeline, timeline_lines
from raymc.evaluation.timeline_files import timeline_writer
from raymc.report.playing import Looking, copy_for_browsers
from raymc.report.timeline import EMBED_BYTES, page_address, timeline_page
from raymc.terminal import print_line
from raymc.training.bundle import Bundle, load_bundle
from raymc.training.runs import find_bundle


def run_timeline(
    run: str,
    video: str,
    out: Path,
    console: Console,
    *,
    runs_folder: str = "runs",
    window: float | None = None,
    stride: float | None = None,
    threshold: float | None = None,
    least: float = 0.0,
    device: str = "auto",
) -> Timeline:
    """Score a video, write what the suffix of `out` asks for, and say what was found.

    Raises:
        ConfigError: The suffix is unknown; and as `make_timeline` does.
        DataError: The file is already there, or can't be written; and as `make_timeline` does.
    """
    write = timeline_writer(out)
    if out.exists():
        raise DataError(f"{out} already exists: choose another --out")
    bundle = load_bundle(find_bundle(run, runs_folder))
    with closing(Looking(video)) as looking:
        with CountDisplay(console, "seconds scored") as display:
            timeline = make_timeline(
                bundle,
                video,
                window=window,
                stride=stride,
                threshold=threshold,
                least=least,
                device=device,
                listener=_counted(display, looking),
            )
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            if write is None:
                _write_page(timeline, bundle, out, looking, console)
            else:
                with whole_file(out) as partial:
                    write(timeline, partial)
        except OSError as error:
            raise DataError(f"{out} can't be written: {error.strerror or error}") from error
    for line in timeline_lines(timeline):
        print_line(console, line)
    if np.isnan(timeline.enter).any() and bundle.calibration is not None:
        print_line(console, OWN_THRESHOLD)
    print_unread(console, timeline.failures)
    print_line(console, f"timeline: {out}")
    return timeline


def _write_page(
    timeline: Timeline, bundle: Bundle, out: Path, looking: Looking, console: Console
) -> None:
    """Write a page that shows the video: part of the page if it is small, else by its path.

    Where browsers don't play the file, the page shows a copy that they do.
    """
    notes: list[str] = []
    try:
        with CountDisplay(console, "training clips") as display:
            clips = training_clips(bundle, on_rows=display.count)
    except RaymcError as error:
        clips = None
        notes.append(f"No clips of training are shown: {error}.")
    if looking.result().is_played:
        address = page_address(timeline.path, out)
    else:
        with CountDisplay(console, "seconds copied") as display:
            address, note = _address_of_copy(timeline.path, out, _counted(display, looking))
        notes.append(note)
    write_text(out, timeline_page(timeline, address, clips=clips, notes=notes))
    for note in notes:
        print_line(console, note)


def _counted(display: CountDisplay, looking: Looking) -> Callable[[float], None]:
    """Return what shows how many seconds of a video are done; of all, if their number is known."""

    def count(seconds: float) -> None:
        display.count(round(seconds), round(max(seconds, looking.result().seconds or 0.0)))

    return count


def _address_of_copy(video: str, out: Path, listener: Callable[[float], None]) -> tuple[str, str]:
    """Return the address of a copy that browsers play, and what to say of it."""
    beside = out.with_suffix(".mp4")
    with TemporaryDirectory(prefix="raymc-") as folder:
        copy = Path(folder, "copy.mp4")
        try:
            copy_for_browsers(video, copy, listener=listener)
        except DataError as error:
            return "", f"The video can't be shown: {error}."
        if copy.stat().st_size <= EMBED_BYTES:
            address = page_address(str(copy), out)
            return address, "Browsers don't play the file itself, so the page has a copy in H.264."
        if beside.exists():
            raise DataError(f"{beside} already exists, where the page's copy would be: move it")
        with whole_file(beside) as partial:
            partial.write_bytes(copy.read_bytes())
    return (
        page_address(str(beside), out),
        f"Browsers don't play the file itself, so the page shows a copy in H.264: {beside.name}.",
    )
