"""On Ray: gathers the last trials of a sweep on few nodes, so that the cluster can end the others.

Ray puts a trial on the node with the most room, so the last trials of a sweep, of which several fit
on a node, would hold a node each. When no trial is left to hand out, one that has ended an epoch is
paused, and Tune resumes it from that epoch's checkpoint on another node. Tune's own
`ResourceChangingScheduler` does the same to give a trial other resources, but not with processes
that are reused.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray._private import state as ray_state
from ray.tune import PlacementGroupFactory
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from raymc.search.trials import new_trial
from raymc.training.runs import Run
from raymc.training.worker import EPOCH, IS_LAST

NODE = "node"  # key of a trial's report: the id of the node it runs on
# A move costs the start of a process, and a node that has become empty ends some time later.
_LEAST_SECONDS = 60.0


@dataclass(frozen=True)
class Room:
    """A node's room, in trials.

    Attributes:
        held: How many trials its used resources are, rounded up.
        free: How many more fit.
        ours: How many of the sweep's trials run there.
    """

    held: int
    free: int
    ours: int


def place_for(node: str, rooms: Mapping[str, Room]) -> str | None:
    """Return where a trial of `node` should move so that its node can end; None if it should stay.

    A node can end if only our trials run there, and all of them fit on others that are in use. Of
    several such nodes, the one with the fewest trials goes first; its trials fill the fullest node.
    """
    used = {name: room for name, room in rooms.items() if room.held}
    free = sum(room.free for room in used.values())
    can_end = {
        name: room.held
        for name, room in used.items()
        if room.held == room.ours and room.held <= free - room.free
    }
    if node not in can_end or can_end[node] > min(can_end.values()):
        return None
    others = [name for name, room in used.items() if name != node and room.free]
    return min(others, key=lambda name: (used[name].free, name))


class GatheringScheduler(FIFOScheduler):
    """Decides as another scheduler does, and moves trials while `is_over` says that none is left.

    Args:
        base: The other scheduler; None lets every trial finish.
        run: The sweep.
        is_over: Whether no trial is left to hand out.
    """

    def __init__(
        self, base: TrialScheduler | None, run: Run, *, is_over: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._base, self._run, self._is_over = base or FIFOScheduler(), run, is_over
        self._sent = set[tuple[str, str]]()

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Pass it on."""
        self._base.on_trial_add(tune_controller, trial)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Pass it on."""
        self._base.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Pass it on."""
        self._base.on_trial_remove(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Pass it on, and pause a trial that may continue but should move."""
        decision = self._base.on_trial_result(tune_controller, trial, result)
        if decision != TrialScheduler.CONTINUE or not self._is_worth_it(trial, result):
            return decision
        trials = [other for other in tune_controller.get_trials() if not other.is_finished()]
        if any(other.status != Trial.RUNNING for other in trials):  # such as one that moves
            return decision
        nodes = Counter(other.last_result.get(NODE, "") for other in trials if other is not trial)
        nodes[result[NODE]] += 1
        place = place_for(result[NODE], _rooms(self._run.resources, nodes))
        if place is None or (trial.trial_id, place) in self._sent:  # it was full after all
            return decision
        self._sent.add((trial.trial_id, place))
        # Of a node that was lost or has been filled meanwhile, Ray takes another.
        trial.placement_group_factory = PlacementGroupFactory(
            [dict(self._run.resources)], strategy="STRICT_PACK", _soft_target_node_id=place
        )
        return TrialScheduler.PAUSE

    def _is_worth_it(self, trial: Trial, result: Mapping[str, Any]) -> bool:
        """Whether the trial has long enough to go, and no other waits for a place."""
        if NODE not in result or result[IS_LAST] or not self._is_over():
            return False
        begun = new_trial(trial.config["number"], trial.config["params"], self._run.config)
        return (begun.planned - result[EPOCH]) * result["time_this_iter_s"] >= _LEAST_SECONDS


def _rooms(need: Mapping[str, float], ours: Mapping[str, int]) -> dict[str, Room]:
    """Return the room of each live node for trials that need these resources."""
    free_of, rooms = ray_state.available_resources_per_node(), dict[str, Room]()
    for node, total in ray_state.total_resources_per_node().items():
        free = {name: free_of.get(node, {}).get(name, 0) for name in need}
        parts = [  # Ray counts to four digits
            (round((total.get(name, 0) - free[name]) / each, 3), round(free[name] / each, 3))
            for name, each in need.items()
        ]
        rooms[node] = Room(
            held=math.ceil(max(used for used, _ in parts)),
            free=int(min(left for _, left in parts)),
            ours=ours.get(node, 0),
        )
    return rooms
