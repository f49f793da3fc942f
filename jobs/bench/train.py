"""`raymc train` beside a bare loop, Lightning and Hugging Face's Trainer, all training the same.

Steps are timed where they are taken, the first epoch apart: raymc's on a worker of Ray Train, with
its feed and its reports, every other way in its own process. What comes before and after the
epochs is timed on whole commands. `train_ways.py` has the other ways, `train_device.py` measures
how much of the device they use.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
import yaml
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from jobs.bench.measure import (
    NAME,
    Columns,
    Measurement,
    median,
    publish,
    ratios,
    shown,
    table,
    with_spread,
)
from jobs.bench.train_counts import COUNTS_TEXT, count_step, counts_table
from jobs.bench.train_device import (
    NO_GPU,
    measure_padding,
    measure_use,
    padding_table,
    use_text,
)
from jobs.bench.train_ways import (
    BARE,
    RAGGED,
    WAYS,
    Figures,
    figures_of,
    later_seconds,
    make_case,
    train_way,
)
from raymc.config import Config, override, to_dict
from raymc.data.shards import open_dataset
from raymc.events import EpochEnded, Event
from raymc.runtime.connect import connect
from raymc.runtime.device import device_here
from raymc.tracking import tracking_uri
from raymc.tracking.connect import open_client
from raymc.training.on_ray import equip, train
from raymc.training.runs import open_run

RAYMC = "raymc train"
SPEED = "train/samples_per_second"
# What a person waits for before anything begins.
STARTS: Mapping[str, Sequence[str]] = {
    "python, nothing imported": ("-c", "pass"),
    "import raymc": ("-c", "import raymc"),
    "raymc --help": ("-m", "raymc", "--help"),
}
COMMANDS_TEXT = (
    "Seconds of whole commands on the first of these sets. raymc's starts Ray if there are more "
    "than 2,000 clips, validates after every epoch, keeps checkpoints and a bundle, and records in "
    "MLflow; the others do none of this.\n\n"
)
PADDING_ROUNDS = 3
PADDING_TEXT = "Padding of rows of 24 to 300 tokens:\n\n"
# The page of a GPU is ready in ten minutes: what is not measured after this is left out.
GPU_SECONDS = 540.0
BRIEF = {"cases": ("digits",), "rounds": 3, "epochs": 2, "commands": 1}


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """What is measured, and how often."""

    cases: tuple[Literal["digits", "ragged"], ...] = Field(
        default=("digits", "ragged"),
        description="What is trained: the embedded example (digits), or a larger model on clips of "
        "24 to 300 wide tokens (ragged).",
    )
    rounds: int | None = Field(
        default=None,
        ge=0,
        description="How often each way trains, in turns.  [default: 5, on a GPU 0]",
    )
    epochs: int = Field(
        default=3, ge=1, description="Epochs of each training; the first is timed apart."
    )
    commands: int | None = Field(
        default=None,
        ge=0,
        description="How often each whole command runs.  [default: 3, on a GPU 0]",
    )
    threads: int = Field(default=1, ge=1, description="CPU threads of all ways.")
    device: Literal["cpu", "gpu"] = Field(
        default="cpu",
        description="Where all ways compute. gpu measures in ten minutes how much of the GPU is "
        "used: model FLOPs, padding, waiting and packed trials.",
    )
    count: bool = Field(
        default=False,
        description="Instead of timing anything, count what a step of the default model on three "
        "modalities in bfloat16 asks of a device.",
    )
    overrides: Mapping[str, str] = Field(
        default_factory=dict, description="A setting to change, such as model.width=64."
    )

    def times(self, part: Literal["rounds", "commands"]) -> int:
        """Return how often a part is measured."""
        given = getattr(self, part)
        usual = {"rounds": 5, "commands": 3} if self.device == "cpu" else {}
        return usual.get(part, 0) if given is None else given


def bench_train(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Measure training: its steps, what comes around them, and how much of the device they use.

    Raises:
        RaymcError: raymc's own training failed.
    """
    if settings.count:
        counts = count_step()
        publish("Train counts", f"{COUNTS_TEXT}{counts_table(counts)}", counts, console, out)
        return
    device = device_here(settings.device)
    rounds, commands = settings.times("rounds"), settings.times("commands")
    texts: list[str] = []
    measured: list[Measurement] = []
    with TemporaryDirectory(prefix="raymc-") as folder:
        configs = {
            name: config_of(settings, name, Path(folder)) for name in {*settings.cases, RAGGED}
        }
        if commands:  # before Ray runs in this process, which the commands would join
            config = configs[settings.cases[0]]
            with console.status("whole commands"):
                ran = measure_commands(config, rounds=commands, device=device.type)
            texts.append(f"### Start and end\n\n{COMMANDS_TEXT}{commands_table(ran)}")
            measured += ran
        for name in settings.cases if rounds else ():
            with console.status(f"{name}: {rounds} rounds"):
                ran = measure_case(configs[name], rounds=rounds, device=device.type)
            for one in ran:
                one.case["dataset"] = name
            rows = open_dataset(configs[name].data.path).manifest.rows("train")
            texts.append(f"### {name}\n\n{describe(configs[name])}\n\n{steps_table(ran, rows)}")
            measured += ran
        with console.status("use of the device"):
            if device.type == "cpu":
                torch.set_num_threads(settings.threads)
                padding = measure_padding(configs[RAGGED], device, rounds=PADDING_ROUNDS)
                texts.append(f"{NO_GPU}{PADDING_TEXT}{padding_table(padding)}")
                measured += padding
            else:
                used, trials = measure_use(device, Path(folder), seconds=GPU_SECONDS)
                texts.append(use_text(device, used, trials))
                measured += [*used, *trials]
    intro = (
        f"{settings.threads} threads on {settings.device}, {rounds} rounds in turns; "
        "medians, and in brackets the least and the largest. All ways see the same rows in every "
        "batch.\n\n"
    )
    publish("Train", (intro if rounds else "") + "\n".join(texts), measured, console, out)


def config_of(settings: Settings, case: str, folder: Path) -> Config:
    """Return the settings of a case, its dataset made below `folder`."""
    given = {
        "search.cpus_per_trial": settings.threads,
        "train.epochs": settings.epochs,
        "train.device": settings.device,
        "tracking.uri": f"sqlite:///{folder}/mlflow.db",
        **{path: yaml.safe_load(value) for path, value in settings.overrides.items()},
    }
    return make_case(case, folder, given)


def measure_commands(config: Config, *, rounds: int, device: str) -> list[Measurement]:
    """Run each whole command once a round, in turns: seconds, and those of them in epochs."""
    found: dict[str, Measurement] = {}
    with _file_of(config) as file:
        for number in range(rounds):
            run = f"command-{number}"
            commands = {
                RAYMC: ["-m", "raymc", "train", file, f"run.name={run}"],
                **{way: ["-m", "jobs.bench.train_ways", way, file, device] for way in WAYS},
                **STARTS,
            }
            for name, arguments in commands.items():
                seconds, printed = timed(arguments)
                inside = 0.0
                if name == RAYMC:
                    inside = recorded_seconds(config, run)
                elif name in WAYS:
                    inside = sum(json.loads(printed.splitlines()[-1])["seconds"])
                one = found.setdefault(name, Measurement(name))
                one.add(seconds=seconds, in_epochs=inside, around=seconds - inside)
    return list(found.values())


def timed(arguments: Sequence[str]) -> tuple[float, str]:
    """Run Python on some arguments; returns the seconds and what it printed."""
    command = [sys.executable, *arguments]
    began = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - began, done.stdout


def recorded_seconds(config: Config, name: str) -> float:
    """Return the seconds of a run's epochs by the speeds that MLflow has of them."""
    client = open_client(tracking_uri(config.tracking, config.run.folder), create=False)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment is not None
    named = f"attributes.run_name = '{name}'"
    (run,) = client.search_runs([experiment.experiment_id], named)
    rows = open_dataset(config.data.path).manifest.rows(config.data.train)
    return sum(rows / metric.value for metric in client.get_metric_history(run.info.run_id, SPEED))


def commands_table(commands: Sequence[Measurement]) -> str:
    """Return what each command takes around its epochs."""
    columns: Columns = {
        **NAME,
        "whole command": lambda m: with_spread(m["seconds"], "{:.2f}"),
        "in epochs": lambda m: f"{m.median('in_epochs'):.2f}" if any(m["in_epochs"]) else "",
        "around them": lambda m: with_spread(m["around"], "{:.2f}"),
    }
    return table(columns, commands)


def measure_case(config: Config, *, rounds: int, device: str) -> list[Measurement]:
    """Train in each way once a round, in turns; untimed once before, except for raymc.

    raymc's worker is a new process in every round, as it is in every run. A round's figures are
    lists with a value for each epoch.
    """
    connect()
    with _file_of(config) as file, ExitStack() as stack:

        def apart(way: str) -> Callable[[], Figures]:
            pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))

            def run() -> Figures:
                return pool.submit(train_way, way, file, device).result()

            run()
            return run

        ways = {BARE: apart(BARE), RAYMC: lambda: train_on_ray(config)}
        ways |= {name: apart(name) for name in WAYS if name != BARE}
        found = {name: Measurement(name) for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                found[name].add(**way())
    return list(found.values())


@contextmanager
def _file_of(config: Config) -> Iterator[str]:
    with TemporaryDirectory(prefix="raymc-") as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(yaml.safe_dump(to_dict(config)))
        yield str(file)


def train_on_ray(config: Config) -> Figures:
    """Train as `raymc train` does, in the Ray that runs here; figures by epoch."""
    config = override(config, {"run.name": "steps"})
    events: list[Event] = []
    dataset = open_dataset(config.data.path)
    run = equip(open_run(config))
    train(run, dataset, listeners=[events.append])
    shutil.rmtree(run.folder)
    rows = dataset.manifest.rows(config.data.train)
    ended = [event.metrics for event in events if isinstance(event, EpochEnded)]
    epochs = [(rows / m[SPEED], m["train/waiting"], m["train/loss"]) for m in ended]
    return figures_of([(seconds, share * seconds, loss) for seconds, share, loss in epochs])


def describe(config: Config) -> str:
    """Return in a line what a case trains."""
    manifest, model = open_dataset(config.data.path).manifest, config.model
    modalities = ", ".join(f"{m.name} {m.dim}-d {m.dtype}" for m in manifest.modalities)
    return (
        f"{manifest.rows(config.data.train):,} rows ({modalities}) in batches of "
        f"{config.batch.size}, width {model.width}, depth {model.depth}, {config.train.epochs} "
        "epochs."
    )


def steps_table(ran: Sequence[Measurement], rows: int) -> str:
    """Return how fast each way trains this many rows, beside the bare loop of the same round."""
    bare = next(one for one in ran if one.name == BARE)

    def later(m: Measurement) -> list[float]:
        return [later_seconds(epochs) for epochs in m["seconds"]]

    def off(m: Measurement) -> float:
        pairs = (pair for both in zip(bare["losses"], m["losses"]) for pair in zip(*both))
        return max(abs(x - y) for x, y in pairs)

    columns: Columns = {
        **NAME,
        "samples/s": lambda m: f"{rows / median(later(m)):.1f}",
        "÷ bare loop": lambda m: with_spread(ratios(later(bare), later(m)), "{:.3f}"),
        "waiting": lambda m: shown(
            "{:.1%}", median(later_seconds(waits) for waits in m["waiting"])
        ),
        "first epoch, s": lambda m: with_spread([epochs[0] for epochs in m["seconds"]], "{:.3f}"),
        "a later one, s": lambda m: with_spread(later(m), "{:.3f}"),
        "last loss": lambda m: f"{m['losses'][-1][-1]:.6f}",
        "off the bare loop's by": lambda m: f"{off(m):.1g}" if off(m) else "0",
    }
    return table(columns, ran)
