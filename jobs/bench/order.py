"""The order of rows: what sorting by length saves in padding, and what it costs.

Rows that are sorted by length meet rows of the same length, again and again if pools are large. A
contrast over the batch then sees the same rivals in every epoch, and where labels go with length
it never sees others. On made-up clips whose labels go with length this shows three things for
each size of pools: how often two rows of a batch meet again in the next epoch, the share of
padding, and the accuracy. The first two are also shown for clips of 24 to 300 tokens, the lengths
of YouTube-8M's frames.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from jobs.bench.measure import Columns, Measurement, plus_minus, publish, table
from raymc.config import Config, from_dict
from raymc.data.feed.order import batches_by_length, pool_of
from raymc.data.feed.shared import data_here
from raymc.data.labels import Vocabulary
from raymc.data.shards import Dataset, Modality, Row, open_dataset, write_dataset
from raymc.training import loop

BATCH = 32
DIM, CLASSES, VAL_ROWS = 16, 24, 500
SHORTEST, LONGEST, SPREAD = 6, 60, 0.15  # tokens of the clips of the first and the last class
YOUTUBE_TOKENS = (24, 300)
EPOCHS_COMPARED = 4
AS_IN_0_1_0 = 16  # pools of so many batches, by exact length, whatever the number of rows


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """How many clips there are, and how they are trained on."""

    rows: int = Field(default=2400, ge=64, description="Clips to train on.")
    epochs: int = Field(default=10, ge=1, description="Passes over them.")
    seeds: int = Field(default=3, ge=1, description="How often each way is trained.")
    pools: tuple[int, ...] = Field(default=(1, 2, 4, 8), description="Batches sorted together.")


def bench_order(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Compare sizes of pools; prints a table."""
    with TemporaryDirectory() as folder:
        write_clips(folder, settings.rows)
        dataset = open_dataset(folder)
        own = np.array(
            [len(np.asarray(clip("train", i).tokens["v"])) for i in range(settings.rows)]
        )
        drawn = np.random.default_rng(0).integers(*YOUTUBE_TOKENS, settings.rows, endpoint=True)
        found = []
        for pool in settings.pools:
            one = Measurement("in shuffled order" if pool == 1 else f"pools of {pool}")
            for kind, lengths in (("own", own), ("youtube", drawn)):
                one.add(**_figures(kind, epochs_of(lengths, pool)))
            for seed in range(settings.seeds):
                one.add(**train(dataset, settings.epochs, pool, seed))
            found.append(one)
        before = Measurement(f"pools of {AS_IN_0_1_0} by exact length, as in 0.1.0")
        for kind, lengths in (("own", own), ("youtube", drawn)):
            before.add(**_figures(kind, (lengths, _epochs_of_0_1_0(lengths))))
        found.append(before)
    steps = -(-settings.rows // BATCH)
    columns: Columns = {
        "": lambda m: m.name,
        "pairs that meet again": lambda m: f"{m.median('own again'):.1f} %",
        "padding": lambda m: f"{m.median('own padding'):.0f} %",
        "mAP": lambda m: plus_minus(m["mAP"]) if m["mAP"] else "",
        "R@80": lambda m: plus_minus(m["R@80"]) if m["R@80"] else "",
        "24 to 300 tokens: pairs": lambda m: f"{m.median('youtube again'):.1f} %",
        "… padding": lambda m: f"{m.median('youtube padding'):.0f} %",
    }
    text = (
        f"{settings.rows:,} clips, batches of {BATCH}; by chance, {100 / steps:.1f} % of pairs "
        f"meet again. Accuracy on {VAL_ROWS} validation clips: best of {settings.epochs} epochs, "
        f"{settings.seeds} seeds, in percent.\n\n"
    )
    publish("Order", text + table(columns, found), found, console, out)


def clip(split: str, number: int) -> Row:
    """Make a clip of one or two neighbouring classes; its length goes with the first."""
    generator = np.random.default_rng([split == "val", number])
    first = int(generator.integers(CLASSES))
    beside = int(np.clip(first + generator.choice([-2, -1, 1, 2]), 0, CLASSES - 1))
    classes = sorted({first, beside} if generator.random() < 0.5 else {first})
    typical = SHORTEST * (LONGEST / SHORTEST) ** (first / (CLASSES - 1))
    length = max(3, round(typical * np.exp(SPREAD * generator.normal())))
    tokens = generator.normal(size=(length, DIM))
    signals = np.random.default_rng(7).normal(size=(CLASSES, DIM))
    for k in classes:
        tokens[generator.integers(length, size=max(1, length // 6))] += 1.5 * signals[k]
    labels = [f"class-{k:02d}" for k in classes]
    return Row(id=f"{split}-{number}", labels=labels, tokens={"v": tokens.astype(np.float32)})


def write_clips(folder: str, rows: int) -> None:
    """Write clips to train on and to validate with."""
    write_dataset(
        folder,
        {
            "train": [clip("train", i) for i in range(rows)],
            "val": [clip("val", i) for i in range(VAL_ROWS)],
        },
        vocabulary=Vocabulary(tuple(f"class-{k:02d}" for k in range(CLASSES))),
        modalities=(Modality("v", DIM, "float32", rate_hz=1.0),),
    )


def epochs_of(
    lengths: Int64[np.ndarray, " N"], most: int
) -> tuple[Int64[np.ndarray, " N"], list[list[np.ndarray]]]:
    """Return the lengths, and the batches of some epochs in training."""
    rows = len(lengths)
    steps = -(-rows // BATCH)
    made = [
        _batches(
            np.random.default_rng([1, epoch]).permutation(rows),
            lengths,
            sizes=np.diff(np.arange(steps + 1) * rows // steps),
            pool=pool_of(steps, most),
            generator=np.random.default_rng([2, epoch]),
        )
        for epoch in range(EPOCHS_COMPARED)
    ]
    return lengths, made


def _batches(
    rows: Int64[np.ndarray, " N"], lengths: Int64[np.ndarray, " N"], **given: Any
) -> list[np.ndarray]:
    of_rows = [(0, rows)], lambda asked: lengths[asked]
    cut = batches_by_length(*of_rows, lane_rows=np.array([len(rows)]), **given)
    return [batch for batch, _ in cut]


def _epochs_of_0_1_0(lengths: Int64[np.ndarray, " N"]) -> list[list[np.ndarray]]:
    rows = len(lengths)
    sizes = np.diff([*range(0, rows, BATCH), rows])
    orders = [
        np.random.default_rng([1, epoch]).permutation(rows) for epoch in range(EPOCHS_COMPARED)
    ]
    given = {"sizes": sizes, "pool": AS_IN_0_1_0, "generator": None}
    return [_batches(one, lengths, **given) for one in orders]


def meeting_again(epochs: Sequence[Sequence[np.ndarray]], rows: int) -> float:
    """Return the share of pairs of rows in one batch that share one in the next epoch, too."""
    again = pairs = 0
    for made, following in itertools.pairwise(epochs):
        batch_of = np.empty(rows, dtype=np.int64)
        for number, batch in enumerate(following):
            batch_of[batch] = number
        for batch in made:
            counts = np.bincount(batch_of[batch])
            again += int((counts * (counts - 1)).sum())
            pairs += len(batch) * (len(batch) - 1)
    return again / pairs


def padding(epochs: Sequence[Sequence[np.ndarray]], lengths: Int64[np.ndarray, " N"]) -> float:
    """Return the share of tokens in padded batches that are padding."""
    batches = [lengths[batch] for made in epochs for batch in made]
    return 1 - sum(x.sum() for x in batches) / sum(x.max() * len(x) for x in batches)


def _figures(
    kind: str, made: tuple[Int64[np.ndarray, " N"], list[list[np.ndarray]]]
) -> dict[str, float]:
    lengths, epochs = made
    return {
        f"{kind} again": 100 * meeting_again(epochs, len(lengths)),
        f"{kind} padding": 100 * padding(epochs, lengths),
    }


def train(dataset: Dataset, epochs: int, pool: int, seed: int) -> dict[str, float]:
    """Train a small model; returns its best epoch's accuracy in percent."""
    config: Config = from_dict(
        {
            "data": {"path": dataset.path},
            "batch": {"size": BATCH, "pool_batches": pool},
            "model": {"width": 32, "depth": 2, "fusion_depth": 1, "heads": 2, "embedding_dim": 32},
            "optimizer": {"lr": 3e-3},
            "train": {"epochs": epochs, "seed": seed},
        }
    )
    torch.set_num_threads(1)
    shared = data_here(dataset, config)
    found = loop.fit(
        config,
        shared.manifest,
        shared.feeds(config),
        device=torch.device("cpu"),
        emit=lambda event: None,
        report=lambda event, folder: None,
    )
    return {"mAP": 100 * found.best["val/mAP"], "R@80": 100 * found.best["val/R80"]}
