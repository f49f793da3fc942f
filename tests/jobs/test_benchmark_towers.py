"""The benchmark of vision towers: what is counted, and what is printed."""

import io

import pytest
from rich.console import Console

from jobs.bench import towers
from jobs.bench.measure import Measurement

WIDTH, INNER = 8, 12
TINY = {
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


@pytest.mark.slow
def test_flops_are_those_of_the_matrix_products() -> None:
    tokens = (16 // 8) ** 2
    patches = 2 * tokens * WIDTH * 3 * 8**2
    mlp = 2 * 2 * WIDTH * INNER
    layer = tokens * (2 * 4 * WIDTH**2 + mlp) + 2 * 2 * tokens**2 * WIDTH
    # one learned query reads all tokens: projections of it, of keys and values, and of what it read
    pooling = 2 * WIDTH**2 * (2 + 2 * tokens) + 2 * 2 * tokens * WIDTH + mlp
    assert towers.flops_of_picture(TINY) == patches + 2 * layer + pooling


@pytest.mark.slow
def test_the_whole_benchmark_prints_and_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towers, "SIZES", {"base": TINY})
    monkeypatch.setattr(towers, "MATRIX", {"cpu": 16})
    printed = io.StringIO()
    settings = towers.Settings(towers=("base",), frames=(3, 5), rounds=1)
    towers.bench_towers(Console(file=printed, width=200), settings)
    assert "On a CPU, 1 rounds in turns" in printed.getvalue()
    assert all(f"| base, {n} frames |" in printed.getvalue() for n in (3, 5))


def test_a_tower_s_speed_is_its_flops_over_the_peak_and_the_product_s() -> None:
    one = Measurement("base")
    one.add(frames=100, flops=10**9, seconds=0.5, ceiling=8e11)
    assert "| base | 200 | 0.2 | 25.0% | 25.0% | 500.0 |" in towers.use_table([one], 8e11)
