"""How much of a device training uses: FLOPs beside those of a bare matrix product, and padding.

Imports neither Ray nor MLflow. FLOPs are counted by torch as it runs a step, matrix products and
attention alone; the ceiling is the fastest that a large product of the same precision was on the
same device, in turns with the steps. Batches are as long as they get, so none of it is padding.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from jobs.bench.measure import take_turns
from jobs.bench.train_parts import task as train_task
from jobs.bench.train_parts.task import RAGGED_MODALITIES, Task, batch_of
from jobs.bench.train_parts.ways import bare_loop
from raymc.config import Config, override
from raymc.data.feed.batches import Batch
from raymc.tracking.notes import markdown_table
from raymc.training.learner import Learner, train_step

PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
POOLS = (1, 16)


@dataclass(frozen=True, kw_only=True)
class Load:
    """The model that a device is measured with, and how far to go.

    `largest_batch` ends the doubling where memory doesn't, at 0 nothing but padding is measured;
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


@dataclass(frozen=True, kw_only=True)
class Share:
    """A precision's training steps: rows a second, and FLOPs a second of all there are.

    `peak_bytes` is 0 on the CPU. Where nothing could be measured `reason` says why.
    """

    precision: str
    compiled: bool
    batch: int = 0
    seconds: tuple[float, ...] = ()
    flops: int = 0
    ceiling: float = 0.0
    peak_bytes: int = 0
    reason: str = ""

    @property
    def rows_per_second(self) -> float:
        """Rows that a second trains, by the median step."""
        return self.batch / statistics.median(self.seconds) if self.seconds else 0.0

    @property
    def used(self) -> float:
        """FLOPs of the model over those of the matrix product, a second."""
        return self.flops * self.rows_per_second / self.batch / self.ceiling if self.batch else 0.0


@dataclass(frozen=True)
class Padding:
    """The share of an epoch's token values that only pad, and the epoch's seconds."""

    pool_batches: int
    share: float
    seconds: tuple[float, ...]


def measure_shares(config: Config, device: torch.device, load: Load) -> list[Share]:
    """Measure every precision that a device has, eager and compiled."""
    names = [name for name in PRECISIONS if name != "tf32" or device.type == "cuda"]
    wanted = [Share(precision=name, compiled=way) for name in names for way in (False, True)]
    return [_measured(share, config, device, load) for share in wanted]


def _measured(share: Share, config: Config, device: torch.device, load: Load) -> Share:
    settings = {
        **_settings(load),
        "train.precision": "bfloat16" if share.precision == "bfloat16" else "float32",
        "train.compile": share.compiled,
    }
    task = Task(override(config, settings), device)
    torch.compiler.reset()
    try:
        with _tensor_cores(share.precision == "tf32"):
            return _tuned(share, task, load)
    except RuntimeError as error:  # of torch, for want of memory or of a compiler
        return replace(share, reason=str(error).strip().partition("\n")[0][:90])


def _settings(load: Load) -> dict[str, int]:
    half = load.depth // 2
    shape = {"width": load.width, "depth": load.depth, "heads": load.heads, "fusion_depth": half}
    return {f"model.{key}": value for key, value in shape.items()}


def _tuned(share: Share, task: Task, load: Load) -> Share:
    flops = _flops_of_a_row(task)
    learner = task.learner()
    learner.model.train()
    batch = _fastest_batch(task, learner, load.largest_batch)
    given, device = full_batch(task, batch), task.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    step, product = _stepper(task, learner, given), _product(load.matrix, share.precision, device)
    steps, products = take_turns({"step": step, "product": product}, rounds=load.rounds)
    return replace(
        share,
        batch=batch,
        seconds=steps.seconds,
        flops=flops * batch,
        ceiling=2 * load.matrix**3 / min(products.seconds),
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
    )


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
    length, classes = train_task.RAGGED_TOKENS[1], len(task.dataset.manifest.vocabulary.names)
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


def measure_padding(config: Config, device: torch.device, load: Load) -> list[Padding]:
    """Train in the bare loop with and without rows sorted by length, in turns."""
    pooled = [{"batch.pool_batches": n, **_settings(load)} for n in POOLS]
    tasks = [Task(override(config, settings), device) for settings in pooled]
    rounds = [[bare_loop(task).later for task in tasks] for _ in range(load.rounds)]
    shares = [_padding(task) for task in tasks]
    return [Padding(*found) for found in zip(POOLS, shares, zip(*rounds))]


def _padding(task: Task) -> float:
    """Return the share of the first epoch's token values that only pad."""
    kept = size = 0
    for batch in task.epochs[0]:
        for name, tokens in batch.tokens.items():
            size += tokens.numel()
            kept += int(batch.lengths[name].sum()) * tokens.shape[2]
    return 1 - kept / size


def shares_table(shares: Sequence[Share]) -> str:
    """Return what each precision reaches, beside eager float32."""
    plain = shares[0].rows_per_second
    header = ["", "batch", "rows/s", "÷ eager float32", "TFLOP/s", "of the product's", "peak GiB"]
    rows = []
    for share in shares:
        name = f"{share.precision}, {'compiled' if share.compiled else 'eager'}"
        if share.reason:
            rows.append([name, share.reason, *[""] * 5])
            continue
        speed = share.rows_per_second
        cells = [str(share.batch), f"{speed:.4g}", f"{speed / plain:.2f}" if plain else ""]
        cells += [f"{share.used * share.ceiling / 1e12:.3g}", f"{share.used:.1%}"]
        rows.append([name, *cells, f"{share.peak_bytes / 2**30:.2f}" if share.peak_bytes else ""])
    return markdown_table(header, rows)


def padding_table(kinds: Sequence[Padding]) -> str:
    """Return what sorting rows by length saves."""
    header = ["batch.pool_batches", "of the token values, padding", "seconds an epoch"]
    rows = [
        [str(kind.pool_batches), f"{kind.share:.1%}", f"{statistics.median(kind.seconds):.3f}"]
        for kind in kinds
    ]
    return markdown_table(header, rows)
