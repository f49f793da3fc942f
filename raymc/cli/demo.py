"""The command `raymc demo`: the whole way on an embedded example, small enough for a laptop.

It does nothing that a user could not type with the other commands.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raymc.cli.options import make_console, program

if TYPE_CHECKING:
    from rich.console import Console

    from raymc.config import Config

SETTINGS: dict[str, Any] = {
    "data": {"make": {"name": "digits", "train_clips": 1800, "val_clips": 300, "test_clips": 300}},
    "batch": {"size": 32},
    "model": {
        "width": 64,
        "depth": 2,
        "fusion_depth": 2,
        "embedding_dim": 64,
        "modality_dropout": 0,
    },
    "optimizer": {"lr": 0.003},
    "train": {"epochs": 12},
    "search": {
        "trials": 8,
        "startup_trials": 4,
        "grace_epochs": 5,
        "space": {
            "loss.margin": {"low": 0.0, "high": 0.3},
            "loss.temperature": {"low": 0.05, "high": 0.2, "log": True},
            "model.fusion_depth": {"low": 0, "high": 2},
        },
    },
    "tracking": {"register_as": "raymc-demo"},
}


@click.command()
@click.option("--folder", help="Folder for the results: raymc-demo, or raymc-lessons.")
@click.option(
    "--lessons",
    is_flag=True,
    help="Begin with videos: made-up lessons with pictures, speech and words on the screen.",
)
def demo(folder: str | None, lessons: bool) -> None:
    """Try everything on the embedded example: takes 3 minutes.

    Makes a dataset, searches settings, tests the winner and writes its predictions. With
    --lessons, which takes 8 minutes and needs `raymc[pretrained,lessons]`: makes videos, extracts
    their features, trains, tests, labels the test videos, and draws the timeline of one.
    """
    if lessons:
        run_lessons(Path(folder or "raymc-lessons"), make_console())
    else:
        run_demo(Path(folder or "raymc-demo"), make_console())


def demo_config(folder: Path) -> "Config":
    """Return the demo's configuration, which writes everything under `folder`."""
    from raymc.config import from_dict

    data = {**SETTINGS["data"], "path": str(folder / "digits")}
    run = {"name": "demo", "folder": str(folder / "runs")}
    return from_dict({**SETTINGS, "data": data, "run": run})


def run_demo(folder: Path, console: "Console") -> None:
    """Make the dataset, search, test the winner, predict, and print what to look at next."""
    from raymc.cli.display import CountDisplay
    from raymc.cli.runs import run_tune
    from raymc.cli.use import run_evaluate, run_predict
    from raymc.formats.prepare import prepare_dataset
    from raymc.terminal import print_line

    started = time.monotonic()
    config = demo_config(folder)
    console.rule("1 of 4: the dataset")
    with CountDisplay(console, "rows") as display:
        manifest = prepare_dataset(config, on_row=display.count).manifest
    rows = ", ".join(f"{manifest.rows(split)} {split}" for split in manifest.splits)
    print_line(console, f"{config.data.path}: {rows}")
    console.rule(f"2 of 4: {config.search.trials} trials")
    bundle = run_tune(config, console)
    console.rule("3 of 4: the winner on the test split")
    run_evaluate(str(bundle), config.data.path, console)
    console.rule("4 of 4: predictions")
    out = folder / "predictions"
    if not out.exists():
        run_predict(str(bundle), config.data.path, out, console)
    print_line(console, f"done in {time.monotonic() - started:.0f} s. Next:")
    for line in next_steps(config, bundle, out):
        print_line(console, line)


def next_steps(config: "Config", bundle: Path, out: Path) -> list[str]:
    """Return the commands and files that show what the demo has made."""
    raymc, runs = program(), f"run.folder={config.run.folder}"
    return [
        f"  {bundle.parent / 'report.html'}    the sweep on one page: open it in a browser",
        f"  {raymc} ui {runs}    MLflow: open the address it prints, expand the sweep",
        f"      {config.run.name!r}, select trials and press Compare; its page has the winner",
        f"  {raymc} runs {config.run.name} {runs}    the trials again, in this terminal",
        f"  {raymc} data info {config.data.path}    what the dataset holds",
        f"  {bundle}    the model",
        f"  {out}    its predictions (Parquet)",
        f"  {raymc} extract MY-TABLE.csv --out data/mine    begin with your own videos",
    ]


LESSONS: dict[str, Any] = {
    "extract": {
        "text_interval_seconds": 2.0,
        "visual": "efficientnet_lite0_grid",
        "text": "minilm",
        "transcript": "moonshine",
        "screen": "rapidocr",
    },
    "batch": {"size": 16},
    "model": {"width": 64, "depth": 2, "fusion_depth": 1, "embedding_dim": 64},
    "optimizer": {"lr": 0.002},
    "train": {"epochs": 40},
}


def lessons_config(folder: Path) -> "Config":
    """Return the configuration of the demo of lessons, which writes everything under `folder`."""
    from raymc.config import from_dict

    extract = {**LESSONS["extract"], "source": str(folder / "videos" / "lessons.csv")}
    run = {"name": "lessons", "folder": str(folder / "runs")}
    data = {"path": str(folder / "features")}
    return from_dict({**LESSONS, "extract": extract, "data": data, "run": run})


def run_lessons(folder: Path, console: "Console") -> None:
    """Make videos, extract, train, test, predict and draw a timeline; say what to look at next.

    Raises:
        ResourceError: A package of `raymc[pretrained,lessons]` is missing.
    """
    from raymc.cli.data import run_extract, run_videos
    from raymc.cli.runs import run_train
    from raymc.cli.timeline import run_timeline
    from raymc.cli.use import run_evaluate, run_predict
    from raymc.config import LessonsConfig
    from raymc.features.extraction import plan_extraction
    from raymc.terminal import print_line

    started = time.monotonic()
    config = lessons_config(folder)
    plan_extraction(config.extract)  # a missing package is said before the videos are made
    console.rule("1 of 5: the videos")
    table = run_videos(LessonsConfig(size="tiny"), folder / "videos", console)
    console.rule("2 of 5: their features")
    run_extract(config, console)
    console.rule("3 of 5: training")
    bundle = run_train(config, console)
    console.rule("4 of 5: the model on the test split")
    run_evaluate(str(bundle), config.data.path, console)
    console.rule("5 of 5: labels and a timeline")
    out, page = folder / "labels.csv", folder / "timeline.html"
    videos = folder / "videos"
    if not out.exists():
        run_predict(str(bundle), str(videos / "test-000*.mp4"), out, console)
    if not page.exists():
        run_timeline(str(bundle), str(videos / "test-0000.mp4"), page, console)
    print_line(console, f"done in {time.monotonic() - started:.0f} s. Next:")
    for line in (
        f"  {videos}    the lessons; {table.name} has their labels, cues.jsonl what they show",
        f"  {page}    where in a lesson each label shows: open it in a browser",
        f"  {out}    labels and probabilities of ten test lessons",
        f"  {program()} data lessons FOLDER --size small    more and longer lessons",
    ):
        print_line(console, line)
