"""What a training step asks of a device, counted while one runs: operations, casts and waits.

The counts are the same on any device but for what PyTorch computes in one operation on some and in
several on others (dropout is three on a CPU, one on a GPU), so they tell what a GPU would launch.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from jobs.bench.measure import NAME, Columns, Measurement, table
from raymc.config import Config, from_dict
from raymc.data.feed.batches import Batch
from raymc.data.shards import Modality
from raymc.model.layers import PADDED, Layout
from raymc.model.transformer import MultimodalTransformer
from raymc.training.learner import Objective, Workers
from raymc.training.optimizer import make_optimizer

CPU = torch.device("cpu")
# The default model in bfloat16; lengths in tokens, some clips without sound or speech.
COUNTED = from_dict({"train": {"precision": "bfloat16"}})
MODALITIES = (
    Modality("visual", 1024, "float16", rate_hz=1.0),
    Modality("audio", 128, "float16", rate_hz=1.0),
    Modality("text", 384, "float16", rate_hz=0.3),
)
ROWS, MOST_TOKENS, CLASSES = 8, 30, 20
# A device must end its work before the next is known.
WAITS = ("_local_scalar_dense", "nonzero", "equal", "_unique2", "masked_select")
COUNTS_TEXT = (
    "A training step of the default model on three modalities of ragged lengths, in bfloat16: "
    "operations that compute something, casts among them, and waits for the device.\n\n"
)


class Operations(TorchDispatchMode):
    """Counts what is dispatched while it is active, views apart."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: Counter[Any] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count it."""
        self._seen[function] += 1
        return function(*args, **(kwargs or {}))

    @property
    def figures(self) -> dict[str, float]:
        """The operations that compute something, the casts among them, and the waits."""
        computing = {f: n for f, n in self._seen.items() if not _is_view(f)}
        names = {f: f._schema.name.removeprefix("aten::") for f in computing}
        return {
            "operations": sum(computing.values()),
            "casts": sum(n for f, n in computing.items() if names[f] == "_to_copy"),
            "waits": sum(n for f, n in computing.items() if names[f] in WAITS),
        }


def _is_view(function: Any) -> bool:
    infos = [result.alias_info for result in function._schema.returns]
    return any(info is not None and not info.is_write for info in infos)


def ragged_batch(generator: torch.Generator, *, rows: int = ROWS) -> Batch:
    """Return random clips of unequal length."""
    lengths = {
        m.name: torch.randint(2, MOST_TOKENS, (rows,), generator=generator) for m in MODALITIES
    }
    tokens = {
        m.name: torch.randn(rows, int(lengths[m.name].max()), m.dim, generator=generator).half()
        for m in MODALITIES
    }
    labels = torch.rand(rows, CLASSES, generator=generator) < 0.2
    return Batch(tokens, lengths, labels, torch.ones_like(labels), torch.arange(rows))


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Compute padding in all layers, as a GPU does; a CPU leaves it out."""
    with patch.object(Layout, "packed", lambda lengths, size: PADDED):
        yield


@as_on_a_gpu()
def count_step(config: Config = COUNTED) -> list[Measurement]:
    """Count what each part of a step asks for, and the whole step."""
    torch.manual_seed(0)
    model = MultimodalTransformer(config.model, MODALITIES, classes=CLASSES)
    objective = Objective(model, config.loss, weights=None, workers=Workers())
    optimizer = make_optimizer(model, config.optimizer, CPU)
    batch = ragged_batch(torch.Generator().manual_seed(0))
    found: list[Measurement] = []

    @contextmanager
    def counted(name: str) -> Iterator[None]:
        with Operations() as operations:
            yield
        found.append(Measurement(name))
        found[-1].add(**operations.figures)

    for _ in range(2):  # the first step also makes the optimizer's state
        found.clear()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            with counted("forward"):
                embeddings = objective.embed(batch)
            with counted("loss"):
                loss = objective.loss(embeddings, batch)
        with counted("backward"):
            loss.backward()
        with counted("optimizer"):  # foreach is what GPUs use
            nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm, foreach=True)
            optimizer.step()
    whole = Measurement("whole step")
    whole.add(**{key: sum(one[key][0] for one in found) for key in found[0].figures})
    return [*found, whole]


def counts_table(parts: Sequence[Measurement]) -> str:
    """Return what each part of a step asks for."""
    columns: Columns = {
        **NAME,
        **{key: lambda m, key=key: f"{m[key][0]:,.0f}" for key in parts[0].figures},
    }
    return table(columns, parts)
