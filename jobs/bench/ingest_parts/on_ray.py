"""The ways of the ingest benchmark that run on Ray: raymc's feed, and Ray Data as documented.

The Ray they run on, and the workers where there are several, are up before anything is timed.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import ray
import ray.data
import torch

from jobs.bench.ingest_parts.batches import DIMS, Padded, Source, peak_bytes, size_of, sum_of
from jobs.bench.ingest_parts.peers import Epoch
from raymc.config import Config, from_dict
from raymc.data.feed.batches import Batch
from raymc.data.feed.feed import Feed
from raymc.data.feed.on_ray import SharedSplit, share_split
from raymc.data.shards import open_dataset
from raymc.runtime.connect import keep_order

Cache = Literal["auto", "off"]


def open_raymc(source: Source, cache: Cache) -> Epoch:
    """Share the split with the cluster, and read all of it here."""
    return partial(batches_of, shared_split(source, cache).feed(config_of(source, cache)))


def shared_split(source: Source, cache: Cache) -> SharedSplit:
    """Share the split as raymc does before it trains.

    Raises:
        MemoryError: it is to be cached and is larger than `data.cache_share` allows.
    """
    data = config_of(source, cache).data
    shared = share_split(open_dataset(source.path("raymc")), "train", data)
    if cache == "auto" and shared.blocks is None:
        raise MemoryError("larger than its share of the object store")
    return shared


def config_of(source: Source, cache: Cache) -> Config:
    """Return the settings of raymc, all defaults but these."""
    data = {"path": source.path("raymc"), "make": None, "cache": cache}
    batch = {"size": source.batch * source.workers, "window_mb": source.window_mb}
    return from_dict({"data": data, "batch": batch})


def batches_of(feed: Feed, epoch: int) -> Iterator[Padded]:
    """Yield the epoch's batches of a feed."""
    for batch in feed.training(epoch):
        yield padded(batch)


def padded(batch: Batch) -> Padded:
    """Return a batch of raymc's as the benchmark counts it, rows that pad a share left out."""
    real = batch.rows >= 0
    if not real.all():
        return Padded(
            tuple(batch.tokens[name][real] for name in DIMS),
            tuple(batch.lengths[name][real] for name in DIMS),
            batch.labels[real],
        )
    return Padded(
        tuple(batch.tokens[name] for name in DIMS),
        tuple(batch.lengths[name] for name in DIMS),
        batch.labels,
    )


class Worker:
    """One of several that train, as an actor: batches arrive in its process."""

    def open(self, shared: SharedSplit, config: Config, share: tuple[int, int]) -> None:
        """Take what the driver has shared."""
        self.feed = shared.feed(config, share=share)

    def start(self) -> None:
        """Be up."""

    def read(self, epoch: int) -> tuple[int, int, int]:
        """Read an epoch's share; returns its rows and bytes, and this process's peak memory."""
        rows, sizes = zip(*map(size_of, batches_of(self.feed, epoch)))
        return sum(rows), sum(sizes), peak_bytes()

    def check(self, epoch: int) -> int:
        """Read an epoch's share; returns its checksum."""
        return sum(map(sum_of, batches_of(self.feed, epoch)))


class WorkersReader:
    """Like `process.Reader`, with a worker for each share."""

    def __init__(self, cache: Cache, source: Source) -> None:
        self.cache: Cache = cache
        self.source, self.epoch, self.is_open = source, 0, False
        worker: Any = ray.remote(num_cpus=0)(Worker)  # those of other ways are up too
        self.workers = [worker.remote() for _ in range(source.workers)]
        ray.get([worker.start.remote() for worker in self.workers])

    def read(self) -> dict[str, int]:
        """Read an epoch."""
        rows, sizes, peaks = zip(*self._call("read"))
        return {"rows": sum(rows), "bytes": sum(sizes), "peak_bytes": max(peaks)}

    def check(self) -> dict[str, int]:
        """Read an epoch and return its checksum."""
        return {"sum": sum(self._call("check")) % 2**64}

    def _call(self, method: str) -> list[Any]:
        if not self.is_open:
            given = shared_split(self.source, self.cache), config_of(self.source, self.cache)
            count = len(self.workers)
            ray.get([w.open.remote(*given, (r, count)) for r, w in enumerate(self.workers)])
            self.is_open = True
        self.epoch += 1
        return ray.get([getattr(worker, method).remote(self.epoch) for worker in self.workers])


def open_ray_data(source: Source) -> Epoch:
    """Read tensors with Ray Data and `iter_torch_batches`; nothing is shuffled."""
    keep_order()
    data = ray.data.read_parquet(source.path("tensors"))

    def read(epoch: int) -> Iterator[Padded]:
        found: Any
        for found in data.iter_torch_batches(batch_size=source.batch):
            tokens = tuple(found[name] for name in DIMS)
            yield Padded(tokens, (found["length"],) * len(DIMS), found["labels"].to(torch.bool))

    return read
