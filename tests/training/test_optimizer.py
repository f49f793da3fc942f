"""AdamW's groups, and the learning rate as a function of the step."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from raymc.config import OptimizerConfig
from raymc.training.optimizer import WeightAverage, lr_at, make_optimizer


class Net(nn.Module):
    """One parameter of every kind that the optimizer tells apart."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.prototypes = nn.Parameter(torch.ones(5, 4))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def test_only_matrices_decay_and_prototypes_do_not() -> None:
    net = Net()
    config = OptimizerConfig(lr=0.3, weight_decay=0.2)
    decaying, plain = make_optimizer(net, config, torch.device("cpu")).param_groups
    assert decaying["weight_decay"] == 0.2
    assert plain["weight_decay"] == 0.0
    assert decaying["lr"] == plain["lr"] == 0.3
    assert [id(p) for p in decaying["params"]] == [id(net.linear.weight)]
    others = [net.prototypes, net.linear.bias, net.norm.weight, net.norm.bias]
    assert sorted(map(id, plain["params"])) == sorted(map(id, others))


def test_a_step_is_that_of_adamw() -> None:
    net = Net()
    before = net.linear.weight.detach().clone()
    optimizer = make_optimizer(net, OptimizerConfig(lr=0.1, weight_decay=0.2), torch.device("cpu"))
    (net.linear.weight * torch.arange(12.0).sub(5).view(4, 3)).sum().backward()
    optimizer.step()
    # the first step of Adam is lr · g / (|g| + 1e-8), whatever the size of g
    expected = before * (1 - 0.1 * 0.2) - 0.1 * torch.arange(12.0).sub(5).view(4, 3).sign()
    torch.testing.assert_close(net.linear.weight.detach(), expected)


def test_every_step_is_that_of_pytorchs_adamw_to_the_bit() -> None:
    config, cpu = OptimizerConfig(lr=0.1, weight_decay=0.2), torch.device("cpu")
    net, other = Net(), Net()
    other.load_state_dict(net.state_dict())
    ours = make_optimizer(net, config, cpu)
    theirs = torch.optim.AdamW(make_optimizer(other, config, cpu).param_groups, fused=True)
    for step in range(3):
        for trained, optimizer in ((net, ours), (other, theirs)):
            torch.manual_seed(step)
            optimizer.zero_grad()
            scores = trained.linear(torch.randn(7, 3)) * trained.prototypes.sum()
            scores.square().sum().backward()
            optimizer.step()
        assert all(map(torch.equal, net.parameters(), other.parameters()))
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
        ours.load_state_dict(deepcopy(theirs.state_dict()))


def test_a_linear_classifier_decays() -> None:
    config, cpu = OptimizerConfig(weight_decay=0.2), torch.device("cpu")
    net = Net()
    decaying, _ = make_optimizer(net, config, cpu, is_cosine=False).param_groups
    assert {id(p) for p in decaying["params"]} == {id(net.linear.weight), id(net.prototypes)}


def test_the_average_forgets_where_the_weights_began() -> None:
    net = Net()
    average, seen = WeightAverage(net, 0.9), []
    for step in range(1, 5):
        with torch.no_grad():
            for weight in net.parameters():
                weight += torch.randn_like(weight)
        average.update(net, step=step)
        seen.append(net.linear.weight.detach().double().numpy().copy())
        expected = np.average(seen, axis=0, weights=[0.9 ** (step - k) for k in range(1, step + 1)])
        found = average.model.get_parameter("linear.weight").detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def rates(config: OptimizerConfig, *, steps_per_epoch: int, epochs: int) -> list[float]:
    return [
        lr_at(step, config, steps_per_epoch=steps_per_epoch, epochs=epochs)
        for step in range(steps_per_epoch * epochs)
    ]


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine() -> None:
    made = rates(OptimizerConfig(lr=0.8, warmup_epochs=1.5), steps_per_epoch=4, epochs=5)
    rising = [0.8 * n / 6 for n in range(1, 7)]
    falling = [0.4 + 0.4 * math.cos(math.pi * n / 14) for n in range(14)]
    assert made == pytest.approx([*rising, *falling], rel=1e-12)
    assert min(made) > 0


@pytest.mark.parametrize(
    ("warmup", "first", "last"),
    [(0.0, 1.0, 0.5 + 0.5 * math.cos(math.pi * 5 / 6)), (2.0, 1 / 6, 1.0), (99.0, 1 / 6, 1.0)],
)
def test_runs_without_warm_up_or_with_nothing_else(
    warmup: float, first: float, last: float
) -> None:
    made = rates(OptimizerConfig(lr=1.0, warmup_epochs=warmup), steps_per_epoch=3, epochs=2)
    assert made[0] == pytest.approx(first)
    assert made[-1] == pytest.approx(last)
    assert max(made) == 1.0
