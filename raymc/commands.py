"""What the command line and the jobs do: training, search and use, with display and MLflow.

Top layer: joins the Ray layer with what people see. Each function is one command.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from raymc.bundle import load_bundle, save_bundle
from raymc.cluster import connect
from raymc.config import Config, flatten, run_name, to_dict
from raymc.display import TrainDisplay, TrialsDisplay
from raymc.errors import ResourceError, TrainingError
from raymc.evaluate import Evaluation, evaluate, evaluation_table
from raymc.events import EpochEnded, Event, SweepEvent, TrialEnded, TrialStarted
from raymc.predict import predict
from raymc.runs import open_run
from raymc.search import SweepResult, sweep
from raymc.serving import log_bundle
from raymc.shards import open_dataset
from raymc.study import STATES
from raymc.tables import TrialView, trials_table
from raymc.tracking import (
    Tracker,
    compare_runs,
    list_sweeps,
    open_tracker,
    tracking_uri,
    ui_command,
)
from raymc.train import train

BUNDLE = "bundle"
SHORT_NAMES = {"temperature": "τ", "fusion_depth": "fusion"}


def run_train(config: Config, console: Console) -> Path:
    """Train, keep the best epoch as a bundle, and record the run; returns the bundle's folder."""
    folder = open_run(config)
    bundle = folder / BUNDLE
    if bundle.exists():
        console.print(f"run {folder.name} is finished: its bundle is {bundle}")
        return bundle
    _start_ray(folder, console)
    display = TrainDisplay(console, metric=config.train.monitor)
    with open_tracker(config.tracking, config.run.folder) as tracker:
        run = tracker.start_run(folder.name, key=folder.name, params=flatten(config), tags={})
        tracker.log_json(run, "config.json", to_dict(config))
        with _ending(tracker, run), display:
            result = train(config, listeners=[display.handle, _Recorder(tracker, run)])
        save_bundle(result.checkpoint, bundle)
        tracker.end_run(run, "complete")
        _log_bundle(bundle, tracker, run, config, console)
    console.print(f"bundle: {bundle}", soft_wrap=True)
    return bundle


def run_tune(config: Config, console: Console) -> Path:
    """Search, keep the best trial's best epoch as a bundle, and record all of it."""
    folder = open_run(config, sweep=True)
    _start_ray(folder, console)
    with open_tracker(config.tracking, config.run.folder) as tracker:
        display = TrialsDisplay(console, config.search.trials, metric=config.train.monitor)
        record = _SweepRecorder(config, tracker, display)
        with _ending(tracker, record.parent), display:
            result = sweep(config, listener=record)
        bundle = folder / BUNDLE
        save_bundle(result.checkpoint, bundle)
        views = sweep_views(config, result)
        console.print(trials_table(views, config.train.monitor, width=console.width))
        tracker.set_note(record.parent, sweep_note(config, result))
        best = {f"best/{key[4:]}": x for key, x in _best(result).items() if key[:4] == "val/"}
        tracker.end_run(record.parent, "complete", metrics=best)
        console.print(f"best: trial {result.best.number}, {trial_name(result.best.params)}")
        if result.is_new:
            _log_bundle(bundle, tracker, record.parent, config, console)
    console.print(f"bundle: {bundle}", soft_wrap=True)
    return bundle


def run_evaluate(
    bundle: str,
    dataset: str,
    console: Console,
    *,
    split: str = "test",
    device: str = "auto",
    json_file: Path | None = None,
) -> Evaluation:
    """Measure a bundle on a split; prints a table and, if asked, writes the numbers as JSON."""
    opened = open_dataset(dataset)
    load_bundle(bundle).check_dataset(opened.manifest)
    connect()
    result = evaluate(bundle, opened, split, device=device)
    console.print(evaluation_table(result))
    if json_file is not None:
        json_file.write_text(json.dumps(result.scores.to_dict(), indent=1))
    return result


def run_predict(
    bundle: str,
    dataset: str,
    out: Path,
    console: Console,
    *,
    split: str = "test",
    device: str = "auto",
) -> None:
    """Write a split's scores and labels under `out`."""
    opened = open_dataset(dataset)
    load_bundle(bundle).check_dataset(opened.manifest)
    connect()
    rows = predict(bundle, opened, split, out, device=device)
    console.print(f"predictions of {rows:,} rows: {out}")


def show_runs(sweep: str | None, config: Config, console: Console) -> None:
    """Print the comparison table of a sweep, or the sweeps that MLflow knows."""
    uri = tracking_uri(config.tracking, config.run.folder)
    if sweep is None:
        for found in list_sweeps(uri, config.tracking.experiment):
            console.print(f"{found.name}  ({found.trials} trials)")
        return
    views = compare_runs(uri, config.tracking.experiment, sweep, metric=config.train.monitor)
    console.print(trials_table(views, config.train.monitor, width=console.width))


def run_ui(config: Config, port: int, console: Console) -> None:
    """Serve MLflow's page on the runs, on this machine alone, until it is interrupted."""
    uri = tracking_uri(config.tracking, config.run.folder)
    command = ui_command(uri, port)
    if not command:
        console.print(f"MLflow's page is at {uri}")
        return
    console.print(f"MLflow on http://127.0.0.1:{port} (Ctrl-C ends it)")
    subprocess.run(command, check=False)


def sweep_views(config: Config, result: SweepResult) -> list[TrialView]:
    """Return a finished sweep's trials as tables show them."""
    return [
        TrialView(
            number=trial.number,
            params=trial.params,
            state=STATES[trial.state],
            epoch=max(trial.intermediate_values, default=0),
            epochs=config.train.epochs,
            value=trial.user_attrs.get("best", {}).get(config.train.monitor),
            seconds=trial.user_attrs.get("seconds", 0.0),
            others={"R80": trial.user_attrs.get("best", {}).get("val/R80", float("nan"))},
        )
        for trial in result.study.get_trials(deepcopy=False)
    ]


def sweep_note(config: Config, result: SweepResult) -> str:
    """Return the sweep in a few lines of Markdown, for its page in MLflow."""
    views = sweep_views(config, result)
    states = [view.state for view in views]
    seconds = sum(view.seconds for view in views)
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("complete", "pruned", "failed"))
    best = _best(result)
    return (
        f"**{len(views)} trials** on `{config.data.path}`: {counts}; {seconds / 60:.1f} "
        f"trial minutes in all.\n\n**Best: trial {result.best.number}**, "
        f"`{trial_name(result.best.params)}`, {config.train.monitor} "
        f"{100 * best[config.train.monitor]:.1f} % at epoch {best['epoch']:.0f}.\n"
    )


def trial_name(params: Mapping[str, object]) -> str:
    """Return what tells a trial from others in a line, such as `margin=0.31 τ=0.07 fusion=2`."""
    parts = []
    for path, value in params.items():
        name = path.rpartition(".")[2]
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        parts.append(f"{SHORT_NAMES.get(name, name)}={shown}")
    return " ".join(parts)


class _Recorder:
    """Writes a run's epochs to MLflow as its events come in."""

    def __init__(self, tracker: Tracker, run: str) -> None:
        self._tracker, self._run = tracker, run

    def __call__(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            self._tracker.log_epoch(self._run, event.epoch, event.metrics, is_best=event.is_best)


class _SweepRecorder:
    """Shows a sweep's trials and writes them to MLflow, below one parent run."""

    def __init__(self, config: Config, tracker: Tracker, display: TrialsDisplay) -> None:
        self._config, self._tracker, self._display = config, tracker, display
        self._views: dict[int, TrialView] = {}
        name = run_name(config, sweep=True)
        self.parent = tracker.start_run(name, key=name, params=flatten(config), tags={})
        tracker.log_json(self.parent, "config.json", to_dict(config))

    def __call__(self, event: SweepEvent) -> None:
        number = event.number
        if isinstance(event, TrialStarted):
            self._start(event)
            return
        view, key = self._views[number], self._key(number)
        monitor = self._config.train.monitor
        if isinstance(event, TrialEnded):
            value = event.best.get(monitor)
            self._show(replace(view, state=event.state, value=value, seconds=event.seconds))
            if event.message:
                self._tracker.set_note(key, event.message)
            workers = self._config.train.workers
            cost = {"seconds": event.seconds, "worker_seconds": event.seconds * workers}
            costs = {f"cost/{name}": value for name, value in cost.items()}
            self._tracker.end_run(key, event.state, metrics=costs)
            return
        value = event.metrics[monitor]
        is_best = view.value is None or value > view.value
        best = value if is_best else view.value
        self._show(replace(view, epoch=event.epoch, value=best, seconds=event.seconds))
        self._tracker.log_epoch(key, event.epoch, event.metrics, is_best=is_best)

    def _start(self, event: TrialStarted) -> None:
        self._show(TrialView(event.number, event.params, "running", 0, self._config.train.epochs))
        self._tracker.start_run(
            trial_name(event.params),
            key=self._key(event.number),
            parent=self.parent,
            params=event.params,
            tags={"raymc.trial": str(event.number)},
        )

    def _key(self, number: int) -> str:
        return f"{self.parent}/{number}"

    def _show(self, view: TrialView) -> None:
        self._views[view.number] = view
        self._display.update(view)


@contextmanager
def _ending(tracker: Tracker, run: str) -> Iterator[None]:
    """End a run in MLflow as failed or stopped if what is done inside doesn't succeed."""
    try:
        yield
    except TrainingError:
        tracker.end_run(run, "failed")
        raise
    except BaseException:
        tracker.end_run(run, "stopped")
        raise


def _start_ray(folder: Path, console: Console) -> None:
    log = folder / "ray.log"
    logs = connect(log)
    console.print(f"Ray's messages: {log}", style="dim", soft_wrap=True)
    console.print(f"Ray's processes: {logs}", style="dim", soft_wrap=True)


def _log_bundle(bundle: Path, tracker: Tracker, run: str, config: Config, console: Console) -> None:
    """Log the bundle as a model; if MLflow can't take it, say so, for the bundle is safe."""
    try:
        model = log_bundle(
            bundle,
            tracker.run_id(run),
            uri=tracker.uri,
            register_as=config.tracking.register_as,
            alias=config.tracking.alias,
        )
    except ResourceError as error:
        console.print(f"the bundle is not in MLflow: {error}", style="yellow")
    else:
        console.print(f"MLflow model: {model}", soft_wrap=True)


def _best(result: SweepResult) -> Mapping[str, float]:
    return result.best.user_attrs["best"]
