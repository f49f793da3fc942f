"""Turns the events of a run, and the trials of a sweep, into records for MLflow."""

import math
from collections.abc import Callable
from pathlib import Path

from raymc.config import Config, flatten, to_dict
from raymc.data.shards import Manifest
from raymc.events import EpochEnded, Event
from raymc.search.trials import Trial, ranked
from raymc.tracking import Tracker, command_line
from raymc.tracking.notes import plan_note, sweep_note, trial_name, trial_note
from raymc.tracking.records import GPUS_TAG, KIND_TAG, TRIAL_TAG, WORKERS_TAG
from raymc.training.runs import Run

# These don't change results.
_LEFT_OUT = ("data.make", "extract.", "tracking.", "run.", "train.checkpoint_steps")


def recorded_settings(config: Config, *, sweep: bool = False) -> dict[str, object]:
    """Return the settings in which runs may differ; config.json beside them holds all.

    For a sweep, searched settings are left out, because they are its trials' params.
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


def held(run: Run) -> dict[str, str]:
    """Return what a run, or each trial of a sweep, holds while it trains, as tags."""
    workers = run.config.train.most_workers
    return {WORKERS_TAG: str(workers), GPUS_TAG: f"{workers * run.gpus:g}"}


class RunRecorder:
    """Records a run: its settings and dataset at once, its epochs as they end."""

    def __init__(self, run: Run, manifest: Manifest, tracker: Tracker) -> None:
        self._tracker = tracker
        params = recorded_settings(run.config)
        tags = {KIND_TAG: "run", **held(run)}
        self.key = tracker.start_run(run.name, key=run.id, params=params, tags=tags)
        tracker.log_json(self.key, "config.json", to_dict(run.config))
        log_dataset(tracker, self.key, run.config, manifest)

    def __call__(self, event: Event) -> None:
        """Record an event if an epoch has ended."""
        if isinstance(event, EpochEnded):
            self._tracker.log_epoch(self.key, event.epoch, event.metrics, is_best=event.is_best)


class SweepRecorder:
    """Records a sweep as a parent run, and its trials as child runs.

    `show` is called with a trial whenever it changes.
    """

    def __init__(
        self, run: Run, manifest: Manifest, tracker: Tracker, show: Callable[[Trial], None]
    ) -> None:
        config = self._config = run.config
        self._manifest = manifest
        self._tracker, self._show = tracker, show
        self._trials: dict[int, Trial] = {}
        settings = recorded_settings(config, sweep=True)
        tags = {KIND_TAG: "sweep", **held(run)}
        self.parent = tracker.start_run(run.name, key=run.id, params=settings, tags=tags)
        tracker.log_json(self.parent, "config.json", to_dict(config))
        tracker.set_note(self.parent, plan_note(config, command_line()))
        tracker.set_views(self.parent, list(config.search.space), config.train.monitor)
        log_dataset(tracker, self.parent, config, manifest)

    @property
    def trials(self) -> list[Trial]:
        """All trials of the sweep, those of earlier drivers included."""
        return list(self._trials.values())

    def summarise(self) -> None:
        """Describe the finished sweep on its MLflow page."""
        compared = [self._key(one) for one in ranked(self.trials) if not math.isnan(one.score)]
        note = sweep_note(self._config, self.trials, command_line())
        self._tracker.set_note(self.parent, note, compare=compared)

    def __call__(self, trial: Trial) -> None:
        """Show a trial, and record what is new about it."""
        before = self._trials.get(trial.number)
        self._trials[trial.number] = trial
        self._show(trial)
        if before is None:
            self._start(trial)
        self._log_epochs(trial, after=before.epoch if before else 0)
        if trial.is_over:
            self._end(trial)

    def _start(self, trial: Trial) -> None:
        key = self._key(trial)
        self._tracker.start_run(
            trial_name(trial.params),
            key=key,
            parent=self.parent,
            params=trial.params,
            tags={TRIAL_TAG: str(trial.number)},
            reopen=not trial.is_over,
        )
        log_dataset(self._tracker, key, self._config, self._manifest)

    def _log_epochs(self, trial: Trial, *, after: int) -> None:
        best = -math.inf
        for epoch in trial.epochs:
            is_best = epoch.value > best
            best = epoch.value if is_best else best
            if epoch.number > after:
                # MLflow's plots begin with the first metric, so the monitored one comes first.
                metrics = {self._config.train.monitor: epoch.value, **epoch.metrics}
                self._tracker.log_epoch(self._key(trial), epoch.number, metrics, is_best=is_best)

    def _end(self, trial: Trial) -> None:
        assert trial.state in ("complete", "pruned", "failed")
        key = self._key(trial)
        self._tracker.set_note(key, trial_note(trial, self._config.train.monitor))
        worker_seconds = trial.seconds * self._config.train.most_workers
        costs = {"cost/seconds": trial.seconds, "cost/worker_seconds": worker_seconds}
        self._tracker.end_run(key, trial.state, metrics=costs, reason=trial.message)

    def _key(self, trial: Trial) -> str:
        return f"{self.parent}/{trial.number}"
