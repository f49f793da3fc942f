"""How much of a device training uses: FLOPs beside those of a bare matrix product, and padding.

torch counts the FLOPs while it runs a step, matrix products and attention only. The ceiling is the
fastest run of a large product of the same precision on the same device, in turns with the steps.
Batches have the greatest length, so none of it is padding.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from jobs.bench import train_ways
from jobs.bench.measure import NAME, Columns, Measurement, shown, table, take_turns
from jobs.bench.train_ways import RAGGED_MODALITIES, Task, bare_loop, batch_of, later_seconds
from raymc.config import Config, override
from raymc.data.feed.batches import Batch
from raymc.training.learner import Learner, train_step

PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
POOLS = (1, 16)


@dataclass(frozen=True, kw_only=True)
class Load:
    """The model that a device is measured with, and how far to go.

    Batches double until memory or `largest_batch` ends it; with 0 only padding is measured.
    `matrix` is the side of the product.
    """

    width: int
    depth: int
    heads: int
    largest_batch: int
    matrix: int
    rounds: int = 5


LOADS = {
    "cuda": Load(width=1024, depth=12, heads=16, largest_batch=4096, matrix=8192),
    "cpu": Load(width=64, depth=2, heads=4, largest_batch=0, matrix=0, rounds=3),
}


def measure_shares(config: Config, device: torch.device, load: Load) -> list[Measurement]:
    """Measure every precision that a device has, eager and compiled."""
    names = [name for name in PRECISIONS if name != "tf32" or device.type == "cuda"]
    return [
        _measured(name, compiled, Task(override(config, _settings(load)), device), load)
        for name in names
        for compiled in (False, True)
    ]


def _measured(precision: str, compiled: bool, task: Task, load: Load) -> Measurement:
    found = Measurement(f"{precision}, {'compiled' if compiled else 'eager'}")
    settings = {
        "train.precision": "bfloat16" if precision == "bfloat16" else "float32",
        "train.compile": compiled,
    }
    task = Task(override(task.config, settings), task.device)
    torch.compiler.reset()
    try:
        with _tensor_cores(precision == "tf32"):
            _measure_steps(found, task, load, precision)
    except RuntimeError as error:  # torch has too little memory, or no compiler
        found.note = str(error).strip().partition("\n")[0][:90]
    return found


def _settings(load: Load) -> dict[str, int]:
    half = load.depth // 2
    shape = {"width": load.width, "depth": load.depth, "heads": load.heads, "fusion_depth": half}
    return {f"model.{key}": value for key, value in shape.items()}


def _measure_steps(found: Measurement, task: Task, load: Load, precision: str) -> None:
    """Add a step's rows, seconds and FLOPs, and the FLOPs a second of the product (`ceiling`)."""
    flops = _flops_of_a_row(task)
    learner = task.learner()
    learner.model.train()
    batch = _fastest_batch(task, learner, load.largest_batch)
    given, device = full_batch(task, batch), task.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    step, product = _stepper(task, learner, given), _product(load.matrix, precision, device)
    steps, products = take_turns({"step": step, "product": product}, rounds=load.rounds)
    found.figures |= {
        "batch": [batch],
        "seconds": steps["seconds"],
        "flops": [flops * batch],
        "ceiling": [2 * load.matrix**3 / min(products["seconds"])],
    }
    if device.type == "cuda":
        found.add(peak_bytes=torch.cuda.max_memory_allocated(device))


@contextmanager
def _tensor_cores(allowed: bool) -> Iterator[None]:
    """Let float32 products round their factors to TF32, or not."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def full_batch(task: Task, rows: int) -> Batch:
    """Return random clips of the longest length there is, on the task's device."""
    generator = torch.Generator().manual_seed(0)
    length, classes = train_ways.RAGGED_TOKENS[1], len(task.dataset.manifest.vocabulary.names)
    lengths = torch.full((rows,), length)
    batch = batch_of(
        {
            m.name: torch.randn(rows, length, m.dim, generator=generator).half()
            for m in RAGGED_MODALITIES
        },
        {m.name: lengths for m in RAGGED_MODALITIES},
        torch.rand(rows, classes, generator=generator) < 0.1,
        torch.ones(rows, classes, dtype=torch.bool),
    )
    return batch.to(task.device)


def _flops_of_a_row(task: Task) -> int:
    """Count what a step of one row does, forward and backward; compiled it is the same."""
    eager = replace(task, config=override(task.config, {"train.compile": False}))
    learner = eager.learner()
    learner.model.train()
    with FlopCounterMode(display=False) as counter:
        _stepper(eager, learner, full_batch(eager, 1))()
    return counter.get_total_flops()


def _stepper(task: Task, learner: Learner, batch: Batch) -> Callable[[], None]:
    """Return a function that takes a training step and waits for its end."""

    def step() -> None:
        train_step(learner, task.config, batch, epoch=1, step=0, feed=task.feed)
        if task.device.type == "cuda":
            torch.cuda.synchronize(task.device)

    return step


def _fastest_batch(task: Task, learner: Learner, largest: int) -> int:
    """Return the batch, of 1, 2, 4, … until memory ends, that trains most rows a second."""
    speeds: dict[int, float] = {}
    rows = 1
    while rows <= largest:
        try:
            step = _stepper(task, learner, full_batch(task, rows))
            step()
            began = time.perf_counter()
            step()
            speeds[rows] = rows / (time.perf_counter() - began)
        except torch.OutOfMemoryError:
            learner.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            if not speeds:
                raise
            break
        rows *= 2
    return max(speeds, key=speeds.__getitem__)


def _product(side: int, precision: str, device: torch.device) -> Callable[[], None]:
    """Return a function that multiplies two square matrices and waits for the end."""
    one, other = torch.randn(2, side, side, device=device, dtype=PRECISIONS[precision])

    def multiply() -> None:
        torch.mm(one, other)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return multiply


def measure_padding(config: Config, device: torch.device, load: Load) -> list[Measurement]:
    """Train in the bare loop with and without rows sorted by length, in turns."""
    pooled = {n: {"batch.pool_batches": n, **_settings(load)} for n in POOLS}
    tasks = {n: Task(override(config, settings), device) for n, settings in pooled.items()}
    found = {n: Measurement(str(n)) for n in POOLS}
    for _ in range(load.rounds):
        for n, task in tasks.items():
            found[n].add(seconds=later_seconds(bare_loop(task)["seconds"]))
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


def rows_per_second(m: Measurement) -> float:
    """Return the rows that a second trains, by the median step."""
    return m.median("batch") / m.median("seconds")


def used_share(m: Measurement) -> float:
    """Return the model's FLOPs over those of the matrix product, a second."""
    return m.median("flops") / m.median("seconds") / m.median("ceiling")


def shares_table(shares: Sequence[Measurement]) -> str:
    """Return what each precision reaches, beside eager float32."""
    plain = rows_per_second(shares[0])
    columns: Columns = {
        **NAME,
        "batch": lambda m: shown("{}", m.median("batch")),
        "rows/s": lambda m: shown("{:.4g}", rows_per_second(m)),
        "÷ eager float32": lambda m: shown("{:.2f}", rows_per_second(m) / plain),
        "TFLOP/s": lambda m: shown("{:.3g}", m.median("flops") / m.median("seconds") / 1e12),
        "of the product's": lambda m: shown("{:.1%}", used_share(m)),
        "peak GiB": lambda m: shown("{:.2f}", m.median("peak_bytes") / 2**30),
    }
    return table(columns, shares)


def padding_table(pools: Sequence[Measurement]) -> str:
    """Return what sorting rows by length saves."""
    columns: Columns = {
        "batch.pool_batches": lambda m: m.name,
        "of the token values, padding": lambda m: shown("{:.1%}", m.median("padding")),
        "seconds an epoch": lambda m: shown("{:.3f}", m.median("seconds")),
    }
    return table(columns, pools)
