"""The commands that make of a model what others need: a class more, a folder to give away."""

from pathlib import Path
from typing import Any

import click

from raymc.cli.options import make_console, on_device, overridable, print_unread, runs_folder


@click.command()
@click.argument("run")
@overridable
@click.option("--out", required=True, type=click.Path(), help="New folder.")
@click.option("--name", default="", help="Title of the model card; by default the folder's name.")
@click.option("--license", default="", help="Licence of the model, such as cc-by-4.0.")
@click.option("--dataset", default="", help="Dataset to measure on; by default the model's own.")
@click.option("--split", default="", help="Split to measure on; by default the test split.")
def export(run: str, overrides: tuple[str, ...], out: str, **given: str) -> None:
    """Write a model to a folder that stands alone, with a model card.

    RUN is the name or folder of a run or sweep, or a bundle. The folder has weights, labels,
    thresholds, the recipe of the features, metrics and licences. Every command that takes a bundle
    takes it. README.md is a model card as Hugging Face shows it.
    """
    folder = runs_folder(overrides)
    from raymc.evaluation.export import export as export_bundle
    from raymc.terminal import print_line
    from raymc.training.bundle import load_bundle
    from raymc.training.runs import find_bundle

    console = make_console()
    for line in export_bundle(load_bundle(find_bundle(run, folder)), Path(out), **given):
        print_line(console, line, "yellow")
    print_line(console, f"model: {out}; its card is {Path(out, 'README.md')}")


@click.command("add-class")
@click.argument("run")
@click.argument("name")
@click.argument("examples", nargs=-1, required=True, metavar="EXAMPLES... [KEY=VALUE]...")
@click.option("--out", required=True, type=click.Path(), help="Folder of the new bundle.")
@click.option("--against", default="", help="Clips without the label: a dataset or videos.")
@click.option("--split", default="", help="Split of datasets; by default their only one, or train.")
@click.option(
    "--id", "ids", multiple=True, help="Take only the clip with this id, of all EXAMPLES."
)
@click.option("--confidence", type=float, help="How sure its threshold must be; 0: not at all.")
@on_device
def add_class(run: str, name: str, examples: tuple[str, ...], out: str, **given: Any) -> None:
    """Add a label to a trained model from a few clips.

    RUN is the name or folder of a run or sweep, or a bundle. EXAMPLES are videos, folders, globs,
    tables of videos or datasets; where some have the label NAME, these are the examples. The other
    labels and their scores stay as they are. Says what to expect of the new one.
    """
    from raymc.config import is_setting

    overrides = tuple(text for text in examples if is_setting(text))
    examples = tuple(text for text in examples if not is_setting(text))
    folder = runs_folder(overrides)
    from raymc.cli.display import ExtractDisplay
    from raymc.evaluation.add_class import add_class as add
    from raymc.terminal import print_line
    from raymc.training.bundle import load_bundle
    from raymc.training.runs import find_bundle

    console, bundle = make_console(), load_bundle(find_bundle(run, folder))
    with ExtractDisplay(console) as display:
        added = add(bundle, name, examples, Path(out), **given, listener=display.handle)
    for line in added.lines():
        print_line(console, line)
    print_unread(console, added.failures)
    print_line(console, f"bundle: {out}")
