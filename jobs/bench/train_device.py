"""How much of a device training uses: model FLOPs a second, waiting, and packed trials.

raymc's own loop trains on ragged clips, fed as in a run, in bfloat16. torch counts the FLOPs of
matrix products and attention for clips of three lengths; they are a quadratic function of the
length, so three tell all. Only those of real tokens count: what padding costs is waste.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from jobs.bench import train_ways, tune
from jobs.bench.measure import NAME, Columns, Measurement, shown, table, take_turns
from jobs.bench.ragged import RaggedRows, write_ragged
from jobs.bench.train_counts import as_on_a_gpu
from jobs.bench.train_ways import (
    CASES,
    RAGGED,
    RAGGED_LABELS,
    RAGGED_MODALITIES,
    Task,
    bare_loop,
    later_seconds,
)
from raymc.config import Config, from_dict, override
from raymc.model.transformer import MultimodalTransformer
from raymc.runtime.child_process import Child, ChildError
from raymc.training.learner import bucketed, make_model
from raymc.training.loop import train_epoch

POOLS = (1, 16)
# Dense bfloat16 FLOPs a second that the maker names: half of what its data sheets give "with
# sparsity". https://www.nvidia.com/en-us/data-center/h200/ and /h100/ (SXM), /a100/.
PEAKS = {"H200": 989.4e12, "H100": 989.4e12, "A100": 312e12}
NO_TRIALS = "Packed trials were not measured: the time was over, or their process ended.\n"
NO_GPU = (
    "The share of a GPU's speed that training uses was not measured: that needs a GPU and "
    "`--device gpu`.\n\n"
)


@dataclass(frozen=True, kw_only=True)
class Load:
    """A model to measure a device with.

    Attributes:
        model: Settings of the model.
        batch: Rows of a batch; halved while they don't fit into memory.
        steps: Steps of an epoch.
        epochs: How many are timed, after one that also compiles.
        matrix: Side of the square matrices whose product is the ceiling.
    """

    model: dict[str, int]
    batch: int
    steps: int = 16
    epochs: int = 3
    matrix: int = 8192

    def config(self, path: Path, *, compiled: bool) -> Config:
        """Return what trains the model on a dataset."""
        given = {
            "data.path": str(path),
            "batch.size": self.batch,
            "train.epochs": self.epochs + 1,
            "train.precision": "bfloat16",
            "train.compile": compiled,
            **{f"model.{key}": value for key, value in self.model.items()},
        }
        return override(from_dict({"data": CASES[RAGGED]["data"]}), given)


LOADS = {
    "default model": Load(model={}, batch=1024),
    "width 1024, depth 12": Load(
        model={"width": 1024, "depth": 12, "fusion_depth": 6, "heads": 16}, batch=256
    ),
}


def measure_use(
    device: torch.device, folder: Path, *, seconds: float
) -> tuple[list[Measurement], list[Measurement]]:
    """Measure every load, eager before compiled, and packed trials, in a process of their own.

    After so many seconds that process is ended; what is not measured by then says so.

    Returns:
        The loads, and the trials.
    """
    until = time.perf_counter() + seconds
    note = f"not measured within {seconds:.0f} s"
    found = [Measurement(name, note=note) for name, *_ in _parts()]
    with closing(Child(send_use, device, folder)) as child:

        def in_time() -> bool:
            return child.connection.poll(max(until - time.perf_counter(), 0.0))

        for place in range(len(found)):
            if not in_time():
                return found, []
            try:
                found[place] = child.receive()
            except ChildError as error:
                for one in found[place:]:
                    one.note = f"not measured: the process {error}"
                return found, []
        with suppress(ChildError):
            return found, child.receive() if in_time() else []
    return found, []


def send_use(connection: Connection, device: torch.device, folder: Path) -> None:
    """Send the measurement of each load as soon as it is made, and then those of packed trials."""
    ceilings: dict[int, float] = {}
    for name, load, compiled in _parts():
        one = Measurement(name)
        if load.matrix not in ceilings:
            ceilings[load.matrix] = product_speed(load.matrix, device)
        one.add(ceiling=ceilings[load.matrix])
        torch.compiler.reset()
        try:
            train_load(one, load, device, folder, compiled=compiled)
        except RuntimeError as error:  # too little memory for any batch, or no compiler
            one.note = str(error).strip().partition("\n")[0][:90]
        connection.send(one)
    connection.send(packed_trials(device, folder))


def _parts() -> list[tuple[str, Load, bool]]:
    """Return the name of each measurement, its load, and whether it is compiled."""
    ways = {"eager": False, "compiled": True}
    return [
        (f"{name}, {way}", load, compiled)
        for way, compiled in ways.items()
        for name, load in LOADS.items()
    ]


def train_load(
    found: Measurement, load: Load, device: torch.device, folder: Path, *, compiled: bool
) -> None:
    """Add the figures of training: a value of `seconds` and `waiting` for each epoch."""
    task = Task(load.config(clips_of(load, folder), compiled=compiled), device)
    while True:
        try:
            _train(found, task)
            break
        except torch.OutOfMemoryError:
            half = task.config.batch.size // 2
            if not half:
                raise
        torch.cuda.empty_cache()
        task = Task(override(task.config, {"batch.size": half}), device)
    found.add(batch=task.config.batch.size, **flops_of_epoch(task, compiled=compiled))
    if device.type == "cuda":
        found.add(peak_bytes=torch.cuda.max_memory_allocated(device))


def _train(found: Measurement, task: Task) -> None:
    if task.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(task.device)
    learner = task.learner()
    for epoch in range(1, task.config.train.epochs + 1):
        metrics = train_epoch(learner, task.config, task.feed, epoch, emit=lambda event: None)
        seconds = task.feed.rows / metrics["train/samples_per_second"]
        if epoch == 1:
            found.figures |= {"first": [seconds], "seconds": [], "waiting": []}
        else:
            found.add(seconds=seconds, waiting=metrics["train/waiting"])


def clips_of(load: Load, folder: Path) -> Path:
    """Return the folder of enough ragged clips for the load, written if it isn't there yet."""
    rows = load.batch * load.steps
    path = folder / f"clips-{rows}"
    if not path.exists():
        kind = (RAGGED_MODALITIES, RAGGED_LABELS, train_ways.RAGGED_TOKENS)
        splits = {"train": RaggedRows(rows, *kind), "val": RaggedRows(8, *kind, seed=1)}
        write_ragged(path, splits)
    return path


def flops_of_epoch(task: Task, *, compiled: bool) -> dict[str, int]:
    """Return the `flops` of the clips of an epoch, and `padded_flops`, of all that is computed."""
    flops_of = row_flops(task.config, task)
    name = RAGGED_MODALITIES[0].name  # clips are as long in every modality
    useful = computed = 0
    for batch in task.feed.training(1):
        whole = bucketed(batch) if compiled else batch
        useful += sum(map(flops_of, batch.lengths[name].tolist()))
        computed += len(batch.rows) * flops_of(whole.tokens[name].shape[1])
    return {"flops": useful, "padded_flops": computed}


def row_flops(config: Config, task: Task) -> Callable[[int], int]:
    """Return the FLOPs of embedding a clip of any length, forward and backward.

    The loss is left out: it is small, and belongs to no clip. Three lengths are counted, and a
    parabola is put through them (Lagrange's interpolation).
    """
    with torch.device("meta"):
        model = make_model(config, task.dataset.manifest).train()
    known = {length: _counted(model, length) for length in (1, 2, 3)}

    def flops(length: int) -> int:
        total = Fraction(0)
        for at, value in known.items():
            others = [x for x in known if x != at]
            weight = Fraction(1)
            for x in others:
                weight *= Fraction(length - x, at - x)
            total += weight * value
        return int(total)

    return flops


def _counted(model: MultimodalTransformer, length: int) -> int:
    tokens = {
        m.name: torch.empty(1, length, m.dim, device="meta", dtype=torch.float16)
        for m in RAGGED_MODALITIES
    }
    counts = torch.full((1,), length, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(tokens, {m.name: counts for m in RAGGED_MODALITIES}).fused.sum().backward()
    return counter.get_total_flops()


def product_speed(side: int, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float:
    """Return the FLOPs a second of the fastest of a few products of two square matrices."""
    one, other = torch.randn(2, side, side, device=device, dtype=dtype)

    def multiply() -> None:
        torch.mm(one, other)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    (found,) = take_turns({"product": multiply}, rounds=5)
    return 2 * side**3 / min(found["seconds"])


def packed_trials(device: torch.device, folder: Path) -> list[Measurement]:
    """Run trials that share the device, and the same one at a time."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    settings = tune.Settings(parts=("packed",), device=kind, rounds=1)
    _, found = tune.Bench(settings, folder, Console(quiet=True)).packed()
    return found


def peak_of(device: torch.device) -> tuple[str, float]:
    """Return a device's name and the FLOPs a second that its maker names; NaN if unknown."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    return name, next((peak for key, peak in PEAKS.items() if key in name), math.nan)


def use_table(found: Sequence[Measurement], peak: float) -> str:
    """Return what share of the peak, and of a matrix product, each load reaches."""

    def speed(m: Measurement) -> float:
        return m.median("flops") / m.median("seconds")

    columns: Columns = {
        **NAME,
        "batch": lambda m: shown("{:.0f}", m.median("batch")),
        "MFU": lambda m: shown("{:.1%}", speed(m) / peak),
        "of the product's": lambda m: shown("{:.1%}", speed(m) / m.median("ceiling")),
        "TFLOP/s": lambda m: shown("{:.4g}", speed(m) / 1e12),
        "padding": lambda m: shown("{:.1%}", 1 - m.median("flops") / m.median("padded_flops")),
        "waiting": lambda m: shown("{:.1%}", m.median("waiting")),
        "seconds an epoch": lambda m: shown("{:.3f}", m.median("seconds")),
        "the first": lambda m: shown("{:.1f}", m.median("first")),
        "peak GiB": lambda m: shown("{:.1f}", m.median("peak_bytes") / 2**30),
    }
    return table(columns, found)


def use_text(
    device: torch.device, found: Sequence[Measurement], trials: Sequence[Measurement]
) -> str:
    """Return the page of `measure_use`."""
    name, peak = peak_of(device)
    named = shown(" Its peak is {:.1f} TFLOP/s in bfloat16, dense, as its maker says.", peak / 1e12)
    intro = (
        f"### Use of the device\n\n{name}.{named} MFU is the FLOPs of real tokens, forward and "
        "backward, over that peak; padding counts as waste, and so does waiting. The product is of "
        "two large matrices in bfloat16, measured here. The first epoch includes compiling.\n\n"
    )
    packed = tune.packed_text(trials, device.type) if trials else NO_TRIALS
    return f"{intro}{use_table(found, peak)}\n{packed}"


def measure_padding(config: Config, device: torch.device, *, rounds: int) -> list[Measurement]:
    """Train in the bare loop with and without rows sorted by length, in turns.

    Each is also trained as on a GPU, where every layer computes the padding, too.
    """
    tasks = {n: Task(override(config, {"batch.pool_batches": n}), device) for n in POOLS}
    found = {n: Measurement(str(n)) for n in POOLS}
    for _ in range(rounds):
        for n, task in tasks.items():
            found[n].add(seconds=later_seconds(bare_loop(task)["seconds"]))
            with as_on_a_gpu():
                found[n].add(padded_seconds=later_seconds(bare_loop(task)["seconds"]))
    for n, task in tasks.items():
        found[n].add(padding=_padding(task))
    return list(found.values())


def _padding(task: Task) -> float:
    """Return the share of the first epoch's token values that only pad."""
    kept = size = 0
    for batch in task.epochs[0]:
        for name, tokens in batch.tokens.items():
            size += tokens.numel()
            kept += int(batch.lengths[name].sum()) * tokens.shape[2]
    return 1 - kept / size


def padding_table(pools: Sequence[Measurement]) -> str:
    """Return what sorting rows by length saves."""
    columns: Columns = {
        "batch.pool_batches": lambda m: m.name,
        "of the token values, padding": lambda m: shown("{:.1%}", m.median("padding")),
        "seconds an epoch": lambda m: shown("{:.3f}", m.median("seconds")),
        "with padding in all layers": lambda m: shown("{:.3f}", m.median("padded_seconds")),
    }
    return table(columns, pools)
