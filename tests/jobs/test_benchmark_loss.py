"""The benchmark of the loss: what it computes, counts and prints; no time is asserted."""

import io
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from jobs.bench import loss as bench
from jobs.bench.loss import Point, Settings, bench_loss, inputs, loss_of, measure, steps
from jobs.bench.measure import Measurement
from jobs.bench.memory import added_bytes
from raymc.errors import ResourceError

SMALL = Point(batch=12, classes=7)


def figure(way: str, seconds: float | None, added: float, reason: str = "") -> Measurement:
    rounds = [] if seconds is None else [seconds * 2, seconds, seconds / 2]
    return Measurement(
        way, asdict(SMALL), {"seconds": rounds, "added_bytes": [added * 2**20]}, reason
    )


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other processes, and nothing that needs a compiler."""

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    bench._memory.cache_clear()
    monkeypatch.setattr(bench, "apart", call)
    monkeypatch.setattr(bench, "SCORES_OF_A_ROUND", 200)
    monkeypatch.setattr(bench, "WAYS", ("in chunks", bench.PLAIN, "BCE"))


def test_inputs_have_a_few_labels_a_clip_and_want_gradients() -> None:
    embedding, prototypes, labels, observed = inputs(SMALL)
    assert embedding.shape == (12, 128)
    assert prototypes.shape == (7, 128)
    assert embedding.requires_grad
    assert prototypes.requires_grad
    assert labels.shape == observed.shape == (12, 7)
    assert set(labels.to_dense().sum(dim=1).tolist()) <= {1, 2, 3}
    assert observed.all()
    assert labels.values().untyped_storage().nbytes() <= 12 * 3
    assert observed.untyped_storage().nbytes() == 12
    again = inputs(SMALL)
    assert all(torch.equal(x, y) for x, y in zip(again, (embedding, prototypes)))
    assert torch.equal(again[2].to_dense(), labels.to_dense())


def test_chunks_and_plain_formula_are_the_same_loss() -> None:
    given = inputs(SMALL)
    matrices = (*given[:2], given[2].to_dense(), given[3])
    chunks = loss_of("in chunks")(*given)
    plain, bce = (loss_of(way)(*matrices) for way in (bench.PLAIN, "BCE"))
    torch.testing.assert_close(chunks, plain)
    scores, targets = (given[0] @ given[1].T).detach().double().numpy(), matrices[2].numpy()
    expected = np.log1p(np.exp(-np.abs(scores))) + np.maximum(scores, 0) - scores * targets
    assert bce.item() == pytest.approx(expected.mean(), rel=1e-5)


def test_a_step_leaves_no_gradient_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(SMALL)
    monkeypatch.setattr(bench, "inputs", lambda point: given)
    seen = []
    given[1].register_post_accumulate_grad_hook(lambda x: seen.append(x.grad.abs().max().item()))
    for step in steps(SMALL, ["in chunks", bench.PLAIN, "BCE"]).values():
        step()
    assert len(seen) == 3
    assert min(seen) > 0
    assert given[0].grad is None
    assert given[1].grad is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_added_bytes_are_those_of_the_call_alone() -> None:
    kept = np.ones(2**22)
    found = added_bytes(lambda: np.ones(2**23))
    assert 2**26 - 2**22 < found < 2**26 + 2**24
    assert kept.all()


@pytest.mark.usefixtures("here")
def test_what_would_not_fit_is_predicted_and_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def added(point: Point, way: str) -> float:
        tried.append((point.classes, way))
        return point.scores * (50.0 if way == bench.PLAIN else 2.0)

    monkeypatch.setattr(bench, "_added_here", added)
    monkeypatch.setattr(bench, "_free_bytes", lambda point: 400e6)
    monkeypatch.setattr(
        bench,
        "_seconds_here",
        lambda p, names, r: [Measurement(n, figures={"seconds": [1.0]}) for n in names],
    )
    monkeypatch.setattr(bench, "PREDICTED_CLASSES", 1000)
    found = {one.name: one for one in measure(Point(100, 100_000), rounds=1)}
    assert found[bench.PLAIN].note == "does not fit"
    assert found[bench.PLAIN].figures == {"added_bytes": [50 * 10**7], "seconds": []}
    assert found["in chunks"].figures == {"added_bytes": [2e7], "seconds": [1.0]}
    assert (100_000, bench.PLAIN) not in tried


@pytest.mark.usefixtures("here")
def test_a_way_that_fails_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def added(point: Point, way: str) -> float:
        if way == "BCE":
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nSet …")
        return 1.0

    monkeypatch.setattr(bench, "_added_here", added)
    bce = measure(SMALL, rounds=1)[-1]
    assert bce.note == "InvalidCxxCompiler: No working C++ compiler found"
    assert math.isnan(bce.median("added_bytes"))
    assert bce["seconds"] == []


def test_table_puts_each_way_beside_the_plain_formula() -> None:
    figures = [
        figure("in chunks", 0.5, 20.0),
        figure(bench.PLAIN, 2.0, 400.0),
        figure("BCE", None, math.nan, "no compiler"),
    ]
    assert bench.table_of(figures).splitlines()[2:] == [
        "| 12 | 7 | in chunks | 0.5 | 0.25 to 1 | 0.25 | 20 | 0.050 |",
        "| 12 | 7 | plain formula | 2 | 1 to 4 | 1.00 | 400 | 1.000 |",
        "| 12 | 7 | BCE | no compiler |  |  |  |  |",
    ]


def test_table_marks_what_is_predicted() -> None:
    figures = [
        figure("in chunks", 0.5, 20.0),
        figure(bench.PLAIN, None, 4000.0, "does not fit"),
    ]
    assert bench.table_of(figures).splitlines()[2:] == [
        "| 12 | 7 | in chunks | 0.5 | 0.25 to 1 |  | 20 | ≈ 0.005 |",
        "| 12 | 7 | plain formula | does not fit |  |  | ≈ 4,000 | ≈ 1.000 |",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_the_whole_benchmark_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "MOST_SCORES", 100)
    page = io.StringIO()
    settings = Settings(classes=(7, 30), batches=(2, 12), rounds=2)
    bench_loss(Console(file=page), settings, out=tmp_path)
    rows = [
        line.split(" | ")[:3] for line in page.getvalue().splitlines() if line[:3] in ("| 2", "| 1")
    ]
    sizes = [["| 2", "7"], ["| 12", "7"], ["| 2", "30"]]
    assert rows == [[*size, way] for size in sizes for way in ("in chunks", bench.PLAIN, "BCE")]
    assert "up to 1,048,576 scores" in page.getvalue()
    assert (tmp_path / "loss.md").read_text().strip() in page.getvalue()
    found = json.loads((tmp_path / "loss.json").read_text())["measurements"]
    assert len(found) == 9
    assert all(len(m["figures"]["seconds"]) == 2 and m["note"] == "" for m in found)


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError, match="torch finds no GPU here; give --device cpu"):
        bench_loss(Console(file=io.StringIO()), Settings(device="cuda"))
