"""The loss in chunks beside its plain formula: time and memory, forward and backward.

Every point is measured in its own processes. Memory is what a call adds to its inputs: the
embeddings, the prototypes, and labels and observed entries, which are matrices for all but the loss
in chunks. It includes the gradients of embeddings and prototypes.
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

from jobs.bench.measure import NAME, Columns, Measurement, apart, publish, shown, table, take_turns
from jobs.bench.memory import added_bytes
from raymc.config import LossConfig, ModelConfig
from raymc.errors import ResourceError
from raymc.model.losses import compute_loss
from raymc.model.losses.chunked import chunk_classes, chunked_loss

CHUNKS, PLAIN, COMPILED = "in chunks", "plain formula", "plain, compiled"
WAYS = (CHUNKS, PLAIN, COMPILED, "BCE")
LABELS_OF_A_CLIP = 3
MOST_SCORES = 2**30  # larger points are left out
ROOM = 0.6  # of the free memory may be used by one way
PREDICTED_CLASSES = 8192  # with more, memory is first predicted from that of a quarter of them
SCORES_OF_A_ROUND = 2**22  # smaller steps are taken several times a round
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
    threads: int = Field(default=1, ge=1, description="Threads of each way, on the CPU.")
    device: Literal["cpu", "cuda"] = Field(
        default="cpu", description="Where to compute: cpu or cuda."
    )


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
    found: list[Measurement] = []
    for point in (p for p in points if p.scores <= MOST_SCORES):
        with console.status(f"{point.batch:,} clips × {point.classes:,} classes"):
            found += measure(point, rounds=rounds)
    text = (
        f"`prototype_contrast` with {LABELS_OF_A_CLIP} labels a clip, forward and backward to "
        f"embeddings and prototypes of {ModelConfig().embedding_dim} float32 numbers; {threads} "
        f"threads on {device}; {rounds} rounds in turns, medians. Memory is what a call adds to "
        "its inputs, gradients included. The chunks take sparse labels, the others matrices of 2 "
        "bytes a score in all, which are not counted. ≈ is predicted from fewer classes. raymc "
        f"uses the plain formula up to {chunk_classes(1, where):,} scores, and chunks above.\n\n"
    )
    publish("Loss", text + table_of(found), found, console, out)


def measure(point: Point, *, rounds: int) -> list[Measurement]:
    """Measure the memory of every way that has room, then their seconds in turns."""
    found = []
    for way in WAYS:
        added, reason = _memory(point, way)
        found.append(Measurement(way, asdict(point), {"added_bytes": [added]}, reason))
    able = [one.name for one in found if not one.note]
    seconds = {one.name: one["seconds"] for one in apart(_seconds_here, point, able, rounds)}
    for one in found:
        one.figures["seconds"] = seconds.get(one.name, [])
    return found


@cache
def _memory(point: Point, way: str) -> tuple[float, str]:
    """Return the bytes that a way adds; predicted ones, and why, if it would not fit."""
    if point.classes > PREDICTED_CLASSES:
        added, reason = _memory(replace(point, classes=point.classes // 4), way)
        if reason or 4 * added > ROOM * _free_bytes(point):
            return 4 * added, reason or "does not fit"
    try:
        return apart(_added_here, point, way), ""
    except RuntimeError as error:  # torch has too little memory, or no compiler
        return math.nan, str(error).strip().partition("\n")[0][:90]


def _free_bytes(point: Point) -> int:
    """Return the free memory that is left after the inputs' own bytes."""
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


def _seconds_here(point: Point, names: Sequence[str], rounds: int) -> list[Measurement]:
    times = max(1, SCORES_OF_A_ROUND // point.scores)

    def repeated(step: Callable[[], object]) -> Callable[[], object]:
        return lambda: [step() for _ in range(times)]

    ways = {name: repeated(step) for name, step in steps(point, names).items()}
    found = take_turns(ways, rounds=rounds)
    return [Measurement(m.name, {}, {"seconds": [s / times for s in m["seconds"]]}) for m in found]


def steps(point: Point, names: Sequence[str]) -> dict[str, Callable[[], object]]:
    """Return one step of each way: the loss of a batch, and its gradients."""
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
    """Return embeddings and prototypes that require gradients, a few labels a clip, all observed.

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


def table_of(found: Sequence[Measurement]) -> str:
    """Return the figures as a table, each beside the plain formula at the same point."""
    plains = {_size(one): one for one in found if one.name == PLAIN}

    def ratio(m: Measurement, figure: str) -> float:
        return m.median(figure) / (plains[_size(m)].median(figure) or math.nan)

    def predicted(*measured: Measurement) -> str:
        return "≈ " if any(one.note for one in measured) else ""

    columns: Columns = {
        "clips": lambda m: f"{m.case['batch']:,}",
        "classes": lambda m: f"{m.case['classes']:,}",
        **NAME,
        "seconds": lambda m: shown("{:.3g}", m.median("seconds")),
        "spread": lambda m: shown("{:.3g} to {:.3g}", *m.spread("seconds")),
        "÷ plain": lambda m: shown("{:.2f}", ratio(m, "seconds")),
        "MiB": lambda m: shown(predicted(m) + "{:,.0f}", m.median("added_bytes") / 2**20),
        "memory ÷ plain": lambda m: shown(
            predicted(m, plains[_size(m)]) + "{:.3f}", ratio(m, "added_bytes")
        ),
    }
    return table(columns, found)


def _size(measured: Measurement) -> tuple[int, int]:
    return measured.case["batch"], measured.case["classes"]
