"""Workers hear of a node that goes at the same step, soon, and not too often."""

from typing import Any

import pytest
import ray.train
from ray.train.v2.api.preemption import PreemptionInfo

from raymc.training import worker as preemption
from raymc.training.worker import PreemptionWatch

NOTICE = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"a": [0]})


class World:
    """A clock, what Ray knows, and worker 0's last word; in place of Ray's own."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now, self.notice, self.questions = 0.0, None, 0
        self.said: Any = None
        self.is_first = True
        patch.setattr(preemption.time, "monotonic", lambda: self.now)
        patch.setattr(ray.train, "get_preemption_info", self._info)
        patch.setattr(ray.train.collective, "broadcast_from_rank_zero", self._broadcast)

    def _info(self) -> PreemptionInfo | None:
        self.questions += self.is_first
        return self.notice

    def _broadcast(self, data: Any) -> Any:
        self.said = data if self.is_first else self.said
        return self.said


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def run(world: World, watch: PreemptionWatch, steps: int, seconds_per_step: float) -> list[float]:
    """Take steps; returns when a checkpoint was due."""
    due = []
    for _ in range(steps):
        world.now += seconds_per_step
        if watch.is_due():
            due.append(world.now)
    return due


@pytest.mark.parametrize("seconds_per_step", [0.001, 0.02, 0.3, 0.9, 3.0])
def test_ray_is_asked_about_once_a_second(world: World, seconds_per_step: float) -> None:
    steps = int(60 / seconds_per_step)
    assert run(world, PreemptionWatch(), steps, seconds_per_step) == []
    expected = min(60, steps)
    assert 0.7 * expected <= world.questions <= 1.3 * expected + 2


def test_a_checkpoint_at_once_and_then_every_few_seconds(world: World) -> None:
    watch = PreemptionWatch()
    assert run(world, watch, 200, 0.1) == []
    world.notice, told = NOTICE, world.now
    first, *others = run(world, watch, 200, 0.1)
    assert first - told <= 1.2
    gaps = [later - earlier for earlier, later in zip([first, *others], others)]
    assert len(others) >= 2
    assert all(gap + 1e-9 >= 5.0 and gap <= 6.2 for gap in gaps)


def test_after_a_pause_ray_is_asked_more_often_not_less(world: World) -> None:
    watch = PreemptionWatch()
    run(world, watch, 500, 0.1)
    world.now += 300  # a validation
    before = world.questions
    run(world, watch, 12, 0.1)
    assert world.questions - before >= 2


def test_workers_with_other_clocks_do_as_worker_0_does(world: World) -> None:
    first, other = PreemptionWatch(), PreemptionWatch()
    answers = []
    for step in range(400):
        world.notice = NOTICE if step > 150 else None
        world.is_first, world.now = True, world.now + 0.05
        answer = first.is_due()
        world.is_first, world.notice = False, None  # hears of it later, and its clock stands
        now, world.now = world.now, 7.0
        answers.append((answer, other.is_due()))
        world.now = now
    assert all(one == two for one, two in answers)
    assert any(one for one, _ in answers)
