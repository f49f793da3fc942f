"""The commands on datasets: `raymc extract`, `raymc import` and `raymc data`.

Each checks its settings first, and imports what is heavy after that.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from raymc.cli.options import (
    MOST_FAILURES,
    Commands,
    configured,
    load_config,
    make_console,
    overridable,
    pair_of,
    print_next,
)

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from raymc.config import Config, LessonsConfig
    from raymc.features.on_ray import ExtractSummary
    from raymc.features.sources import Listing


@click.group(cls=Commands)
def data() -> None:
    """Make, check, describe or audit a dataset."""


@data.command("make")
@configured
def data_make(target: str | None, overrides: tuple[str, ...]) -> None:
    """Make the dataset that data.make describes.

    A dataset that exists is left alone.
    """
    run_import(load_config(target, overrides))


@data.command("check")
@click.argument("path")
def data_check(path: str) -> None:
    """Check every row of the dataset at PATH.

    Exits with code 1 if anything is wrong. What is valid, but likely a mistake, is a warning.
    """
    from raymc.data.check import check_dataset, find_oddities
    from raymc.errors import counted
    from raymc.terminal import one_line

    findings, warnings = check_dataset(path)
    for finding in findings:
        click.echo(one_line(str(finding)))
    warnings += [] if findings else find_oddities(path)
    for warning in warnings:
        click.echo(one_line(f"warning: {warning}"))
    also = f", {counted(len(warnings), 'warning')}" if warnings else ""
    found = counted(len(findings), "finding") if findings else "no findings"
    click.echo(f"{path}: {found}{also}")
    sys.exit(1 if findings else 0)


@data.command("split")
@click.argument("path")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draw.")
@click.option("--by", default="", help="Column whose rows of equal value stay together.")
@click.option("--again", is_flag=True, help="Draw also if the dataset has several splits.")
def data_split(path: str, seed: int, by: str, again: bool) -> None:
    """Draw train, val and test for the dataset at PATH.

    All clips of a video go to one split, and the labels are balanced. The features stay as they
    are. It is another dataset then: runs that were trained on it before are not resumed.
    """
    from raymc.data.info import rows_line
    from raymc.data.splits import split_dataset
    from raymc.terminal import print_line

    manifest = split_dataset(path, seed=seed, by=by, again=again)
    print_line(make_console(), rows_line(manifest, path))


@data.command("lessons")
@click.argument("folder", type=click.Path())
@click.option(
    "--size",
    type=click.Choice(["tiny", "small", "approve"]),
    default="small",
    show_default=True,
    help="92 lessons of about 13 s, 373 of 13 s, or 1495 of 20 to 90 s.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the lessons.")
def data_lessons(folder: str, size: Literal["tiny", "small", "approve"], seed: int) -> None:
    """Write made-up lessons to FOLDER: videos and a table of labels.

    They have APPROVE's 19 classes, look-alikes that differ in one cue, and a list of all cues with
    their times (cues.jsonl). Needs `raymc[media,lessons]`.
    """
    from raymc.config import LessonsConfig

    run_videos(LessonsConfig(size=size, seed=seed), Path(folder), make_console())


def run_videos(config: "LessonsConfig", folder: Path, console: "Console") -> Path:
    """Write the lessons as videos, and their table, which is returned."""
    from raymc.cli.display import CountDisplay
    from raymc.formats.lessons import write_videos
    from raymc.terminal import print_line

    with CountDisplay(console, "videos") as display:
        table = write_videos(config, folder, on_video=display.count)
    print_line(console, f"{table}: paths, labels and splits; cues.jsonl has the times of all cues")
    return table


@data.command("info")
@click.argument("path")
@click.option("--plot", type=click.Path(), help="Draw the figures to this PNG file, too.")
def data_info(path: str, plot: str | None) -> None:
    """Describe the dataset at PATH: rows, tokens and labels."""
    from raymc.data.info import describe, plot_info, print_info
    from raymc.data.shards import open_dataset

    info = describe(open_dataset(path))
    print_info(info, make_console())
    if plot:
        plot_info(info, plot)


@data.command("audit")
@click.argument("run")
@overridable
def data_audit(run: str, overrides: tuple[str, ...]) -> None:
    """Prove which rows a run or sweep was trained on.

    RUN is its name or its folder. Exits with code 1 if a row was lost or used twice in an epoch.
    """
    settings, console = load_config(None, overrides), make_console()
    from raymc.search.audit import audit_trials, trials_table
    from raymc.terminal import print_line
    from raymc.training.audit import audit_run, audit_table, restarts_line
    from raymc.training.runs import find_run, read_run

    opened = read_run(find_run(run, settings.run.folder), overrides)
    if opened.is_sweep:
        found = audit_trials(opened)
        console.print(trials_table(run, found))
        where = f"{len(found)} trials"
    else:
        audited = audit_run(opened)
        console.print(audit_table(audited))
        if line := restarts_line(audited):
            print_line(console, line)
        found, where = [audited], audited.checkpoint
    is_right = all(each.is_right for each in found)
    verdict = "no row lost, none used twice" if is_right else "rows were lost or used twice"
    print_line(console, f"{where}: {verdict}")
    sys.exit(0 if is_right else 1)


_PROGRAMS = {
    "elan": "Annotations of ELAN (.eaf), as a table.",
    "boris": "Events that BORIS exports, as a table.",
    "label-studio": "Labels that Label Studio exports (JSON), as a table.",
}


class Formats(click.Group):
    """A command for each format; of features, its options are the settings of their recipe."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the formats' names."""
        from raymc.config import IMPORTERS

        return sorted([*IMPORTERS, *_PROGRAMS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Make the command of one format."""
        from raymc.cli.options import options_of
        from raymc.config import IMPORTERS

        if cmd_name in _PROGRAMS:
            return _annotations_command(cmd_name)
        if cmd_name not in IMPORTERS:
            return None
        kind = IMPORTERS[cmd_name]
        out = click.Option(["--out"], required=True, help="Folder of the dataset to write.")
        return click.Command(
            cmd_name,
            params=[*options_of(kind), out],
            help=kind.__doc__,
            callback=lambda out, **given: _import(cmd_name, out, given),
        )

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command; a file in its place is told apart from a misspelt name."""
        if Path(args[0]).suffix and Path(args[0]).exists():
            names = ", ".join(self.list_commands(ctx))
            ctx.fail(f"{args[0]}: name its format first, one of {names}.")
        return super().resolve_command(ctx, args)


@click.group("import", cls=Formats)
def import_() -> None:
    """Make a dataset of public features, or a table of annotations.

    Annotations are those of ELAN, BORIS and Label Studio. raymc extract takes the table, and also
    the files themselves.
    """


def _annotations_command(name: str) -> click.Command:
    tier = click.Option(["--tier"], multiple=True, help="Read only this tier; may be repeated.")
    return click.Command(
        name,
        params=[
            click.Argument(["source"]),
            click.Option(["--out"], required=True, help="Table to write: .csv or .xlsx."),
            *([tier] if name == "elan" else []),
        ],
        help=f"{_PROGRAMS[name]}\n\nSOURCE is a file, or a glob of several. A row of the table is "
        "a part of a video, with its labels.",
        callback=lambda source, out, tier=(): _import_annotations(name, source, Path(out), tier),
    )


def _import_annotations(name: str, source: str, out: Path, tiers: Sequence[str]) -> None:
    from raymc.errors import ConfigError, DataError, counted
    from raymc.features.sources import list_annotations
    from raymc.terminal import print_line

    if out.suffix.lower() not in (".csv", ".xlsx"):
        raise ConfigError(f"{out}: the table is written as .csv or .xlsx")
    if out.exists():
        raise DataError(f"{out} already exists: choose another --out")
    listing = list_annotations(source, tiers)
    if listing.program.lower().replace(" ", "-") != name:
        kind = f"a file of {listing.program}" if listing.program else "a plain table"
        raise DataError(f"{source}: this is {kind}, not what raymc import {name} reads")
    console = make_console()
    _print_listing(listing.lines, console)
    _save_clips(listing.clips(), out)
    clips = counted(len(listing.sources), "clip")
    print_line(console, f"{out}: {clips}")
    print_next(console, "make a dataset of it", "extract", str(out), "--out", "FOLDER")


def _save_clips(frame: "pd.DataFrame", out: Path) -> None:
    """Write a table that `raymc extract` reads; paths below its folder are relative to it."""
    from raymc.data.storage import whole_file
    from raymc.errors import DataError
    from raymc.evaluation.prediction_files import joined_labels, write_workbook

    paths, folder = map(Path, frame["path"]), out.absolute().parent
    relative = [path.relative_to(folder) if path.is_relative_to(folder) else path for path in paths]
    written = frame.assign(path=list(map(str, relative)), labels=frame["labels"].map(joined_labels))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as partial:
            if out.suffix.lower() == ".csv":
                written.to_csv(partial, index=False, encoding="utf-8-sig")
            else:
                write_workbook({"clips": [written]}, partial)
    except OSError as error:
        raise DataError(f"{out} can't be written: {error.strerror or error}") from error


def _import(name: str, out: str, given: dict[str, Any]) -> None:
    from raymc.cli.options import settings_of
    from raymc.config import IMPORTERS

    settings = settings_of(IMPORTERS[name], given)
    make = {"data.path": out, "data.make": {"name": name, **settings}}
    run_import(load_config(None, (), make))


def run_import(config: "Config") -> None:
    """Write the dataset that `data.make` describes, and what was unusual about it."""
    from raymc.cli.display import CountDisplay
    from raymc.data.info import rows_line
    from raymc.formats.prepare import prepare_dataset
    from raymc.terminal import print_line

    console = make_console()
    with CountDisplay(console, "rows") as display:
        manifest = prepare_dataset(config, on_row=display.count).manifest
    for note in manifest.provenance.get("notes", ()):
        print_line(console, f"note: {note}")
    print_line(console, rows_line(manifest, config.data.path))


@click.command()
@click.argument("source", required=False)
@overridable
@click.option("--out", help="Folder of the dataset to write.")
@click.option("--config", help="YAML file with further settings.")
@click.option("--dry-run", is_flag=True, help="Only say what would be extracted.")
@click.option("--videos", help="Folder of the videos that a table names, if not the table's.")
@click.option(
    "--column",
    multiple=True,
    metavar="ROLE=HEADING",
    help="Heading of the table for path, labels, id, split, start_seconds, ...; may be repeated.",
)
@click.option("--separator", help="Separator between the labels in a cell, or none.")
@click.option("--encoding", help="Encoding of the table, where it is not recognised.")
@click.option("--sheet", help="Sheet of a spreadsheet.")
@click.option("--unlabelled", is_flag=True, default=None, help="Accept a table without labels.")
@click.option("--split", help="Split of videos without one: auto (drawn), none, or its name.")
@click.option("--seed", type=int, help="Seed by which splits are drawn.")
@click.option("--fps", type=float, help="Frames to encode per second.")
@click.option("--window", type=float, help="Split longer videos into clips of this many seconds.")
@click.option("--stride", type=float, help="Seconds from the start of one clip to the next.")
@click.option(
    "--visual",
    help="Encoder of frames: auto, patches, efficientnet_lite0, a model from a hub, or none.",
)
@click.option("--audio", help="Encoder of sound: logmel, moonshine, a torchaudio bundle, or none.")
@click.option("--text", help="Encoder of words: auto, words, minilm, a model from a hub, or none.")
@click.option(
    "--transcript", help="Source of what is said: sidecar files, moonshine, or an ASR bundle."
)
@click.option(
    "--screen-text",
    is_flag=True,
    help="Read the words on the screen, too (needs raymc[pretrained]).",
)
@click.option("--language", help="Language of the sidecar files, such as en or de.")
@click.option("--weights", help="Folder of the encoders' weights, for machines without network.")
@click.option("--max-failures", help="Share of files that may fail, such as 5%.")
def extract(
    source: str | None,
    overrides: tuple[str, ...],
    config: str | None,
    dry_run: bool,
    screen_text: bool,
    **given: Any,
) -> None:
    """Turn videos into a dataset of features.

    SOURCE is a folder, a glob, or a table of paths and labels: CSV, a spreadsheet (.xlsx, .ods),
    JSON Lines or Parquet; or what ELAN, BORIS or Label Studio write. Run the same command again
    to resume.
    """
    from raymc.config import is_setting

    if source is not None and is_setting(source):
        source, overrides = None, (source, *overrides)
    named = {"out": "data.path", "window": "extract.window_seconds"}
    named |= {"stride": "extract.stride_seconds", "separator": "extract.label_separator"}
    columns = dict(pair_of(piece, "columns") for piece in given.pop("column"))
    settings = {named.get(key, f"extract.{key}"): value for key, value in given.items()}
    settings["extract.max_failures"] = _share(given["max_failures"])
    settings["extract.source"] = source
    settings["extract.screen"] = "rapidocr" if screen_text else None
    settings["extract.columns"] = columns or None
    loaded, console = load_config(config, overrides, settings), make_console()
    summary = run_extract(loaded, console, dry_run=dry_run)
    if summary is not None and summary.manifest.vocabulary.names:
        print_next(console, "train on it", "train", loaded.data.path)


def run_extract(
    config: "Config", console: "Console", *, dry_run: bool = False
) -> "ExtractSummary | None":
    """Make the dataset of the configured media; says what they are, and what could not be read.

    Returns None after a dry run.

    Raises:
        ConfigError: No folder is given for the dataset.
        ExtractionError: More files failed than `extract.max_failures` allows.
    """
    from raymc.cli.display import ExtractDisplay
    from raymc.data.info import rows_line
    from raymc.errors import ConfigError
    from raymc.features.on_ray import extract as extract_features
    from raymc.features.sources import check_present, list_media
    from raymc.terminal import one_line, print_line

    left_out: list[str] = []

    def show(listing: "Listing") -> None:
        left_out.extend(listing.left_out)
        _print_listing(listing.lines, console)

    def show_left_out() -> None:
        for line in left_out:
            print_line(console, one_line(line))

    if dry_run:
        listing = list_media(config.extract)
        show(listing)
        check_present(listing.sources)
        show_left_out()
        return None
    if not config.data.path:
        raise ConfigError("where to write the dataset? Name a folder, such as --out data/lessons")
    with ExtractDisplay(console) as display:
        summary = extract_features(
            config.extract, config.data.path, listener=display.handle, on_listing=show
        )
    print_line(console, rows_line(summary.manifest, config.data.path))
    if line := summary.text_line():
        print_line(console, line)
    show_left_out()
    if summary.read_again:
        print_line(console, f"files that had failed and were replaced: {summary.read_again:,} read")
    _show_failures(config, summary, console)
    return summary


def _print_listing(lines: Sequence[str], console: "Console") -> None:
    from raymc.terminal import one_line, print_line

    for line in lines:
        indent = line[: len(line) - len(line.lstrip())]
        print_line(console, indent + one_line(line))


def _show_failures(config: "Config", summary: "ExtractSummary", console: "Console") -> None:
    """Say which files could not be read; an error if they are too many."""
    from raymc.data.shards import FAILURES_FILE
    from raymc.errors import ExtractionError
    from raymc.terminal import one_line, print_line

    failed, files = summary.failed_files, summary.files
    if failed:
        line = f"{failed:,} of {files:,} files could not be read in full"
        reasons = f"{config.data.path}/{FAILURES_FILE}"
        print_line(console, f"{line}; the reasons are in {reasons}")
    if len(summary.failures) <= MOST_FAILURES:
        for one in summary.failures:
            print_line(console, one_line(f"{one.path}: {one.stage}: {one.error}"))
    if failed > config.extract.max_failures * files:
        raise ExtractionError(
            f"{failed} of {files} files failed, more than extract.max_failures allows "
            f"({100 * config.extract.max_failures:g} %); the first: {summary.failures[0].path}: "
            f"{summary.failures[0].error}"
        )


def _share(text: str | None) -> float | str | None:
    """Return `5%` as 0.05; text that is not a number is left for the settings to refuse."""
    if text is None:
        return None
    number, percent, rest = text.partition("%")
    try:
        return float(number) / (100 if percent else 1) if not rest else text
    except ValueError:
        return text
