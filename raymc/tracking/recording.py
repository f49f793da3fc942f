"""Events of runs and sweeps, written to MLflow as they come in."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from raymc.config import Config, flatten, run_name, to_dict
from raymc.data.shards import Manifest
from raymc.events import EpochEnded, Event, SweepEvent, TrialEnded, TrialEpochEnded, TrialStarted
from raymc.search.trials import TrialView, ranked
from raymc.tracking import Tracker, command_line
from raymc.tracking.notes import plan_note, sweep_note, trial_name, trial_note

# these change no result
_LEFT_OUT = ("data.make", "extract.", "tracking.", "run.", "train.checkpoint_steps")


def recorded_settings(config: Config, *, sweep: bool = False) -> dict[str, object]:
    """Return the settings that tell runs apart; config.json beside them holds the others too.

    Of a sweep without those it searches, which are its trials'.
    """
    left_out = [*_LEFT_OUT, "search.space", *([] if sweep else ["search."])]
    searched = config.search.space if sweep else ()
    return {
        path: value
        for path, value in flatten(config).items()
        if path not in searched and not path.startswith(tuple(left_out))
    }


def log_dataset(tracker: Tracker, run: str, config: Config, manifest: Manifest) -> None:
    """Record which dataset a run trains on."""
    tracker.log_dataset(
        run,
        name=Path(config.data.path).name,
        digest=manifest.digest(),
        source=config.data.path,
        rows={split: manifest.rows(split) for split in manifest.splits},
    )


class RunRecorder:
    """Writes a run's epochs to MLflow as its events come in."""

    def __init__(self, tracker: Tracker, run: str) -> None:
        self._tracker, self._run = tracker, run

    def __call__(self, event: Event) -> None:
        """Record an event, if it is the end of an epoch."""
        if isinstance(event, EpochEnded):
            self._tracker.log_epoch(self._run, event.epoch, event.metrics, is_best=event.is_best)


class SweepRecorder:
    """Writes a sweep's trials to MLflow, below one parent run.

    Args:
        config: the sweep's settings.
        manifest: of the dataset that all trials train on.
        tracker: writes to MLflow.
        show: is called with every trial's record whenever it changes.
    """

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        tracker: Tracker,
        show: Callable[[TrialView], None],
    ) -> None:
        self._config, self._manifest = config, manifest
        self._tracker, self._show_trial = tracker, show
        self._views: dict[int, TrialView] = {}
        name, settings = run_name(config, sweep=True), recorded_settings(config, sweep=True)
        self.parent = tracker.start_run(name, key=name, params=settings, tags={})
        tracker.log_json(self.parent, "config.json", to_dict(config))
        tracker.set_note(self.parent, plan_note(config, command_line()))
        tracker.set_views(self.parent, list(config.search.space), config.train.monitor)
        log_dataset(tracker, self.parent, config, manifest)

    @property
    def views(self) -> list[TrialView]:
        """All trials that were told of, earlier drivers' included."""
        return list(self._views.values())

    def summarise(self) -> None:
        """Write about the finished sweep on its MLflow page."""
        views = self.views
        scored = [view for view in ranked(views) if view.value is not None]
        trials = [self._key(view.number) for view in scored if view.state != "failed"]
        note = sweep_note(self._config, views, command_line())
        self._tracker.set_note(self.parent, note, compare=trials)

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
        key = self._key(event.number)
        self._tracker.start_run(
            trial_name(event.params),
            key=key,
            parent=self.parent,
            params=event.params,
            tags={"raymc.trial": str(event.number)},
            reopen=not event.is_over,
        )
        log_dataset(self._tracker, key, self._config, self._manifest)

    def _epoch(self, event: TrialEpochEnded) -> None:
        monitor = self._config.train.monitor
        view, value = self._views[event.number], event.metrics[monitor]
        is_best = view.value is None or value > view.value
        best = value if is_best else view.value
        self._show(replace(view, epoch=event.epoch, value=best, seconds=event.seconds))
        metrics = {monitor: value, **event.metrics}  # what counts comes first
        self._tracker.log_epoch(self._key(event.number), event.epoch, metrics, is_best=is_best)

    def _end(self, event: TrialEnded) -> None:
        monitor, key = self._config.train.monitor, self._key(event.number)
        view = self._views[event.number]
        view = replace(
            view, state=event.state, value=event.best.get(monitor), seconds=event.seconds
        )
        self._show(view)
        if "val/R80" in event.best:
            view = self._views[event.number] = replace(view, others={"R80": event.best["val/R80"]})
        self._tracker.set_note(key, trial_note(view, monitor, event.message))
        worker_seconds = event.seconds * self._config.train.most_workers
        costs = {"cost/seconds": event.seconds, "cost/worker_seconds": worker_seconds}
        self._tracker.end_run(key, event.state, metrics=costs)

    def _key(self, number: int) -> str:
        return f"{self.parent}/{number}"

    def _show(self, view: TrialView) -> None:
        self._views[view.number] = view
        self._show_trial(view)
