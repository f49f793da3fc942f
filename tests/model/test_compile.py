"""The model under torch.compile: one graph without breaks, few of them for any lengths."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.fx import GraphModule

from raymc.config import LossName, from_dict
from raymc.data.feed.batches import Batch
from raymc.data.shards import Modality
from raymc.model.losses import head_of
from raymc.model.transformer import MultimodalTransformer
from raymc.training.learner import Objective, Workers, bucketed

MODALITIES = (Modality("visual", 6, "float16", rate_hz=1.0), Modality("audio", 4, "uint8"))
# All sizes fixed; lengths free, once they have changed; and rows free too, for the same reason.
MOST_GRAPHS = 3


@pytest.mark.slow
def test_a_model_is_few_graphs_without_breaks() -> None:
    """In its own process, because the checks of shapes under test can't be compiled."""
    subprocess.run([sys.executable, Path(__file__)], check=True)


def train_compiled(fusion: str) -> int:
    """Compare with the model as it is, on batches of many sizes; returns the number of graphs."""
    torch.manual_seed(0)
    shape = {"width": 16, "depth": 1, "heads": 2, "fusion_depth": 1, "embedding_dim": 8}
    config = from_dict({"model": {**shape, "fusion": fusion}}).model
    model = MultimodalTransformer(config, MODALITIES, classes=3)
    graphs: list[GraphModule] = []

    def keep(graph: GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=keep, fullgraph=True)
    for rows, *lengths in [(4, 9, 17), (4, 12, 30), (3, 2, 5), (8, 31, 8), (2, 7, 7)]:
        tokens = {
            m.name: torch.randint(0, 9, (rows, length, m.dim)).to(getattr(torch, m.dtype))
            for m, length in zip(MODALITIES, lengths)
        }
        counts = {n: torch.randint(0, x.shape[1] + 1, (rows,)) for n, x in tokens.items()}
        found = []
        for one in (model, compiled):
            torch.manual_seed(rows)  # of dropout
            model.zero_grad()
            fused = one(tokens, counts).fused
            fused.square().sum().backward()
            found.append((fused, [p.grad for p in model.parameters()]))
        torch.testing.assert_close(found[1], found[0])
    return len(graphs)


def train_ragged(name: LossName) -> int:
    """Train on 50 ragged batches, some without a modality; returns the number of graphs."""
    torch.manual_seed(0)
    shape = {"width": 16, "depth": 2, "heads": 2, "fusion_depth": 1, "embedding_dim": 8}
    loss = {"name": name, "modality_weight": 0.5}
    config = from_dict({"model": {**shape, "dropout": 0.2}, "loss": loss})
    model = MultimodalTransformer(config.model, MODALITIES, classes=3, head=head_of(name))
    graphs: list[GraphModule] = []

    def keep(graph: GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    compile_any = torch.compile
    torch.compile = partial(compile_any, backend=keep, fullgraph=True)
    given = {"weights": None, "workers": Workers()}
    compiled = Objective(model, config.loss, **given, compiled=True)
    torch.compile = compile_any
    plain = Objective(model, config.loss, **given)
    counts = []
    for step in range(50):
        rows = 16 - step % 2  # batches differ by a row
        lengths = {m.name: torch.randint(0, 40 if step % 7 else 1, (rows,)) for m in MODALITIES}
        tokens = {
            m.name: torch.ones(rows, max(1, int(lengths[m.name].max())), m.dim) * m.dim
            for m in MODALITIES
        }
        labels, observed = torch.rand(2, rows, 3) < 0.5
        batch = Batch(tokens, lengths, labels, observed, torch.arange(rows))
        found = []
        for objective, given_batch in ((plain, bucketed(batch)), (compiled, batch)):
            if objective is plain and step % 10:
                continue  # the first of ten are compared
            torch.manual_seed(step)
            model.zero_grad()
            loss_of_batch = objective(given_batch)
            loss_of_batch.backward()
            found.append((loss_of_batch, [p.grad for p in model.parameters()]))
        torch.testing.assert_close(found[-1], found[0], rtol=1e-4, atol=1e-5)
        counts.append(len(graphs))
    assert counts[1] == counts[-1], counts  # none after the first two batches
    return counts[-1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in ("joint", "bottleneck"):
        count = train_compiled(each)
        assert count <= MOST_GRAPHS, (each, count)
    count = train_ragged("prototype_contrast")
    # the model for equal lengths, as the first batch has them, and for any; and the loss
    assert count <= MOST_GRAPHS, count
