"""On Ray: what a run or sweep reports to Ray's metrics, for Prometheus and Grafana.

Ray serves them on every node under names that begin with `ray_`, such as
`ray_raymc_samples_per_second`; `cluster/grafana.json` shows them. Where a run trains without Ray,
there is nobody to report to.
"""

from collections import Counter
from collections.abc import Mapping

import ray
from ray.util.metrics import Gauge

from raymc.events import EpochEnded, Event, Stepped

# Names and what they mean; all have the tag `run`.
GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "raymc_samples_per_second": ("Rows that a run trains on, per second.", ()),
    "raymc_waiting_share": ("Share of the last epoch's training spent waiting for batches.", ()),
    "raymc_epoch": ("Epochs that are finished.", ()),
    "raymc_validation": ("Metric of the last epoch on the validation split.", ("metric",)),
    "raymc_trials": ("Trials of a sweep by state.", ("state",)),
    "raymc_worker_hours": ("Hours for which the trials of a sweep have held workers.", ()),
    "raymc_gpu_hours": ("Hours for which the trials of a sweep have held GPUs.", ()),
}
_STATES = ("running", "complete", "pruned", "failed")


class Gauges:
    """Reports a run, or the trials of a sweep.

    Args:
        run: Name of the run.
        workers: Workers of the run, or of each trial.
        gpus: GPUs of each worker.
    """

    def __init__(self, run: str, *, workers: int, gpus: float) -> None:
        self._tags, self._workers, self._gpus = {"run": run}, workers, workers * gpus
        self._trials: dict[int, tuple[str, float]] = {}
        self._counts, self._seconds = Counter[str](), 0.0
        self._gauges: dict[str, Gauge] = {}

    def __call__(self, event: Event) -> None:
        """Report how a run goes."""
        if isinstance(event, Stepped):
            self._set("raymc_samples_per_second", event.samples_per_second)
        elif isinstance(event, EpochEnded):
            self._set("raymc_epoch", float(event.epoch))
            self._set("raymc_waiting_share", event.metrics.get("train/waiting", 0.0))
            for name, value in event.metrics.items():
                if name.startswith("val/"):
                    self._set("raymc_validation", value, metric=name)

    def trial(self, number: int, state: str, seconds: float) -> None:
        """Report a trial that has changed: its state, and for how long it has run."""
        before, seconds_before = self._trials.get(number, ("", 0.0))
        self._trials[number] = (state, seconds)
        self._counts[before] -= 1
        self._counts[state] += 1
        self._seconds += seconds - seconds_before
        for each in _STATES:
            self._set("raymc_trials", float(self._counts[each]), state=each)
        self._set("raymc_worker_hours", self._seconds / 3600 * self._workers)
        self._set("raymc_gpu_hours", self._seconds / 3600 * self._gpus)

    def _set(self, name: str, value: float, **tags: str) -> None:
        if not ray.is_initialized():
            return
        if name not in self._gauges:
            description, keys = GAUGES[name]
            self._gauges[name] = Gauge(name, description=description, tag_keys=("run", *keys))
        self._gauges[name].set(value, tags={**self._tags, **tags})
