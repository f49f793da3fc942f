"""One way of the ingest benchmark in a process of its own, told by lines of JSON what to do.

Runs in the peers' interpreter too, where only NumPy, pyarrow and torch are sure to be.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from jobs.bench.ingest_parts import formats, peers
from jobs.bench.ingest_parts.batches import Source, peak_bytes, size_of, sum_of


@dataclass(frozen=True)
class Way:
    """A way of reading the set.

    Attributes:
        package: What it needs.
        open: Of this module's siblings; what it does once a process, then once an epoch.
        format: Folder of its format, and what writes that; None where it reads raymc's shards.
        on_ray: Whether it needs Ray.
        shares: Whether it can be one of several processes that read a share each.
    """

    package: str
    open: Callable[[Source], peers.Epoch]
    format: tuple[str, Callable[[Source, Path], None]] | None = None
    on_ray: bool = False
    shares: bool = False


def _on_ray(name: str, *given: Any) -> Callable[[Source], peers.Epoch]:
    """Return a way of `on_ray`, which is imported where it is opened."""

    def open_there(source: Source) -> peers.Epoch:
        return getattr(import_module("jobs.bench.ingest_parts.on_ray"), name)(source, *given)

    return open_there


FLOOR = "pyarrow alone, nothing decoded"
BY_HAND = "by hand: pyarrow + torch"
CACHED, STREAMED = "raymc, cached", "raymc, streamed"
RAY_DATA = "Ray Data, as documented"
NO_PEERS = (FLOOR, BY_HAND, CACHED, STREAMED)
WAYS = {
    FLOOR: Way("pyarrow", peers.open_floor, shares=True),
    BY_HAND: Way("torch", peers.open_by_hand, shares=True),
    CACHED: Way("ray", _on_ray("open_raymc", "auto"), on_ray=True, shares=True),
    STREAMED: Way("ray", _on_ray("open_raymc", "off"), on_ray=True, shares=True),
    "torch DataLoader, 2 processes": Way("torch", peers.open_loader, shares=True),
    "datasets, memory-mapped": Way(
        "datasets", peers.open_hf_mapped, ("hf", formats.write_arrow), shares=True
    ),
    "datasets, streaming": Way("datasets", peers.open_hf_streaming, shares=True),
    "MosaicML streaming, 2 processes": Way(
        "streaming", peers.open_mosaic, ("mds", formats.write_mds)
    ),
    "WebDataset, 2 processes": Way(
        "webdataset", peers.open_webdataset, ("tars", formats.write_tars)
    ),
    "litdata, 2 processes": Way("litdata", peers.open_litdata, ("litdata", formats.write_chunks)),
    RAY_DATA: Way("ray", _on_ray("open_ray_data"), ("tensors", formats.write_tensors), on_ray=True),
}


class Reader:
    """A way that was or will be opened, and its epochs."""

    def __init__(self, way: Way, source: Source) -> None:
        self.way, self.source, self.epoch = way, source, 0
        self._epoch: peers.Epoch | None = None

    def prepare(self) -> dict[str, int]:
        """Write the way's format."""
        if self.way.format:
            formats.prepare(self.source, *self.way.format)
        return {}

    def read(self) -> dict[str, int]:
        """Read an epoch; returns its rows and bytes."""
        rows = size = 0
        for batch in self._batches():
            found = size_of(batch)
            rows, size = rows + found[0], size + found[1]
        return {"rows": rows, "bytes": size, "peak_bytes": peak_bytes()}

    def check(self) -> dict[str, int]:
        """Read an epoch and return the checksum of what came."""
        return {"sum": sum(map(sum_of, self._batches())) % 2**64}

    def _batches(self) -> Iterator[Any]:
        if self._epoch is None:
            self._epoch = self.way.open(self.source)
        self.epoch += 1
        return self._epoch(self.epoch)


def started(name: str, source: Source) -> Any:
    """Join Ray and start its workers where a way needs them, so that neither is timed."""
    way = WAYS[name]
    if way.on_ray:
        import_module("raymc.runtime.connect").connect()
        on_ray = import_module("jobs.bench.ingest_parts.on_ray")
        if source.workers > 1:
            return on_ray.WorkersReader("auto" if name == CACHED else "off", source)
    return Reader(way, source)


def timed(do: Callable[[], Mapping[str, int]]) -> dict[str, Any]:
    """Return what `do` found and how long it took; what went wrong as a line."""
    try:
        began = time.perf_counter()
        found = do()
        return {**found, "seconds": time.perf_counter() - began}
    except Exception as error:
        line = str(error).strip().partition("\n")[0]
        return {"reason": f"{type(error).__name__}: {line}"[:160]}


def main() -> None:
    """Take the way and its source from the arguments, commands from the input."""
    warnings.filterwarnings("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # packages may print
    tell = partial(print, file=answers, flush=True)
    name, source = sys.argv[1], Source(**json.loads(sys.argv[2]))
    try:
        import_module(WAYS[name].package)
    except ImportError as error:
        tell(json.dumps({"reason": f"not installed ({error})"[:160]}))
        return
    reader: Any = Reader(WAYS[name], source)
    for line in sys.stdin:
        if line.strip() == "start":
            reader = started(name, source)
            tell("{}")
        else:
            tell(json.dumps(timed(getattr(reader, line.strip()))))
