"""Ray's notice that a node is about to go, heard by all workers at the same step. Ray layer."""

import time

import ray.train
import ray.train.collective

SECONDS_BETWEEN_QUESTIONS = 1.0
SECONDS_BETWEEN_CHECKPOINTS = 5.0


class PreemptionWatch:
    """Says after which steps a checkpoint is due because a node is about to go.

    From the notice to the node's end training goes on, and a checkpoint every few seconds keeps
    what it does. Asking Ray is a barrier, so workers ask after the same number of steps, about
    once a second by worker 0's clock.
    """

    def __init__(self) -> None:
        self._steps, self._steps_to_go = 0, 1
        self._asked = time.monotonic()
        self._saved = float("-inf")

    def is_due(self) -> bool:
        """Say whether a checkpoint is due; to be called by all workers after every step."""
        self._steps += 1
        if self._steps < self._steps_to_go:
            return False
        notice = ray.train.get_preemption_info()
        now = time.monotonic()
        seconds_per_step = (now - self._asked) / self._steps
        steps = max(1, round(SECONDS_BETWEEN_QUESTIONS / max(seconds_per_step, 1e-6)))
        is_due = notice is not None and now - self._saved >= SECONDS_BETWEEN_CHECKPOINTS
        steps, is_due = ray.train.collective.broadcast_from_rank_zero((steps, is_due))
        self._steps, self._steps_to_go, self._asked = 0, steps, now
        if is_due:
            self._saved = now
        return is_due
