"""What `raymc train`, `tune` and `report` do; `main.py` has their options.

Each function joins the work with its display and its record in MLflow. Ray, Optuna and the report
take seconds to import, so a function imports what it alone needs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from raymc.cli.display import CountDisplay, TrainDisplay, TrialsDisplay
from raymc.cli.options import print_next, program
from raymc.cli.tables import failure_lines, trials_table
from raymc.config import (
    Config,
    Preset,
    Shape,
    check_space,
    override,
    preset_line,
    run_name,
)
from raymc.data.info import rows_line, training_lines
from raymc.data.shards import Dataset, open_dataset
from raymc.data.splits import SPLITS, split_dataset
from raymc.data.survey import Survey, measure, survey
from raymc.errors import ConfigError, DataError, ResourceError, TrainingError, first_line
from raymc.evaluation.outcomes import label_outcomes, outcome_lines
from raymc.evaluation.scoring import stored_scores
from raymc.events import Listener
from raymc.formats.prepare import prepare_dataset
from raymc.runtime.interruption import stop_if_interrupted
from raymc.search.trials import Trial
from raymc.terminal import print_line
from raymc.tracking import Tracker, count_left, list_runs, open_tracker, tracking_uri
from raymc.tracking.models import log_bundle
from raymc.tracking.notes import trial_name
from raymc.tracking.recording import RunRecorder, SweepRecorder
from raymc.tracking.records import fit_key
from raymc.training import here
from raymc.training.audit import AttemptRecorder
from raymc.training.bundle import load_bundle, save_bundle
from raymc.training.runs import BUNDLE, Run, open_run, original_of

REPORT = "report.html"


def run_train(config: Config, console: Console, preset: Preset | None = None) -> Path:
    """Train, keep the best epoch as a bundle, and record the run; returns the bundle's folder.

    `preset` chooses the settings that were not given; None keeps all as they are. If an earlier
    command was interrupted after training, only the rest is done.
    """
    dataset = _open_data(config, console)
    if run := _finished(config, dataset, preset):
        bundle = run.folder / BUNDLE
        print_line(console, f"run {run.name} is finished: its bundle is {bundle}")
        return bundle
    known = survey(dataset, config.data)
    dataset = known.dataset
    config, lines = _fitted(config, known.shape, preset, sweep=False)
    run = open_run(config, dataset=dataset.manifest.digest())
    bundle = run.folder / BUNDLE
    _describe(known, config.data.train, console, lines)
    run, train = (run, None) if bundle.exists() else _trainer(run, dataset, console)
    run.begin()
    with open_tracker(config.tracking, config.run.folder, folder=run.folder) as tracker:
        record = RunRecorder(run, dataset.manifest, tracker)
        with _ending(tracker, record.key):
            if train is not None:
                with TrainDisplay(console, metric=config.train.monitor) as display:
                    listeners = [AttemptRecorder(run.folder), display.handle, record]
                    checkpoint = train(run, dataset, listeners=listeners)
                save_bundle(checkpoint, bundle, clip_seconds=known.clip_seconds)
            is_logged = _log_bundle(bundle, tracker, record.key, config, console)
        tracker.end_run(record.key, "complete")
    run.end(is_recorded=is_logged and not count_left(run.folder))
    _conclude(run, dataset, bundle, console)
    return bundle


def run_tune(config: Config, console: Console, preset: Preset | None = None) -> Path:
    """Search, keep the best trial's best epoch as a bundle, and record all of it.

    `preset` chooses the settings that are neither given nor searched; None keeps all as they are.
    """
    check_space(config)
    from raymc.runtime.gauges import Gauges
    from raymc.search.study import outside_space
    from raymc.search.sweep import sweep

    known = survey(_open_data(config, console), config.data)
    dataset = known.dataset
    config, lines = _fitted(config, known.shape, preset, sweep=True)
    if config.search.try_default and (outside := outside_space(config)):
        listed = ", ".join(f"{path}={value}" for path, value in outside.items())
        lines.append(f"the settings themselves are not tried first: {listed} is not searched")
    run = open_run(config, sweep=True, dataset=dataset.manifest.digest())
    _describe(known, config.data.train, console, lines)
    run = _start_ray(run, console)
    with open_tracker(config.tracking, config.run.folder, folder=run.folder) as tracker:
        search, metric = config.search, config.train.monitor
        display = TrialsDisplay(console, search.trials, hours=search.hours, metric=metric)
        gauges = Gauges(run.name, workers=config.train.most_workers, gpus=run.gpus)

        def show(trial: Trial) -> None:
            display.update(trial)
            gauges.trial(trial.number, trial.state, trial.seconds)

        record = SweepRecorder(run, dataset.manifest, tracker, show)
        with _ending(tracker, record.parent):
            with display:
                best = sweep(run, dataset, listener=record)
            is_logged = run.is_finished
            if not is_logged:
                run.begin()
            bundle = run.folder / BUNDLE
            save_bundle(Path(best.checkpoint), bundle, clip_seconds=known.clip_seconds)
            console.print(trials_table(record.trials, metric, width=console.width))
            for line in failure_lines(record.trials):
                print_line(console, line, "yellow")
            if (begun := len(record.trials)) < search.trials:
                over = f"search.hours={search.hours:g} were over"
                print_line(console, f"{over} after {begun} of {search.trials} trials had started")
            record.summarise()
            print_line(console, f"best: trial {best.number}, {trial_name(best.params)}")
            if not is_logged:
                is_logged = _log_bundle(bundle, tracker, record.parent, config, console)
                _add_report(run, tracker, record.parent, console)
        metrics = {f"best/{key[4:]}": x for key, x in best.best.items() if key[:4] == "val/"}
        tracker.end_run(record.parent, "complete", metrics=metrics)
    run.end(is_recorded=is_logged and not count_left(run.folder))
    _conclude(run, dataset, bundle, console)
    return bundle


def run_report(
    run: Run,
    console: Console,
    *,
    out: Path | None = None,
    split: str | None = None,
    price: float | None = None,
) -> Path:
    """Write a sweep's report, by default to its folder, and add it to its run in MLflow."""
    from raymc.report.build import build_report, save_report

    config = run.config
    with CountDisplay(console, "rows") as display:
        page = build_report(run, split=split, price=price, on_rows=display.count)
    path = run.folder / REPORT if out is None else out
    save_report(page, path)
    print_line(console, f"report: {path}")
    try:
        uri = tracking_uri(config.tracking, config.run.folder)
        if original := original_of(run.folder):
            raise ConfigError(f"{run.folder} is a copy of {original}, whose report stays there")
        known = list_runs(uri, config.tracking.experiment)
        if fit_key(run.id) not in {recorded.key for recorded in known}:
            raise ResourceError(f"{uri} has no sweep {run.name!r} with the id {run.id}")
        with open_tracker(config.tracking, config.run.folder) as tracker:
            key = tracker.start_run(run.name, key=run.id, params={}, tags={}, reopen=False)
            tracker.log_text(key, REPORT, page)
    except (ConfigError, ResourceError) as error:
        print_line(console, f"the report is not in MLflow: {error}", "yellow")
    return path


@contextmanager
def _ending(tracker: Tracker, run: str) -> Iterator[None]:
    """End a run in MLflow as failed or stopped if the block raises."""
    try:
        yield
        stop_if_interrupted()
    except TrainingError:
        tracker.end_run(run, "failed")
        raise
    except BaseException:
        tracker.end_run(run, "stopped")
        raise


def _open_data(config: Config, console: Console) -> Dataset:
    """Open the dataset, making it if needed, and its splits if it has only one.

    `survey` then reads all that is needed of it besides batches, before the run has a folder or
    processes: what was trained for hours should not need it again to be kept.
    """
    with CountDisplay(console, "rows") as display:
        dataset = prepare_dataset(config, on_row=display.count)
    names = (config.data.train, config.data.val, config.data.test)
    manifest = dataset.manifest
    if not manifest.vocabulary.names:
        raise DataError(
            f"{config.data.path} has no labels, so there is nothing to learn: make a dataset of a "
            f"table that names them, with {program()} extract TABLE --out FOLDER"
        )
    if names == SPLITS and sum(manifest.rows(split) > 0 for split in manifest.splits) == 1:
        manifest = split_dataset(config.data.path)
        line = rows_line(manifest, config.data.path)
        print_line(console, f"{line}; it had one split, so these were drawn by video (seed 0)")
        dataset = open_dataset(config.data.path)
    return dataset


def _finished(config: Config, dataset: Dataset, preset: Preset | None) -> Run | None:
    """Return the run if its command has come to its end, for which little of the data is read."""
    folder, name = Path(config.run.folder), config.run.name
    bundles = [folder / name / BUNDLE] if name else folder.glob(f"*/{BUNDLE}")
    if not any(bundle.exists() for bundle in bundles):
        return None
    if preset is not None:
        config, _ = _fitted(config, measure(dataset, config.data), preset, sweep=False)
    if not (folder / run_name(config) / BUNDLE).exists():
        return None
    run = open_run(config, dataset=dataset.manifest.digest())
    return run if run.is_finished else None


def _fitted(
    config: Config, shape: Shape, preset: Preset | None, *, sweep: bool
) -> tuple[Config, list[str]]:
    """Choose the settings that were neither given nor are searched; also returns what to say.

    In the default space, `model.fusion_depth` ends at the chosen depth.
    """
    if preset is None:
        return config, []
    depth, space = "model.fusion_depth", config.search.space if sweep else {}
    is_own = any(key.startswith("search.space") for key in preset.given)
    needed = [config.model.fusion_depth] if depth in preset.given else []
    needed += [int(end) for end in space[depth].ends()] if is_own and depth in space else []
    open_ = replace(preset, given=frozenset({*preset.given, *space}))
    chosen = open_.settings(shape, least_depth=max(needed, default=0))
    lines = [preset_line(chosen, shape)] if chosen else []
    if space and not is_own and "model.depth" in chosen:
        chosen[f"search.space.{depth}"] = {"low": 0, "high": chosen["model.depth"]}
    return override(config, chosen), lines


def _describe(known: Survey, split: str, console: Console, more: Sequence[str]) -> None:
    """Say what there is to train on and `more`, and warn of clips that several splits share."""
    for line in (*training_lines(known.dataset, split), *more):
        print_line(console, line)
    for leak in known.leaks:
        print_line(console, leak, "yellow")


def _trainer(run: Run, dataset: Dataset, console: Console) -> tuple[Run, Callable[..., Path]]:
    """Return the run with its resources, and what trains it: this process or, if need be, Ray."""
    if here.is_enough(run, dataset):
        return here.equip(run), here.train
    run = _start_ray(run, console)
    from raymc.runtime.gauges import Gauges
    from raymc.training import on_ray

    gauges = Gauges(run.name, workers=run.config.train.most_workers, gpus=run.gpus)

    def train(run: Run, dataset: Dataset, *, listeners: Sequence[Listener]) -> Path:
        return on_ray.train(run, dataset, listeners=[*listeners, gauges])

    return run, train


def _start_ray(run: Run, console: Console) -> Run:
    """Start or join Ray; returns the run with its resources."""
    from raymc.runtime.connect import connect, expect_nodes
    from raymc.training.on_ray import equip

    log = run.folder / "ray.log"
    print_line(console, "starting Ray, which takes some seconds", "dim")
    logs = connect(log)
    print_line(console, f"Ray's messages: {log}", "dim")
    print_line(console, f"Ray's processes: {logs}", "dim")
    run = equip(run)
    if wait := expect_nodes(run.config, run.resources):
        print_line(console, wait)
    return run


def _conclude(run: Run, dataset: Dataset, bundle: Path, console: Console) -> None:
    """Say what the model can do, and how to go on."""
    loaded, val = load_bundle(bundle), run.config.data.val
    outcomes = label_outcomes(loaded, stored_scores(loaded, dataset, val))
    for line in outcome_lines(outcomes, val):
        print_line(console, line)
    print_line(console, f"bundle: {bundle}")
    if dataset.manifest.rows(test := run.config.data.test):
        here = Path.cwd()
        folder = run.folder.relative_to(here) if run.folder.is_relative_to(here) else run.folder
        split = ["--split", test] if test != "test" else []
        print_next(console, "measure it on clips it has not seen", "evaluate", str(folder), *split)


def _log_bundle(bundle: Path, tracker: Tracker, run: str, config: Config, console: Console) -> bool:
    """Log the bundle as a model; returns whether MLflow has it.

    If MLflow can't take it, only warn: the bundle is on disk.
    """
    stop_if_interrupted()
    try:
        tracker.wait()
        model = log_bundle(
            bundle,
            tracker.run_id(run),
            uri=tracker.uri,
            register_as=config.tracking.register_as,
            alias=config.tracking.alias,
        )
    except ResourceError as error:
        print_line(console, f"the bundle is not in MLflow: {error}", "yellow")
        hint = f"to add it later, run `raymc replay {bundle.parent}`"
        print_line(console, hint, "yellow")
        return False
    print_line(console, f"MLflow model: {model}")
    return True


def _add_report(run: Run, tracker: Tracker, key: str, console: Console) -> None:
    """Write the report of a sweep whose bundle is on disk; if that fails, only warn."""
    from raymc.report.build import build_report, save_report

    try:
        with CountDisplay(console, "rows") as display:
            page = build_report(run, on_rows=display.count)
        save_report(page, run.folder / REPORT)
    except Exception as error:  # no error here may fail a finished sweep
        line = first_line(error)
        print_line(console, f"no report could be made: {line}", "yellow")
    else:
        tracker.log_text(key, REPORT, page)
        print_line(console, f"report: {run.folder / REPORT}")
