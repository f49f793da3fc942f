"""The commands that give a model to others: `raymc export`."""

from pathlib import Path

import click

from raymc.cli.options import load_config, make_console, overridable


@click.command()
@click.argument("run")
@overridable
@click.option("--out", required=True, type=click.Path(), help="New folder.")
@click.option("--name", default="", help="Title of the model card; by default the folder's name.")
@click.option("--license", default="", help="Licence of the model, such as cc-by-4.0.")
@click.option("--dataset", default="", help="Dataset to measure on; by default the run's own.")
@click.option("--split", default="", help="Split to measure on; by default the run's test split.")
def export(run: str, overrides: tuple[str, ...], out: str, **given: str) -> None:
    """Write a model to a folder that stands alone, with a model card.

    RUN is the name or folder of a run or sweep, or a bundle. The folder has weights, labels,
    thresholds, the recipe of the features, metrics and licences. Every command that takes a bundle
    takes it. README.md is a model card as Hugging Face shows it.
    """
    folder = load_config(None, overrides).run.folder
    from raymc.evaluation.export import export as export_bundle
    from raymc.terminal import print_line
    from raymc.training.bundle import load_bundle
    from raymc.training.runs import find_bundle

    console = make_console()
    for line in export_bundle(load_bundle(find_bundle(run, folder)), Path(out), **given):
        print_line(console, line, "yellow")
    print_line(console, f"model: {out}; its card is {Path(out, 'README.md')}")
