"""Positions in seconds: what is added to tokens, and how queries and keys are turned."""

import numpy as np
import pytest
import torch
from model_cases import make_config, make_model
from model_reference import mid_times, periods, positions, turned
from torch import Tensor

from raymc.model.layers import (
    SAME_TIME_LOGIT,
    Block,
    added_positions,
    rotate,
    time_rotation,
    turned_heads,
    without_time,
)

LIKE = torch.empty(0, 16, dtype=torch.float64)  # dtype, device and width of the rest
SIZE = 8
PERIODS = (0.2, 200.0)


def random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape) + shape[-2])
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def rotated(x: Tensor, rate_hz: float) -> Tensor:
    """Turn [B, H, 1 + T, d] by the times of a readout token and of tokens at a rate."""
    heads, length, size = x.shape[1:]
    return rotate(x, time_rotation(length - 1, rate_hz, PERIODS, heads=heads, size=size, like=x))


@pytest.mark.parametrize("rate_hz", [0.5, 2.0, 25.0])
def test_added_positions_are_waves_of_the_mid_times(rate_hz: float) -> None:
    made = added_positions(6, rate_hz, PERIODS, like=LIKE)
    assert made.dtype == torch.float64
    np.testing.assert_allclose(made, positions(mid_times(6, rate_hz), 16), rtol=0, atol=3e-5)


def test_tokens_of_the_same_time_have_the_same_position() -> None:
    slow, fast = (
        added_positions(4, 1.0, PERIODS, like=LIKE),
        added_positions(12, 3.0, PERIODS, like=LIKE),
    )
    torch.testing.assert_close(fast[1::3], slow, rtol=0, atol=3e-5)
    apart = torch.cdist(slow, slow) + 9 * torch.eye(4)
    assert apart.min() > 0.5


def test_periods_reach_from_a_fifth_of_a_second_to_minutes() -> None:
    np.testing.assert_allclose(periods(4), [0.2, 2, 20, 200])
    # after a whole period a wave is where it was: of every 5 Hz token the fastest, of others not
    waves = added_positions(40, 5.0, PERIODS, like=LIKE[:, :8])
    torch.testing.assert_close(waves[:, 0], waves[:1, 0].expand(40), rtol=0, atol=3e-5)
    torch.testing.assert_close(waves[10:, 1], waves[:30, 1], rtol=0, atol=3e-5)
    assert (waves[10:, 2:4] - waves[:30, 2:4]).abs().amax(dim=0).min() > 0.05


@pytest.mark.parametrize(("heads", "count"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_the_first_half_of_the_heads_is_turned(heads: int, count: int) -> None:
    x = random(2, heads, 5, SIZE)
    made = rotated(x, 2.0)
    assert turned_heads(heads) == count
    assert torch.equal(made[:, count:], x[:, count:])
    assert (made[:, :count, 1:] - x[:, :count, 1:]).abs().amax(dim=-1).min() > 1e-2


def test_the_readout_token_is_not_turned() -> None:
    x = random(2, 4, 5, SIZE)
    assert torch.equal(rotated(x, 2.0)[:, :, 0], x[:, :, 0])


@pytest.mark.parametrize("rate_hz", [0.5, 4.0])
def test_turning_is_as_complex_numbers_turn(rate_hz: float) -> None:
    x = random(2, 3, 6, SIZE)
    seconds = np.append(0.0, mid_times(5, rate_hz))
    for made, row in zip(rotated(x, rate_hz), x):
        expected = turned(row.transpose(0, 1).numpy(), seconds, 2)
        halves = np.concatenate([np.real(expected), np.imag(expected)], axis=-1)
        np.testing.assert_allclose(made.transpose(0, 1), halves, rtol=0, atol=1e-4)


def test_turning_keeps_lengths() -> None:
    x = random(3, 4, 30, SIZE)
    lengths = torch.linalg.vector_norm(rotated(x, 3.0), dim=-1)
    torch.testing.assert_close(lengths, torch.linalg.vector_norm(x, dim=-1))


def test_products_depend_on_differences_in_time_only() -> None:
    query, key = random(1, 2, 1, SIZE), random(1, 2, 1, SIZE) ** 2
    rates = {1.0: 6, 3.0: 18}
    times = {rate: mid_times(length, rate) for rate, length in rates.items()}
    found: dict[float, list[float]] = {}
    for query_rate, key_rate in [(1.0, 1.0), (1.0, 3.0), (3.0, 1.0), (3.0, 3.0)]:
        queries = rotated(query.expand(-1, -1, rates[query_rate] + 1, -1), query_rate)[0, 0, 1:]
        keys = rotated(key.expand(-1, -1, rates[key_rate] + 1, -1), key_rate)[0, 0, 1:]
        differences = np.subtract.outer(times[query_rate], times[key_rate])
        for difference, product in zip(differences.ravel(), (queries @ keys.T).ravel().tolist()):
            found.setdefault(round(float(difference), 6), []).append(product)
    assert len(found) == 35
    assert all(np.ptp(products) < 1e-3 for products in found.values())
    assert np.ptp([products[0] for products in found.values()]) > 1
    torch.testing.assert_close(
        torch.tensor(found[0.0]), (query * key)[0, 0].sum().expand(36).float()
    )


def test_tokens_without_time_are_not_turned() -> None:
    turns = time_rotation(3, 2.0, PERIODS, heads=2, size=SIZE, like=LIKE)
    x = random(2, 2, 4 + 5, SIZE)
    made = rotate(x, without_time(turns, 5))
    assert torch.equal(made[:, :, 4:], x[:, :, 4:])
    assert torch.equal(made[:, :, :4], rotate(x[:, :, :4], turns))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_positions_are_of_the_type_asked_for(dtype: torch.dtype) -> None:
    like = LIKE.to(dtype)
    made = [added_positions(500, 2.0, PERIODS, like=like)]
    made += time_rotation(500, 2.0, PERIODS, heads=2, size=16, like=like)
    exact = [added_positions(500, 2.0, PERIODS, like=LIKE)]
    exact += time_rotation(500, 2.0, PERIODS, heads=2, size=16, like=LIKE)
    assert {x.dtype for x in made} == {dtype}
    for x, expected in zip(made, exact):  # rounded once, after the sine
        assert (x.double() - expected).abs().max() <= torch.finfo(dtype).eps


def far_away(rate_hz: float, seconds: float, periods: tuple[float, float], size: int) -> Tensor:
    """The share of a new head's attention to each moment that goes more than 30 s away; [T]."""
    length = int(seconds * rate_hz)
    block = Block(2 * size, heads=2, hidden=4, dropout=0.0)
    bias = block.qkv.bias.detach().view(3, 2, size)[0, 0].double().expand(1, 2, length + 1, size)
    turns = time_rotation(
        length, rate_hz, periods, heads=2, size=size, like=torch.empty(0, dtype=torch.float64)
    )
    turned = rotate(bias, turns)[0, 0, 1:]
    times = torch.from_numpy(mid_times(length, rate_hz))
    weights = (turned @ turned.T / size**0.5).softmax(dim=-1)
    return (weights * ((times[:, None] - times).abs() > 30)).sum(dim=1)


@pytest.mark.parametrize("size", [16, 24, 64, 256])
def test_heads_of_any_size_look_near_on_long_videos(size: int) -> None:
    fitted = (2.0, 1200.0)  # two tokens, and twice the length
    assert far_away(1.0, 600.0, fitted, size).mean() < 0.2
    turns = time_rotation(600, 1.0, fitted, heads=1, size=size, like=LIKE)
    block = Block(size, heads=1, hidden=4, dropout=0.0)
    query = block.qkv.bias.detach().view(3, 1, size)[0].double().expand(1, 1, 601, size)
    turned = rotate(query, turns)[0, 0]
    logits = turned @ turned.T / size**0.5
    assert logits.diagonal().mean() == pytest.approx(SAME_TIME_LOGIT, rel=1e-5)


def test_periods_are_those_of_the_settings() -> None:
    seconds, count = mid_times(7, 2.0), 8
    angles = 2 * np.pi * seconds[:, None] / periods(count, 1.5, 600.0)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    made = added_positions(7, 2.0, (1.5, 600.0), like=LIKE)
    np.testing.assert_allclose(made, expected, rtol=0, atol=3e-5)
    config = make_config(shortest_period_seconds=1.5, longest_period_seconds=600.0)
    assert {one.periods for one in make_model(config).embed.values()} == {(1.5, 600.0)}
