"""The benchmark of orders: its figures against counting pair by pair, and its page."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from jobs.bench import order
from jobs.bench.order import Settings, bench_order, epochs_of, meeting_again, padding


@pytest.mark.parametrize("pool", [1, 4])
def test_figures_are_those_of_counting(pool: int) -> None:
    lengths, epochs = epochs_of(np.random.default_rng(0).integers(3, 90, 1100), pool)
    assert all(sorted(np.concatenate(made)) == list(range(1100)) for made in epochs)
    together = [
        {pair for batch in made for pair in itertools.combinations(sorted(batch.tolist()), 2)}
        for made in epochs
    ]
    again = sum(len(one & two) for one, two in itertools.pairwise(together))
    assert meeting_again(epochs, 1100) == pytest.approx(again / sum(map(len, together[:-1])))
    padded = sum(max(lengths[batch]) * len(batch) for made in epochs for batch in made)
    assert padding(epochs, lengths) == pytest.approx(1 - len(epochs) * lengths.sum() / padded)


@pytest.mark.slow
def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "VAL_ROWS", 100)
    bench_order(Console(), Settings(rows=64, epochs=1, seeds=1, pools=(1, 2)), out=tmp_path)
    page = (tmp_path / "order.md").read_text()
    assert "| in shuffled order | " in page
    assert "| pools of 16 by exact length, as in 0.1.0 | " in page
    figures = json.loads((tmp_path / "order.json").read_text())
    assert "own padding" in json.dumps(figures)
