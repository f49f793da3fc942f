"""The model under torch.compile: one graph without breaks, few of them for any lengths."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.fx import GraphModule

from raymc.config import from_dict
from raymc.data.shards import Modality
from raymc.model.transformer import MultimodalTransformer

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
    shape = {"width": 16, "depth": 2, "heads": 2, "fusion_depth": 2, "embedding_dim": 8}
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


if __name__ == "__main__":
    for each in ("joint", "bottleneck"):
        count = train_compiled(each)
        assert count <= MOST_GRAPHS, (each, count)
