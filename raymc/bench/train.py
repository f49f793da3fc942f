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
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from rich.console import Console

from raymc.bench.measure import Timing, markdown_table, publish
from raymc.bench.train_commands import RAYMC, SPEED, commands_table, measure_commands, spread
from raymc.bench.train_device import (
    LOADS,
    Load,
    measure_padding,
    measure_shares,
    padding_table,
    shares_table,
)
from raymc.bench.train_task import CASES, RAGGED, make_case
from raymc.bench.train_ways import BARE, WAYS, Ran, train_way
from raymc.cluster import connect
from raymc.config import Config, override, to_dict
from raymc.events import EpochEnded, Event
from raymc.shards import open_dataset
from raymc.train import train

COMMANDS_TEXT = (
    "Seconds of whole commands on the first of these sets. raymc's starts Ray, validates after "
    "every epoch, keeps checkpoints and a bundle, and records in MLflow; the others do none of "
    "it.\n\n"
)
NO_GPU = (
    "The share of a GPU's speed that training uses was not measured: there is none, or "
    "`--device cuda` was not given.\n\n"
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and how often.

    Attributes:
        cases: Of `CASES`.
        rounds: How often each way trains, in turns; 0 leaves this part out.
        epochs: Of each training; the first is told apart.
        commands: How often each whole command runs; 0 leaves this part out.
        threads: Of the CPU, for all ways.
        device: `cpu` or `cuda`.
        load: What the device's use is measured with, by default what suits the device.
        settings: Overrides of the cases' settings, by dotted path.
    """

    cases: Sequence[str] = tuple(CASES)
    rounds: int = 5
    epochs: int = 3
    commands: int = 3
    threads: int = 1
    device: str = "cpu"
    load: Load | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def bench_train(console: Console, plan: Plan, *, out: Path | None = None) -> None:
    """Measure training: its steps, what comes around them, and how much of the device they use.

    Args:
        console: Where the tables go.
        plan: What is measured.
        out: Folder for the tables and all numbers.

    Raises:
        RaymcError: raymc's own training failed.
    """
    texts: list[str] = []
    timings: list[Timing] = []
    figures: list[Mapping[str, object]] = []
    with TemporaryDirectory(prefix="raymc-") as folder:
        configs = {name: config_of(plan, name, Path(folder)) for name in {*plan.cases, RAGGED}}
        if plan.commands:  # first, as long as no Ray runs here
            config = configs[plan.cases[0]]
            with console.status("whole commands"), _file_of(config) as file:
                commands = measure_commands(config, file, rounds=plan.commands, device=plan.device)
            texts.append(f"### Start and end\n\n{COMMANDS_TEXT}{commands_table(commands)}")
            figures += [asdict(command) for command in commands]
        for name in plan.cases if plan.rounds else ():
            with console.status(f"{name}: {plan.rounds} rounds"):
                ran = measure_case(configs[name], plan)
            rows = open_dataset(configs[name].data.path).manifest.rows("train")
            texts.append(f"### {name}\n\n{describe(configs[name])}\n\n{steps_table(ran, rows)}")
            timings += [
                Timing(f"{name}: {w}", tuple(one.later for one in r)) for w, r in ran.items()
            ]
            figures += [{"case": name, "way": w, **asdict(r)} for w, rs in ran.items() for r in rs]
        with console.status("use of the device"):
            text, numbers = _device_part(configs[RAGGED], plan)
        texts.append(text)
        figures += numbers
    title = (
        f"{plan.threads} threads on {plan.device}, {plan.rounds} rounds in turns; medians, and in "
        "brackets the least and the most. All ways see the same rows in every batch.\n\n"
    )
    publish("Train", title + "\n".join(filter(None, texts)), timings, console, out, figures=figures)


def config_of(plan: Plan, case: str, folder: Path) -> Config:
    """Return the settings of a case, its dataset made below `folder`."""
    settings = {
        "search.cpus_per_trial": plan.threads,
        "train.epochs": plan.epochs,
        "train.device": "cpu" if plan.device == "cpu" else "gpu",
        "tracking.uri": f"sqlite:///{folder}/mlflow.db",
        **plan.settings,
    }
    return make_case(case, folder, settings)


def measure_case(config: Config, plan: Plan) -> dict[str, list[Ran]]:
    """Train in each way once a round, in turns; uncounted once before, but for raymc's.

    raymc's worker is a new process in every round, as it is in every run.
    """
    connect()
    with _file_of(config) as file, ExitStack() as stack:
        ways: dict[str, Callable[[], Ran]] = {BARE: _apart(BARE, file, plan.device, stack)}
        ways[RAYMC] = lambda: train_on_ray(config)
        ways |= {name: _apart(name, file, plan.device, stack) for name in WAYS if name != BARE}
        found: dict[str, list[Ran]] = {name: [] for name in ways}
        for _ in range(plan.rounds):
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
    result = train(config, dataset, listeners=[events.append])
    shutil.rmtree(result.folder)
    ran, rows = Ran(), dataset.manifest.rows(config.data.train)
    for event in events:
        if isinstance(event, EpochEnded):
            seconds = rows / event.metrics[SPEED]
            waited = seconds * event.metrics["train/waiting"]
            ran.add(seconds=seconds, waited=waited, loss=event.metrics["train/loss"])
    return ran


def _device_part(config: Config, plan: Plan) -> tuple[str, list[Mapping[str, object]]]:
    """Return the text on the use of the device, and its numbers."""
    load, device = plan.load or LOADS[plan.device], torch.device(plan.device)
    shares = measure_shares(config, device, load) if load.largest_batch else []
    torch.set_num_threads(plan.threads)
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
