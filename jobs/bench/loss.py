"""The loss chunk by chunk beside its plain formula: seconds and memory, forward and backward.

Top layer, though it needs neither Ray nor MLflow. Every point is measured in processes of its own.
Memory is what a call adds to what it is given: the embeddings, the prototypes, and labels and
observed entries, which are matrices for all but the loss in chunks. It includes the gradients of
embeddings and prototypes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Literal

import psutil
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from rich.console import Console
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from jobs.bench.measure import Timing, added_bytes, apart, publish, take_turns
from raymc.config import LossConfig, ModelConfig
from raymc.errors import ResourceError
from raymc.model.losses import compute_loss
from raymc.model.losses.chunked import chunk_classes, chunked_loss
from raymc.tracking.notes import markdown_table

CHUNKS, PLAIN, COMPILED = "in chunks", "plain formula", "plain, compiled"
WAYS = (CHUNKS, PLAIN, COMPILED, "BCE")
LABELS_OF_A_CLIP = 3
# Larger points are left out.
MOST_SCORES = 2**30
# Of the memory that is free, what one way may be expected to need.
ROOM = 0.6
# With more classes, memory is first foretold from that of a quarter of them.
FORETOLD_CLASSES = 8192
# Smaller steps are taken several times a round.
SCORES_OF_A_ROUND = 2**22
BRIEF = {"classes": (19, 1000, 50_000), "batches": (1024,)}


@dataclass(frozen=True)
class Point:
    """A size of the loss, and where it is computed."""

    batch: int
    classes: int
    device: str = "cpu"
    threads: int = 1

    @property
    def scores(self) -> int:
        """The entries of the matrix of scores."""
        return self.batch * self.classes


@dataclass(frozen=True)
class Figure:
    """What one way took at one point.

    `added_bytes` is NaN where nobody could tell. Where the way could not be taken, `reason` says
    why, and `added_bytes` is foretold.
    """

    point: Point
    way: str
    added_bytes: float
    timing: Timing | None = None
    reason: str = ""


@pydantic_dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """The sizes of the loss, and how it is measured."""

    classes: tuple[int, ...] = Field(
        default=(19, 1000, 10_000, 100_000, 1_000_000), description="Number of classes."
    )
    batches: tuple[int, ...] = Field(
        default=(256, 1024, 16_384),
        description="Number of clips; each goes with each number of classes, up to 2^30 scores.",
    )
    rounds: int = Field(default=5, ge=1, description="How often each way is timed.")
    threads: int = Field(default=1, ge=1, description="Of each way, on the CPU.")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Where it is computed.")


def bench_loss(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Compare `prototype_contrast` in chunks with its plain formula and with a BCE of that size.

    Raises:
        ResourceError: A GPU is asked for and there is none.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ResourceError("torch finds no GPU here; give --device cpu")
    device, threads, rounds = settings.device, settings.threads, settings.rounds
    where = torch.device(device)
    sizes = product(settings.classes, settings.batches)
    points = [Point(b, c, device, threads) for c, b in sizes]
    figures: list[Figure] = []
    for point in (p for p in points if p.scores <= MOST_SCORES):
        with console.status(f"{point.batch:,} clips × {point.classes:,} classes"):
            figures += measure(point, rounds=rounds)
    text = (
        f"`prototype_contrast` of {LABELS_OF_A_CLIP} labels a clip, forward and backward to "
        f"embeddings and prototypes of {ModelConfig().embedding_dim} float32 numbers; {threads} "
        f"threads on {device}; {rounds} rounds in turns, medians. Memory is what a call adds to "
        "its inputs, gradients included. The chunks are given sparse labels, the others matrices "
        "of 2 bytes a score in all, which are not counted. ≈ is foretold from fewer "
        f"classes. raymc takes the plain formula for up to {chunk_classes(1, where):,} scores, "
        "chunks for more.\n\n"
    )
    numbers = [numbers_of(figure) for figure in figures]
    publish("Loss", text + table_of(figures), [], console, out, figures=numbers)


def measure(point: Point, *, rounds: int) -> list[Figure]:
    """Measure the memory of every way that has room, then their seconds in turns."""
    figures = [_memory(point, way) for way in WAYS]
    able = [figure.way for figure in figures if not figure.reason]
    timings = {timing.name: timing for timing in apart(_seconds_here, point, able, rounds)}
    return [replace(figure, timing=timings.get(figure.way)) for figure in figures]


@cache
def _memory(point: Point, way: str) -> Figure:
    """Measure what a way adds in memory, unless that is foretold to be too much."""
    if point.classes > FORETOLD_CLASSES:
        smaller = _memory(replace(point, classes=point.classes // 4), way)
        foretold = 4 * smaller.added_bytes
        if smaller.reason or foretold > ROOM * _free_bytes(point):
            return Figure(point, way, foretold, reason=smaller.reason or "does not fit")
    try:
        return Figure(point, way, apart(_added_here, point, way))
    except RuntimeError as error:  # of torch, for want of memory or of a compiler
        return Figure(point, way, math.nan, reason=str(error).strip().partition("\n")[0][:90])


def _free_bytes(point: Point) -> int:
    """Return what is free beyond the inputs' own bytes."""
    free = psutil.virtual_memory().available
    if point.device != "cpu":
        free = torch.cuda.mem_get_info(point.device)[0]
    return free - 2 * point.scores


def _added_here(point: Point, way: str) -> float:
    step = steps(point, [way])[way]
    if point.device == "cpu":
        return added_bytes(step)
    step()
    before = torch.cuda.memory_allocated(point.device)
    torch.cuda.reset_peak_memory_stats(point.device)
    step()
    return float(torch.cuda.max_memory_allocated(point.device) - before)


def _seconds_here(point: Point, names: Sequence[str], rounds: int) -> list[Timing]:
    times = max(1, SCORES_OF_A_ROUND // point.scores)

    def repeated(step: Callable[[], object]) -> Callable[[], object]:
        return lambda: [step() for _ in range(times)]

    ways = {name: repeated(step) for name, step in steps(point, names).items()}
    timings = take_turns(ways, rounds=rounds)
    return [Timing(t.name, tuple(s / times for s in t.seconds)) for t in timings]


def steps(point: Point, names: Sequence[str]) -> dict[str, Callable[[], object]]:
    """Return what each of some ways does once: the loss of a batch, and its gradients."""
    torch.set_num_threads(point.threads)
    embedding, prototypes, *sparse = inputs(point)
    matrices = [] if names == [CHUNKS] else [x.to_dense().contiguous() for x in sparse]

    def step(name: str) -> Callable[[], object]:
        loss, entries = loss_of(name), sparse if name == CHUNKS else matrices

        def run() -> None:
            loss(embedding, prototypes, *entries).backward()
            if point.device != "cpu":
                torch.cuda.synchronize(point.device)
            embedding.grad = prototypes.grad = None

        return run

    return {name: step(name) for name in names}


def loss_of(way: str) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return a way's loss as a function of embeddings, prototypes, labels and observed entries."""

    def in_chunks(
        embedding: Tensor, prototypes: Tensor, labels: Tensor, observed: Tensor
    ) -> Tensor:
        return chunked_loss(LossConfig(), embedding, prototypes, labels, observed)

    def plain(embedding: Tensor, prototypes: Tensor, labels: Tensor, observed: Tensor) -> Tensor:
        scores = normalize(embedding, dim=-1) @ normalize(prototypes, dim=-1).T
        return compute_loss(LossConfig(), scores, labels, observed)

    def bce(embedding: Tensor, prototypes: Tensor, labels: Tensor, observed: Tensor) -> Tensor:
        scores = embedding @ prototypes.T
        return binary_cross_entropy_with_logits(scores, labels.to(scores))

    if way == COMPILED:
        return torch.compile(plain)
    return {CHUNKS: in_chunks, PLAIN: plain, "BCE": bce}[way]


def inputs(point: Point) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return embeddings and prototypes that want gradients, a few labels a clip, all observed.

    The labels are sparse, and what is observed is a view of one entry a clip.
    """
    generator = torch.Generator().manual_seed(0)
    size = ModelConfig().embedding_dim
    embedding = torch.randn(point.batch, size, generator=generator).to(point.device)
    prototypes = torch.randn(point.classes, size, generator=generator).to(point.device)
    chosen = torch.randint(point.classes, (point.batch * LABELS_OF_A_CLIP,), generator=generator)
    clips = torch.arange(point.batch).repeat_interleave(LABELS_OF_A_CLIP)
    entries, size = torch.stack([clips, chosen]), (point.batch, point.classes)
    marks = torch.ones(len(clips), dtype=torch.bool)
    labels = torch.sparse_coo_tensor(entries, marks, size, check_invariants=True).coalesce()
    observed = torch.ones(point.batch, 1, dtype=torch.bool, device=point.device).expand(size)
    return (
        embedding.requires_grad_(),
        prototypes.requires_grad_(),
        labels.to(point.device),
        observed,
    )


def table_of(figures: Sequence[Figure]) -> str:
    """Return the figures as a table, each beside the plain formula of the same point."""
    plain = {figure.point: figure for figure in figures if figure.way == PLAIN}
    header = ["clips", "classes", "", "seconds", "spread", "÷ plain", "MiB", "÷ plain"]
    rows = [
        [f"{f.point.batch:,}", f"{f.point.classes:,}", f.way, *_cells(f, plain[f.point])]
        for f in figures
    ]
    return markdown_table(header, rows)


def _cells(figure: Figure, plain: Figure) -> list[str]:
    seconds, spread, ratio = figure.reason, "", ""
    if figure.timing:
        seconds = f"{figure.timing.median:.3g}"
        spread = "{:.3g} to {:.3g}".format(*figure.timing.spread)
        ratio = f"{figure.timing.median / plain.timing.median:.2f}" if plain.timing else ""
    size, share = figure.added_bytes / 2**20, figure.added_bytes / (plain.added_bytes or math.nan)
    return [
        seconds,
        spread,
        ratio,
        "" if math.isnan(size) else f"{'≈ ' if figure.reason else ''}{size:,.0f}",
        "" if math.isnan(share) else f"{'≈ ' if figure.reason or plain.reason else ''}{share:.3f}",
    ]


def numbers_of(figure: Figure) -> dict[str, object]:
    """Return a figure as plain JSON values."""
    seconds = list(figure.timing.seconds) if figure.timing else []
    added = None if math.isnan(figure.added_bytes) else figure.added_bytes
    given = {"way": figure.way, "seconds": seconds, "added_bytes": added, "reason": figure.reason}
    return {**asdict(figure.point), **given}
