"""Readers of the ingest benchmark that need Ray: raymc's feed, and Ray Data as documented.

Ray, and the workers where there are several, are started before anything is timed.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import ray
import ray.data
import torch

from jobs.bench.batches import DIMS, Padded, Source
from jobs.bench.ingest_peers import Epoch, Reader, Way, joined
from raymc.config import Config, from_dict
from raymc.data.feed.feed import Feed
from raymc.data.feed.on_ray import share_split
from raymc.data.feed.shared import SharedSplit
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
    """Yield a feed's batches as the benchmark counts them, without the rows that pad a share."""
    for batch in feed.training(epoch):
        real = batch.rows >= 0
        kept = slice(None) if real.all() else real  # a slice copies nothing
        tokens, lengths = (
            tuple(by_name[name][kept] for name in DIMS) for by_name in (batch.tokens, batch.lengths)
        )
        yield Padded(tokens, lengths, batch.labels[kept])


class Worker(Reader):
    """One of several that train, as an actor: batches arrive in its process."""

    def take(self, shared: SharedSplit, config: Config) -> None:
        """Take what the driver has shared."""
        share = self.source.rank, self.source.workers
        self.read_epoch = partial(batches_of, shared.feed(config, share=share))


class WorkersReader:
    """Like `Reader`, with a worker for each share."""

    def __init__(self, way: Way, source: Source, cache: Cache) -> None:
        self.cache: Cache = cache
        self.source, self.is_open = source, False
        worker: Any = ray.remote(num_cpus=0)(Worker)  # those of other ways are up too
        shares = (replace(source, rank=rank) for rank in range(source.workers))
        self.workers = [worker.remote(way, share) for share in shares]
        ray.get([worker.prepare.remote() for worker in self.workers])  # returns when they are up

    def read(self) -> dict[str, int]:
        """Read an epoch."""
        return self._ask("read")

    def check(self) -> dict[str, int]:
        """Read an epoch and return its checksum."""
        return self._ask("check")

    def _ask(self, command: str) -> dict[str, Any]:
        if not self.is_open:
            given = shared_split(self.source, self.cache), config_of(self.source, self.cache)
            ray.get([worker.take.remote(*given) for worker in self.workers])
            self.is_open = True
        return joined(ray.get([getattr(worker, command).remote() for worker in self.workers]))


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
