"""From a run's events to its records: MLflow's, and for sweeps the display's. Top layer."""

from collections.abc import Mapping
from dataclasses import replace

from raymc.config import Config, flatten, run_name, to_dict
from raymc.display import TrialsDisplay
from raymc.events import EpochEnded, Event, SweepEvent, TrialEnded, TrialEpochEnded, TrialStarted
from raymc.tables import TrialView
from raymc.tracking import Tracker

SHORT_NAMES = {"temperature": "τ", "fusion_depth": "fusion"}


def trial_name(params: Mapping[str, object]) -> str:
    """Return what tells a trial from others in a line, such as `margin=0.31 τ=0.07 fusion=2`."""
    parts = []
    for path, value in params.items():
        name = path.rpartition(".")[2]
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        parts.append(f"{SHORT_NAMES.get(name, name)}={shown}")
    return " ".join(parts)


class RunRecorder:
    """Writes a run's epochs to MLflow as its events come in."""

    def __init__(self, tracker: Tracker, run: str) -> None:
        self._tracker, self._run = tracker, run

    def __call__(self, event: Event) -> None:
        """Record an event, if it is the end of an epoch."""
        if isinstance(event, EpochEnded):
            self._tracker.log_epoch(self._run, event.epoch, event.metrics, is_best=event.is_best)


class SweepRecorder:
    """Shows a sweep's trials and writes them to MLflow, below one parent run."""

    def __init__(self, config: Config, tracker: Tracker, display: TrialsDisplay) -> None:
        self._config, self._tracker, self._display = config, tracker, display
        self._views: dict[int, TrialView] = {}
        name = run_name(config, sweep=True)
        self.parent = tracker.start_run(name, key=name, params=flatten(config), tags={})
        tracker.log_json(self.parent, "config.json", to_dict(config))

    def __call__(self, event: SweepEvent) -> None:
        """Show an event and record it."""
        match event:
            case TrialStarted():
                self._start(event)
            case TrialEpochEnded():
                self._epoch(event)
            case TrialEnded():
                self._end(event)

    def _start(self, event: TrialStarted) -> None:
        self._show(TrialView(event.number, event.params, "running", 0, self._config.train.epochs))
        self._tracker.start_run(
            trial_name(event.params),
            key=self._key(event.number),
            parent=self.parent,
            params=event.params,
            tags={"raymc.trial": str(event.number)},
            reopen=not event.is_over,
        )

    def _epoch(self, event: TrialEpochEnded) -> None:
        view, value = self._views[event.number], event.metrics[self._config.train.monitor]
        is_best = view.value is None or value > view.value
        best = value if is_best else view.value
        self._show(replace(view, epoch=event.epoch, value=best, seconds=event.seconds))
        key = self._key(event.number)
        self._tracker.log_epoch(key, event.epoch, event.metrics, is_best=is_best)

    def _end(self, event: TrialEnded) -> None:
        view, value = self._views[event.number], event.best.get(self._config.train.monitor)
        self._show(replace(view, state=event.state, value=value, seconds=event.seconds))
        key = self._key(event.number)
        if event.message:
            self._tracker.set_note(key, event.message)
        worker_seconds = event.seconds * self._config.train.workers
        costs = {"cost/seconds": event.seconds, "cost/worker_seconds": worker_seconds}
        self._tracker.end_run(key, event.state, metrics=costs)

    def _key(self, number: int) -> str:
        return f"{self.parent}/{number}"

    def _show(self, view: TrialView) -> None:
        self._views[view.number] = view
        self._display.update(view)
