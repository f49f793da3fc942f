"""`raymc train` beside a bare loop, Lightning and Hugging Face's Trainer, all training the same.

Top layer. Steps are timed where they are taken, the first epoch apart: raymc's on a worker of Ray
Train, fed and reporting as always, each other way in a process of its own. What goes before and
after the epochs is timed on whole commands.
"""

import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
import yaml
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from jobs.bench.measure import Timing, publish
from jobs.bench.train_parts.commands import RAYMC, SPEED, commands_table, measure_commands, spread
from jobs.bench.train_parts.device import (
    LOADS,
    measure_padding,
    measure_shares,
    padding_table,
    shares_table,
)
from jobs.bench.train_parts.task import RAGGED, make_case
from jobs.bench.train_parts.ways import BARE, WAYS, Ran, train_way
from raymc.config import Config, override, to_dict
from raymc.data.shards import open_dataset
from raymc.events import EpochEnded, Event
from raymc.runtime.connect import connect
from raymc.tracking.notes import markdown_table
from raymc.training.on_ray import equip, train
from raymc.training.runs import open_run

COMMANDS_TEXT = (
    "Seconds of whole commands on the first of these sets. raymc's starts Ray, validates after "
    "every epoch, keeps checkpoints and a bundle, and records in MLflow; the others do none of "
    "it.\n\n"
)
NO_GPU = (
    "The share of a GPU's speed that training uses was not measured: there is none, or "
    "`--device cuda` was not given.\n\n"
)
BRIEF = {"cases": ("digits",), "rounds": 3, "epochs": 2, "commands": 1}


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """What is measured, and how often."""

    cases: tuple[Literal["digits", "ragged"], ...] = Field(
        default=("digits", "ragged"),
        description="What is trained: the embedded example, or a larger model on clips of 24 to "
        "300 wide tokens.",
    )
    rounds: int = Field(default=5, ge=0, description="How often each way trains, in turns.")
    epochs: int = Field(default=3, ge=1, description="Of each training; the first is told apart.")
    commands: int = Field(default=3, ge=0, description="How often each whole command runs.")
    threads: int = Field(default=1, ge=1, description="Of the CPU, for all ways.")
    device: Literal["cpu", "cuda"] = Field(
        default="cpu", description="Where all ways compute; cuda also tells how much of it is used."
    )
    overrides: Mapping[str, str] = Field(
        default_factory=dict, description="What to train differently, such as model.width=64."
    )


def bench_train(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Measure training: its steps, what comes around them, and how much of the device they use.

    Args:
        console: Where the tables go.
        settings: What is measured.
        out: Folder for the tables and all numbers.

    Raises:
        RaymcError: raymc's own training failed.
    """
    texts: list[str] = []
    timings: list[Timing] = []
    figures: list[Mapping[str, object]] = []
    with TemporaryDirectory(prefix="raymc-") as folder:
        configs = {
            name: config_of(settings, name, Path(folder)) for name in {*settings.cases, RAGGED}
        }
        if settings.commands:  # first, as long as no Ray runs here
            config = configs[settings.cases[0]]
            with console.status("whole commands"), _file_of(config) as file:
                commands = measure_commands(
                    config, file, rounds=settings.commands, device=settings.device
                )
            texts.append(f"### Start and end\n\n{COMMANDS_TEXT}{commands_table(commands)}")
            figures += [asdict(command) for command in commands]
        for name in settings.cases if settings.rounds else ():
            with console.status(f"{name}: {settings.rounds} rounds"):
                ran = measure_case(configs[name], settings)
            rows = open_dataset(configs[name].data.path).manifest.rows("train")
            texts.append(f"### {name}\n\n{describe(configs[name])}\n\n{steps_table(ran, rows)}")
            timings += [
                Timing(f"{name}: {w}", tuple(one.later for one in r)) for w, r in ran.items()
            ]
            figures += [{"case": name, "way": w, **asdict(r)} for w, rs in ran.items() for r in rs]
        with console.status("use of the device"):
            text, numbers = _device_part(configs[RAGGED], settings)
        texts.append(text)
        figures += numbers
    title = (
        f"{settings.threads} threads on {settings.device}, {settings.rounds} rounds in turns; "
        "medians, and in brackets the least and the most. All ways see the same rows in every "
        "batch.\n\n"
    )
    publish("Train", title + "\n".join(filter(None, texts)), timings, console, out, figures=figures)


def config_of(settings: Settings, case: str, folder: Path) -> Config:
    """Return the settings of a case, its dataset made below `folder`."""
    given = {
        "search.cpus_per_trial": settings.threads,
        "train.epochs": settings.epochs,
        "train.device": "cpu" if settings.device == "cpu" else "gpu",
        "tracking.uri": f"sqlite:///{folder}/mlflow.db",
        **{path: yaml.safe_load(value) for path, value in settings.overrides.items()},
    }
    return make_case(case, folder, given)


def measure_case(config: Config, settings: Settings) -> dict[str, list[Ran]]:
    """Train in each way once a round, in turns; uncounted once before, but for raymc's.

    raymc's worker is a new process in every round, as it is in every run.
    """
    connect()
    with _file_of(config) as file, ExitStack() as stack:
        ways: dict[str, Callable[[], Ran]] = {BARE: _apart(BARE, file, settings.device, stack)}
        ways[RAYMC] = lambda: train_on_ray(config)
        ways |= {name: _apart(name, file, settings.device, stack) for name in WAYS if name != BARE}
        found: dict[str, list[Ran]] = {name: [] for name in ways}
        for _ in range(settings.rounds):
            for name, way in ways.items():
                found[name].append(way())
    return found


def _apart(way: str, file: str, device: str, stack: ExitStack) -> Callable[[], Ran]:
    """Return a way in a process of its own, which has gone it once."""
    pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))

    def run() -> Ran:
        return pool.submit(train_way, way, file, device).result()

    run()
    return run


@contextmanager
def _file_of(config: Config) -> Iterator[str]:
    with TemporaryDirectory(prefix="raymc-") as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(yaml.safe_dump(to_dict(config)))
        yield str(file)


def train_on_ray(config: Config) -> Ran:
    """Train as `raymc train` does, in the Ray that runs here."""
    config = override(config, {"run.name": "steps"})
    events: list[Event] = []
    dataset = open_dataset(config.data.path)
    run = equip(open_run(config))
    train(run, dataset, listeners=[events.append])
    shutil.rmtree(run.folder)
    ran, rows = Ran(), dataset.manifest.rows(config.data.train)
    for event in events:
        if isinstance(event, EpochEnded):
            seconds = rows / event.metrics[SPEED]
            waited = seconds * event.metrics["train/waiting"]
            ran.add(seconds=seconds, waited=waited, loss=event.metrics["train/loss"])
    return ran


def _device_part(config: Config, settings: Settings) -> tuple[str, list[Mapping[str, object]]]:
    """Return the text on the use of the device, and its numbers."""
    load, device = LOADS[settings.device], torch.device(settings.device)
    shares = measure_shares(config, device, load) if load.largest_batch else []
    torch.set_num_threads(settings.threads)
    padding = measure_padding(config, device, load)
    shape = f"width {load.width}, depth {load.depth}, {load.heads} heads"
    text = (
        f"### Use of the device\n\n{shares_table(shares) if shares else NO_GPU}\n"
        f"Padding of rows of 24 to 300 tokens:\n\n{padding_table(padding)}\n"
        f"Measured with {shape}.\n"
    )
    return text, [asdict(figure) for figure in (*shares, *padding)]


def describe(config: Config) -> str:
    """Return in a line what a case trains."""
    manifest, model = open_dataset(config.data.path).manifest, config.model
    modalities = ", ".join(f"{m.name} {m.dim}-d {m.dtype}" for m in manifest.modalities)
    return (
        f"{manifest.rows(config.data.train):,} rows ({modalities}) in batches of "
        f"{config.batch.size}, width {model.width}, depth {model.depth}, {config.train.epochs} "
        "epochs."
    )


def steps_table(ran: Mapping[str, Sequence[Ran]], rows: int) -> str:
    """Return how fast each way trains so many rows, beside the bare loop of the same round."""
    bare = ran[BARE]
    header = ["", "samples/s", "÷ bare loop", "waiting", "first epoch, s", "a later one, s"]
    header += ["last loss", "off the bare loop's by"]
    lines = []
    for name, found in ran.items():
        seconds = [one.later for one in found]
        speeds = [limit.later / own for limit, own in zip(bare, seconds)]
        waits = [statistics.mean(one.waiting[1:] or one.waiting) for one in found]
        pairs = [pair for b, one in zip(bare, found) for pair in zip(b.losses, one.losses)]
        cells = [f"{rows / statistics.median(seconds):.1f}", spread(speeds, "{:.3f}")]
        cells += [f"{statistics.median(waits):.1%}"]
        cells += [spread([one.seconds[0] for one in found], "{:.3f}"), spread(seconds, "{:.3f}")]
        off = max(abs(x - y) for x, y in pairs)
        lines.append([name, *cells, f"{found[-1].losses[-1]:.6f}", f"{off:.1g}" if off else "0"])
    return markdown_table(header, lines)
