"""The model and its loss under torch.compile: a graph each without breaks, for any lengths."""

import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch.fx import GraphModule

from raymc.config import from_dict
from raymc.data.feed.batches import Batch
from raymc.data.shards import Modality
from raymc.model.layers import PADDED, Layer, Layout
from raymc.model.transformer import MultimodalTransformer
from raymc.training.learner import Objective, Workers, bucketed

MODALITIES = (Modality("visual", 6, "float16", rate_hz=1.0), Modality("audio", 4, "uint8"))
# Rows, and tokens of each modality.
BATCHES = [(5, 9, 17), (7, 12, 30), (3, 2, 5), (8, 31, 8), (2, 7, 7), (6, 1, 1)]


@pytest.mark.slow
def test_a_model_and_its_loss_are_a_graph_each_without_breaks() -> None:
    """In its own process, because the checks of shapes under test can't be compiled."""
    subprocess.run([sys.executable, Path(__file__)], check=True)


def train_compiled() -> None:
    """Train on batches of many sizes, some without a modality, as a model that is not compiled."""
    torch.manual_seed(0)
    shape = {"width": 16, "depth": 3, "heads": 2, "fusion_depth": 2}
    shape |= {"embedding_dim": 8, "class_queries": 2}  # which classes share
    loss = {"name": "prototype_contrast", "modality_weight": 0.5}
    given = {"model": {**shape, "fusion": "bottleneck", "dropout": 0.2}, "loss": loss}
    config = from_dict(given)
    model = MultimodalTransformer(config.model, MODALITIES, classes=3)
    layer = model.layers[1]
    assert isinstance(layer, Layer)
    layer.reach = "joint"  # one model with layers of all kinds: each graph takes seconds
    graphs: list[GraphModule] = []

    def keep(graph: GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    workers = Workers()
    plain = Objective(model, config.loss, weights=None, workers=workers)
    compile_any = torch.compile
    torch.compile = partial(compile_any, backend=keep, fullgraph=True)
    compiled = Objective(model, config.loss, weights=None, workers=workers, compiled=True)
    torch.compile = compile_any
    all_padded = patch.object(Layout, "packed", lambda lengths, size: PADDED)
    for step, (rows, *sizes) in enumerate(BATCHES):
        lengths = {m.name: torch.randint(0, n + 1, (rows,)) for m, n in zip(MODALITIES, sizes)}
        if step == 2:
            lengths["audio"][:] = 0
        tokens = {
            m.name: torch.randint(0, 9, (rows, n, m.dim)).to(getattr(torch, m.dtype))
            for m, n in zip(MODALITIES, sizes)
        }
        labels, observed = torch.rand(rows, 3) < 0.5, torch.rand(rows, 3) < 0.7
        batch = Batch(tokens, lengths, labels, observed, torch.arange(rows))
        found = []
        for objective, padded in ((plain, bucketed(batch)), (compiled, batch)):
            torch.manual_seed(step)  # of dropout
            model.zero_grad()
            with all_padded if objective is plain else nullcontext():  # a compiled model is
                loss_of_batch = objective(padded)
            loss_of_batch.backward()
            found.append((loss_of_batch, [p.grad for p in model.parameters()]))
        torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
        assert len(graphs) == 2, (step, len(graphs))  # the model's and the loss's


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch._dynamo.config.fake_tensor_cache_enabled = False  # costs more than it spares two graphs
    train_compiled()
