"""The whole job on the embedded example, small enough for a laptop's few minutes.

Top layer. Uses nothing that the other commands don't: what it does, a user can type.
"""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule

from raymc.cli.runs import REPORT, run_evaluate, run_predict, run_tune
from raymc.config import Config, from_dict
from raymc.formats.prepare import prepare_dataset

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


def demo_config(folder: Path) -> Config:
    """Return the demo's configuration, with everything it writes under `folder`."""
    data = {**SETTINGS["data"], "path": str(folder / "digits")}
    run = {"name": "demo", "folder": str(folder / "runs")}
    return from_dict({**SETTINGS, "data": data, "run": run})


def run_demo(folder: Path, console: Console) -> None:
    """Make the dataset, search, keep the winner, test it, predict, and say what to look at."""
    started = time.monotonic()
    config = demo_config(folder)
    console.print(Rule("1 of 4: the dataset"))
    dataset = prepare_dataset(config)
    rows = {split: dataset.manifest.rows(split) for split in dataset.manifest.splits}
    console.print(
        f"{config.data.path}: " + ", ".join(f"{count} {split}" for split, count in rows.items())
    )
    console.print(Rule(f"2 of 4: {config.search.trials} trials"))
    bundle = run_tune(config, console)
    console.print(Rule("3 of 4: the winner on the test split"))
    run_evaluate(str(bundle), config.data.path, console)
    console.print(Rule("4 of 4: predictions"))
    out = folder / "predictions"
    if not out.exists():
        run_predict(str(bundle), config.data.path, out, console)
    console.print(f"done in {time.monotonic() - started:.0f} s. What to look at next:")
    for line in next_steps(config, bundle, out):
        console.print(line, soft_wrap=True)


def next_steps(config: Config, bundle: Path, out: Path) -> list[str]:
    """Return the commands that show what the demo has made."""
    raymc, runs = program(), f"run.folder={config.run.folder}"
    return [
        f"  {bundle.parent / REPORT}    the sweep on one page: open it in a browser",
        f"  {raymc} ui {runs}    MLflow in the browser: open the address it prints, unfold the",
        f"      sweep {config.run.name!r}, tick trials and press Compare; its page has the winner",
        f"  {raymc} runs {config.run.name} {runs}    the trials once more, in this terminal",
        f"  {raymc} data info {config.data.path}    what the dataset holds",
        f"  {bundle}    the model; {out} its predictions (Parquet)",
        f"  {raymc} train MY.yaml    your own data: see the README",
    ]


def program() -> str:
    """Return what to type for `raymc`: its path, where the environment isn't activated."""
    if shutil.which("raymc"):
        return "raymc"
    beside = Path(sys.executable).with_name("raymc")
    if not beside.exists():
        return f"{sys.executable} -m raymc"
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)
