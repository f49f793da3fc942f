"""What a person waits for: commands on a handful of clips, and what comes around a short training.

Each command runs whole, in turns with the limits: a bare interpreter, the import of torch, and the
start of a bare Ray. `raymc train` trains once in its own process and once on Ray, to the same bits.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from jobs.bench.measure import (
    NAME,
    Columns,
    Measurement,
    publish,
    ratios,
    table,
    with_spread,
)
from jobs.bench.train import recorded_seconds, timed
from raymc.config import Config, from_dict, to_dict
from raymc.formats.prepare import prepare_dataset
from raymc.training.bundle import WEIGHTS
from raymc.training.runs import BUNDLE

TRAIN, TRAIN_ON_RAY = "raymc train", "raymc train, on Ray"
EVALUATE, PREDICT = "raymc evaluate", "raymc predict"
PYTHON, TORCH, RAY = "python, nothing imported", "import torch", "import ray; ray.init()"
LIMITS: Mapping[str, str] = {
    PYTHON: "pass",
    TORCH: "import torch",
    RAY: "import ray; ray.init('local', num_cpus=2, include_dashboard=False)",
}
BRIEF = {"rounds": 3}


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """What is measured, and how often."""

    rounds: int = Field(default=5, ge=1, description="How often each command runs, in turns.")
    clips: int = Field(default=128, ge=8, description="Clips to train on, of the embedded example.")
    new_clips: int = Field(default=32, ge=1, description="Clips to evaluate, and to predict.")
    epochs: int = Field(default=5, ge=1, description="Epochs of each training.")
    overrides: Mapping[str, str] = Field(
        default_factory=dict, description="A setting to change, such as model.width=64."
    )


def bench_startup(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Measure whole commands on few clips.

    Raises:
        RuntimeError: Training on Ray and in this process came to different weights.
        subprocess.CalledProcessError: A command failed.
    """
    with TemporaryDirectory(prefix="raymc-") as folder:
        config = config_of(settings, Path(folder))
        prepare_dataset(config)
        with console.status(f"{settings.rounds} rounds"):
            found = measure(config, Path(folder), rounds=settings.rounds)
    text = (
        f"Seconds of whole commands, {settings.rounds} rounds in turns; medians, and in brackets "
        "the least and the largest. CPU is that of the command and of what it waits for, without "
        f"Ray's own processes. Trained: {settings.epochs} epochs of {settings.clips} clips; "
        f"evaluated and predicted: {settings.new_clips} clips. The weights trained on Ray and "
        f"without it are the same bits.\n\n{commands_table(found)}"
    )
    publish("Startup", text, found, console, out)


def config_of(settings: Settings, folder: Path) -> Config:
    """Return the settings of the runs, with a dataset below `folder` that is still to be made."""
    clips = {"val_clips": settings.new_clips, "test_clips": settings.new_clips}
    values: dict[str, Any] = {
        "data": {
            "path": f"{folder}/digits",
            "make": {"name": "digits", "train_clips": settings.clips, **clips},
        },
        "run": {"folder": f"{folder}/runs"},
        "train": {"epochs": settings.epochs, "device": "cpu"},
    }
    for path, value in settings.overrides.items():
        section, _, key = path.partition(".")
        values.setdefault(section, {})[key] = yaml.safe_load(value)
    return from_dict(values)


def measure(config: Config, folder: Path, *, rounds: int) -> list[Measurement]:
    """Run each command once a round, in turns."""
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(to_dict(config)))
    found: dict[str, Measurement] = {}

    def take(name: str, *arguments: str, run: str = "") -> None:
        before = _cpu_seconds()
        seconds, _ = timed(arguments)
        cpu = _cpu_seconds() - before
        inside = recorded_seconds(config, run) if run else 0.0
        one = found.setdefault(name, Measurement(name))
        one.add(seconds=seconds, in_epochs=inside, around=seconds - inside, cpu=cpu)

    for number in range(rounds):
        for name, program in LIMITS.items():
            take(name, "-c", program)
        here, there = f"here-{number}", f"ray-{number}"
        train = ("-m", "raymc", "train", str(file))
        take(TRAIN, *train, f"run.name={here}", run=here)
        take(TRAIN_ON_RAY, *train, f"run.name={there}", "data.cache=object_store", run=there)
        runs = Path(config.run.folder)
        one, two = ((runs / name / BUNDLE / WEIGHTS).read_bytes() for name in (here, there))
        if one != two:
            raise RuntimeError("training on Ray and in one process came to different weights")
        bundle = str(runs / here / BUNDLE)
        take(EVALUATE, "-m", "raymc", "evaluate", bundle, config.data.path)
        labels = str(folder / f"{number}.csv")
        take(PREDICT, "-m", "raymc", "predict", bundle, config.data.path, "--out", labels)
    return list(found.values())


def _cpu_seconds() -> float:
    """Return the CPU time of all child processes that have ended."""
    used = os.times()
    return used.children_user + used.children_system


def commands_table(found: list[Measurement]) -> str:
    """Return what each command takes, and how it compares with the start of a bare Ray."""
    started = next(one for one in found if one.name == RAY)
    columns: Columns = {
        **NAME,
        "whole command": lambda m: with_spread(m["seconds"], "{:.2f}"),
        "in epochs": lambda m: f"{m.median('in_epochs'):.2f}" if any(m["in_epochs"]) else "",
        "around them": lambda m: with_spread(m["around"], "{:.2f}"),
        "CPU": lambda m: with_spread(m["cpu"], "{:.1f}"),
        "÷ start of Ray": lambda m: with_spread(ratios(m["around"], started["around"]), "{:.2f}"),
    }
    return table(columns, found)
