"""Whole commands of training, timed from outside: what they take beside epochs. Top layer."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.bench.train_parts.ways import WAYS
from raymc.config import Config
from raymc.data.shards import open_dataset
from raymc.tracking import tracking_uri
from raymc.tracking.connect import open_client
from raymc.tracking.notes import markdown_table

RAYMC = "raymc train"
SPEED = "train/samples_per_second"
# What a person waits for before anything begins.
STARTS: Mapping[str, Sequence[str]] = {
    "python, nothing imported": ("-c", "pass"),
    "import raymc": ("-c", "import raymc"),
    "raymc --help": ("-m", "raymc", "--help"),
}


@dataclass(frozen=True)
class Command:
    """Seconds of a whole command in each round, and those of them within epochs of training."""

    name: str
    seconds: tuple[float, ...]
    in_epochs: tuple[float, ...]

    @property
    def around(self) -> list[float]:
        """The seconds before, between and after the epochs."""
        return [whole - inside for whole, inside in zip(self.seconds, self.in_epochs)]


def measure_commands(config: Config, file: str, *, rounds: int, device: str) -> list[Command]:
    """Run each whole command once a round, in turns, on the settings in `file`."""
    measured: dict[str, list[tuple[float, float]]] = {}
    for number in range(rounds):
        run = f"command-{number}"
        commands = {
            RAYMC: ["-m", "raymc", "train", file, f"run.name={run}"],
            **{way: ["-m", "jobs.bench.train_parts.ways", way, file, device] for way in WAYS},
            **STARTS,
        }
        for name, arguments in commands.items():
            seconds, printed = _timed(arguments)
            inside = 0.0
            if name == RAYMC:
                inside = _recorded_seconds(config, run)
            elif name in WAYS:
                inside = sum(json.loads(printed.splitlines()[-1])["seconds"])
            measured.setdefault(name, []).append((seconds, inside))
    return [Command(name, *(tuple(column) for column in zip(*m))) for name, m in measured.items()]


def _timed(arguments: Sequence[str]) -> tuple[float, str]:
    """Run Python on some arguments; returns the seconds and what it printed."""
    command = [sys.executable, *arguments]
    began = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - began, done.stdout


def _recorded_seconds(config: Config, name: str) -> float:
    """Return the seconds of a run's epochs by the speeds that MLflow has of them."""
    client = open_client(tracking_uri(config.tracking, config.run.folder), create=False)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment is not None
    named = f"attributes.run_name = '{name}'"
    (run,) = client.search_runs([experiment.experiment_id], named)
    rows = open_dataset(config.data.path).manifest.rows(config.data.train)
    return sum(rows / metric.value for metric in client.get_metric_history(run.info.run_id, SPEED))


def commands_table(commands: Sequence[Command]) -> str:
    """Return what each command takes around its epochs."""
    header = ["", "whole command", "in epochs", "around them"]
    rows = []
    for command in commands:
        inside = statistics.median(command.in_epochs)
        cells = [spread(command.seconds, "{:.2f}"), f"{inside:.2f}" if inside else ""]
        rows.append([command.name, *cells, spread(command.around, "{:.2f}")])
    return markdown_table(header, rows)


def spread(values: Sequence[float], form: str) -> str:
    """Return the median of some values and, in brackets, the least and the most."""
    least, most = form.format(min(values)), form.format(max(values))
    return f"{form.format(statistics.median(values))} ({least} to {most})"
