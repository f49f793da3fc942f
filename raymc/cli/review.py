"""The command `raymc review`, and its progress."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raymc.cli.options import make_console, on_device, overridable, print_unread, runs_folder

if TYPE_CHECKING:
    from rich.console import Console

    from raymc.evaluation.review.review import Review


@click.command()
@click.argument("run")
@overridable
@click.option(
    "--out", required=True, multiple=True, type=click.Path(), help="File: .html, .csv or .xlsx."
)
@click.option("--dataset", default="", help="Dataset to review; by default the run's own.")
@click.option("--unlabelled", default="", help="Dataset or videos to choose clips to label from.")
@click.option("--next", "count", default=50, show_default=True, help="Clips to label to choose.")
@click.option(
    "--folds", type=click.IntRange(min=2), default=5, show_default=True, help="Folds of videos."
)
@click.option(
    "--curves/--no-curves", default=True, show_default=True, help="Estimate learning curves."
)
@click.option("--clips", default=100, show_default=True, help="Clips to ask about, on the page.")
@click.option("--seed", default=0, show_default=True, help="Seed of the folds and draws.")
@on_device
def review(run: str, overrides: tuple[str, ...], **asked: Any) -> None:
    """Find wrong labels, duplicates, and clips to label next.

    RUN is the name or folder of a run or sweep, or a bundle. A model is trained for each fold with
    the settings of the run, and judges the clips of videos that it has not seen. The page has
    frames and videos; answer there, and download a corrected table for `raymc extract`. Run the
    same command again to resume.
    """
    run_review(run, make_console(), runs_folder=runs_folder(overrides), **asked)


def run_review(
    run: str,
    console: "Console",
    *,
    out: tuple[str, ...],
    runs_folder: str = "runs",
    dataset: str = "",
    clips: int = 100,
    **asked: Any,
) -> "Review":
    """Review the dataset of a run, print what was found, and write it to files."""
    from raymc.cli.display import StagesDisplay
    from raymc.data.shards import open_dataset
    from raymc.errors import ConfigError, DataError
    from raymc.evaluation.review.files import SUFFIXES, save_review
    from raymc.evaluation.review.out_of_fold import best_epoch
    from raymc.evaluation.review.review import review as review_dataset
    from raymc.evaluation.review.review import review_lines
    from raymc.terminal import print_line
    from raymc.training.bundle import load_bundle
    from raymc.training.runs import find_bundle, name_of, own_dataset

    files = [Path(name) for name in out]
    for file in files:
        if file.suffix.lower() not in (".html", *SUFFIXES):
            raise ConfigError(f"{file}: a review is written as .html, {' or '.join(SUFFIXES)}")
        if file.exists():
            raise DataError(f"{file} already exists: choose another --out")
    bundle = load_bundle(find_bundle(run, runs_folder))
    opened = open_dataset(dataset) if dataset else own_dataset(bundle)
    shares = " and, for learning curves, on a half and a quarter of these" * asked["curves"]
    print_line(
        console,
        f"training {asked['folds']} models for {best_epoch(bundle)} epochs each, on the clips that "
        f"the other folds hold{shares}",
    )
    with StagesDisplay(console) as display:
        found = review_dataset(bundle, opened, **asked, listener=display.show)
        for file in files:
            if file.suffix.lower() == ".html":
                from raymc.report.build import save_report
                from raymc.report.review import review_page

                name = name_of(bundle.folder)
                page = review_page(found, file, name=name, clips_shown=clips, listener=display.show)
                save_report(page, file)
            else:
                save_review(found, file)
    for line in review_lines(found):
        print_line(console, line)
    print_unread(console, found.candidates.failures)
    for file in files:
        print_line(console, f"{'page' if file.suffix.lower() == '.html' else 'table'}: {file}")
    return found
