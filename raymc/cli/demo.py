"""The command `raymc demo`: the whole way on the embedded example, small enough for a laptop.

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
@click.option("--folder", default="raymc-demo", show_default=True, help="Folder for the results.")
def demo(folder: str) -> None:
    """Try everything on the embedded example: takes 3 minutes.

    Makes a dataset, searches settings, tests the winner and writes its predictions.
    """
    run_demo(Path(folder), make_console())


def demo_config(folder: Path) -> "Config":
    """Return the demo's configuration, which writes everything under `folder`."""
    from raymc.config import from_dict

    data = {**SETTINGS["data"], "path": str(folder / "digits")}
    run = {"name": "demo", "folder": str(folder / "runs")}
    return from_dict({**SETTINGS, "data": data, "run": run})


def run_demo(folder: Path, console: "Console") -> None:
    """Make the dataset, search, test the winner, predict, and print what to look at next."""
    from raymc.cli.runs import run_tune
    from raymc.cli.use import run_evaluate, run_predict
    from raymc.formats.prepare import prepare_dataset
    from raymc.terminal import print_line

    started = time.monotonic()
    config = demo_config(folder)
    console.rule("1 of 4: the dataset")
    manifest = prepare_dataset(config).manifest
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
