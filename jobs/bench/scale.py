"""How the driver's work grows with a cluster: shards, recorded runs, and trials with fake workers.

No model is trained and no Ray runs. The dataset is its manifest alone, and the workers of 64 nodes
are calls that report at once; the study and MLflow are databases on disk, as in a sweep. Figures
are seconds of the processor, which another program on the machine does not change.

A second table is about reading: how much of a dataset workers that stream read, and how even their
shares are, planned for up to 64 of them and measured for two.
"""

import hashlib
import itertools
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.trial import create_trial
from pydantic import Field
from pydantic.dataclasses import dataclass
from ray.tune.schedulers import TrialScheduler
from rich.console import Console

from jobs.bench.measure import Columns, Measurement, publish, shown, table
from jobs.bench.ragged import RaggedRows, write_ragged
from raymc.config import Config, override
from raymc.data.feed.order import lane_sequence, lanes_of, lanes_read, largest_share, order_of
from raymc.data.feed.shared import data_here
from raymc.data.labels import Vocabulary
from raymc.data.shards import Manifest, Modality, open_dataset
from raymc.data.shards.manifest import Shard
from raymc.search.searcher import StudySearcher
from raymc.search.study import distributions, make_sampler, open_study
from raymc.search.sweep import make_scheduler
from raymc.search.trials import Trial
from raymc.tracking import list_runs, open_tracker, read_trials
from raymc.tracking.recording import SweepRecorder
from raymc.training.runs import TRIALS, open_run
from raymc.training.worker import EPOCH, IS_LAST

SHARD_ROWS, SHARD_BYTES = 512, 9_000_000
WINDOW_ROWS, WINDOW_BYTES, BATCH = 65536, 1 << 30, 512
EPOCHS = 9  # of a fake trial that ASHA does not stop
NODES = 64  # each with a trial at a time
WORKERS = (1, 2, 4, 8, 16, 32, 64)
SPACE = {
    "loss.margin": {"low": 0.0, "high": 0.5},
    "loss.temperature": {"low": 0.02, "high": 0.5, "log": True},
    "model.fusion_depth": {"low": 0, "high": 2},
    "optimizer.lr": {"low": 0.0001, "high": 0.01, "log": True},
}


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """The largest sizes; each is also measured at a tenth and a hundredth."""

    shards: int = Field(default=100_000, ge=100, description="Shards of the largest dataset.")
    runs: int = Field(default=10_000, ge=100, description="Runs in the largest MLflow database.")
    trials: int = Field(default=10_000, ge=100, description="Trials of the largest study.")
    fake: int = Field(default=1_000, ge=100, description="Trials of the sweep with fake workers.")
    rows: int = Field(default=8192, ge=64, description="Rows that two workers really read.")


def bench_scale(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Measure each part of the driver's work at N, N / 10 and N / 100."""
    found = [
        *_at_sizes("manifest: written", settings.shards, "shard", manifest_written),
        *_at_sizes("manifest: read", settings.shards, "shard", manifest_read),
        *_at_sizes("manifest: digest", settings.shards, "shard", manifest_digest),
        *_at_sizes("order of an epoch", settings.shards, "shard", epoch_ordered),
        *_at_sizes("raymc runs", settings.runs, "run", runs_listed),
        *_at_sizes("raymc runs NAME", settings.runs, "run", trials_read),
        *_at_sizes("TPE: one more trial", settings.trials, "", trial_drawn),
        *_at_sizes("sweep, fake workers", settings.fake, "trial", sweep_driven),
    ]
    streamed = [*planned(settings.shards), *measured(settings.rows)]
    text = (
        "Seconds of the processor, one round. Growth is the time for ten times as many.\n\n"
        f"{table_of(found)}\n\n"
        "Workers that stream: bytes read by all together and by each, as shares of the dataset; "
        "and how many rows the largest share of a batch has, beside an equal one.\n\n"
        f"{table(STREAMED, streamed)}"
    )
    publish("Scale", text, [*found, *streamed], console, out)


def _at_sizes(
    name: str, most: int, unit: str, prepare: Callable[..., Any]
) -> Iterator[Measurement]:
    """Measure one thing at three sizes; `prepare` yields what is to be timed."""
    for size in (most // 100, most // 10, most):
        measurement = Measurement(name, case={"size": size, "unit": unit})
        with prepare(size) as work:
            began = time.process_time()
            work()
            measurement.add(seconds=time.process_time() - began)
        yield measurement


def table_of(found: list[Measurement]) -> str:
    """Return a row for each thing that was measured at three sizes."""
    groups = {one.name: [m for m in found if m.name == one.name] for one in found}

    def at(measurement: Measurement, which: int) -> float:
        return groups[measurement.name][which].median("seconds")

    columns: Columns = {
        "": lambda m: m.name,
        "N": lambda m: f"{groups[m.name][-1].case['size']:,}",
        "s, N / 100": lambda m: shown("{:.3g}", at(m, 0)),
        "s, N / 10": lambda m: shown("{:.3g}", at(m, 1)),
        "s, N": lambda m: shown("{:.3g}", at(m, 2)),
        "growth": lambda m: shown("× {:.1f}", at(m, 2) / max(at(m, 1), 1e-9)),
    }
    return table(columns, [group[0] for group in groups.values()])


def make_manifest(shards: int) -> Manifest:
    """Return the manifest of a dataset with this many shards."""
    digest = hashlib.sha256(b"").hexdigest()
    files = (f"train/{number:06d}.parquet" for number in range(shards))
    listed = tuple(Shard(file, SHARD_ROWS, SHARD_BYTES, digest) for file in files)
    return Manifest(Vocabulary(("a", "b")), (Modality("visual", 512),), {"train": listed})


@contextmanager
def manifest_written(shards: int) -> Iterator[Callable[[], object]]:
    """Yield what turns a manifest into text."""
    manifest = make_manifest(shards)
    yield lambda: json.dumps(manifest.to_json())


@contextmanager
def manifest_read(shards: int) -> Iterator[Callable[[], object]]:
    """Yield what makes a manifest of its text."""
    text = json.dumps(make_manifest(shards).to_json())
    yield lambda: Manifest.from_json(json.loads(text))


@contextmanager
def manifest_digest(shards: int) -> Iterator[Callable[[], object]]:
    """Yield what computes the dataset's digest."""
    yield make_manifest(shards).digest


@contextmanager
def epoch_ordered(shards: int) -> Iterator[Callable[[], object]]:
    """Yield what shuffles the rows of an epoch, window by window."""
    rows, nbytes = [SHARD_ROWS] * shards, [SHARD_BYTES] * shards

    def order() -> int:
        made = order_of(
            rows,
            nbytes,
            seed=0,
            epoch=1,
            most_rows=WINDOW_ROWS,
            most_bytes=WINDOW_BYTES,
            batch=BATCH,
        )
        return sum(len(window) for _, window in made.rows_of(made.windows))

    yield order


@contextmanager
def _recorded(runs: int) -> Iterator[tuple[str, str, str]]:
    """Yield the address of MLflow's records of a sweep, its experiment, and the sweep's id.

    One trial is recorded as raymc records it; the others are copies of it in the database.
    """
    tracking = Config().tracking
    with TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        with open_tracker(override(Config(), {"tracking.uri": uri}).tracking, folder) as tracker:
            tracker.start_run("sweep", key="sweep", params={}, tags={"raymc.kind": "sweep"})
            params = dict.fromkeys(SPACE, 0.1)
            tracker.start_run("0", key="0", parent="sweep", params=params, tags={})
            tracker.log_epoch("0", 1, {"val/mAP": 0.5, "train/loss": 1.0}, is_best=True)
            tracker.end_run("0", "complete", metrics={"cost/seconds": 90.0})
        sweep, trial = tracker.run_id("sweep"), tracker.run_id("0")
        with closing(sqlite3.connect(f"{folder}/mlflow.db")) as database:
            for name in ("runs", "tags", "params", "latest_metrics"):
                columns = [column[1] for column in database.execute(f"PRAGMA table_info({name})")]
                place = columns.index("run_uuid")
                query = f"SELECT * FROM {name} WHERE run_uuid = ?"
                kept = database.execute(query, (trial,)).fetchall()
                copies = (
                    (*row[:place], f"{number:032x}", *row[place + 1 :])
                    for number in range(2, runs)
                    for row in kept
                )
                marks = ",".join("?" * len(columns))
                database.executemany(f"INSERT INTO {name} VALUES ({marks})", copies)
            database.commit()
        yield uri, tracking.experiment, sweep


@contextmanager
def runs_listed(runs: int) -> Iterator[Callable[[], object]]:
    """Yield what lists the runs that MLflow has."""
    with _recorded(runs) as (uri, experiment, _):
        yield partial(list_runs, uri, experiment)


@contextmanager
def trials_read(runs: int) -> Iterator[Callable[[], object]]:
    """Yield what reads the trials of a sweep from MLflow."""
    with _recorded(runs) as (uri, experiment, sweep):
        yield partial(read_trials, uri, experiment, sweep)


@contextmanager
def trial_drawn(trials: int) -> Iterator[Callable[[], object]]:
    """Yield what draws the settings of one more trial of a study."""
    config = override(Config(), {"search.space": SPACE})
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, sampler = distributions(config), make_sampler(config, known=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    params = (drawn.ask(space).params for _ in range(trials))
    study.add_trials(
        create_trial(params=one, distributions=space, value=1 / (1 + number))
        for number, one in enumerate(params)
    )
    yield partial(study.ask, space)


@contextmanager
def sweep_driven(trials: int) -> Iterator[Callable[[], object]]:
    """Yield what runs a sweep's trials with ASHA, one on each of 64 nodes, and records them."""
    with TemporaryDirectory() as folder:
        given = {"search.trials": trials, "train.epochs": EPOCHS, "run.folder": folder}
        config = override(Config(), {"search.space": SPACE, "run.name": "fake", **given})
        run, ended = open_run(config, sweep=True), list[Trial]()

        def listen(trial: Trial) -> None:
            record(trial)
            ended.extend([trial] if trial.is_over else [])

        with open_tracker(config.tracking, folder, folder=run.folder) as tracker:
            record = SweepRecorder(run, make_manifest(1), tracker, lambda trial: None)
            scheduler = make_scheduler(config)
            assert scheduler is not None
            searcher = StudySearcher(
                open_study(run),
                config,
                session=run.folder / TRIALS,
                scheduler=scheduler,
                listener=listen,
            )

            def drive() -> int:
                _drive(searcher, scheduler, config)
                tracker.wait()
                return sum(trial.state in ("complete", "pruned") for trial in ended)

            yield drive


def _drive(searcher: StudySearcher, scheduler: Any, config: Config) -> None:
    """Call searcher and scheduler as Tune does, with the reports of trials that take no time."""
    tune: Any = None  # what a scheduler may ask for more, and ASHA does not
    running: dict[str, SimpleNamespace] = {}
    names = map(str, itertools.count())
    while True:
        while len(running) < NODES and isinstance(
            given := searcher.suggest(n := next(names)), dict
        ):
            quality = np.random.default_rng(given["number"]).uniform()
            running[n] = SimpleNamespace(trial_id=n, epoch=0, quality=quality)
            scheduler.on_trial_add(tune, running[n])
        if not running:
            return
        for name, trial in list(running.items()):
            trial.epoch += 1
            is_last = trial.epoch == config.train.epochs
            value = trial.quality * (1 - 0.8**trial.epoch)
            report = {EPOCH: trial.epoch, config.train.monitor: value, IS_LAST: is_last}
            report["checkpoint_dir_name"] = f"checkpoint_{trial.epoch}"
            searcher.on_trial_result(name, report)
            decision = scheduler.on_trial_result(tune, trial, report)
            if is_last or decision == TrialScheduler.STOP:
                scheduler.on_trial_complete(tune, trial, report)
                searcher.on_trial_complete(name, report)
                del running[name]


STREAMED: Columns = {
    "": lambda m: m.name,
    "workers": lambda m: str(m.case["workers"]),
    "batch": lambda m: f"{m.case['batch']:,}",
    "lanes": lambda m: str(m.case["lanes"]),
    "read by all": lambda m: shown("{:.2f}", m.median("all")),
    "read by each": lambda m: shown("{:.3f}", m.median("each")),
    "largest share": lambda m: shown("× {:.3f}", m.median("largest")),
}


def planned(shards: int) -> Iterator[Measurement]:
    """Work out what workers read of a dataset of equal shards, 64 rows of each batch for each."""
    rows, nbytes = [SHARD_ROWS] * shards, [SHARD_BYTES] * shards
    limits = {"most_rows": WINDOW_ROWS, "most_bytes": WINDOW_BYTES}
    for workers in WORKERS:
        batch = 64 * workers
        order = order_of(rows, nbytes, seed=0, epoch=1, **limits, batch=batch)
        case = {"workers": workers, "batch": batch, "lanes": len(order.lane_rows)}
        measurement = Measurement(f"planned, {shards:,} shards", case=case)
        read = [lanes_read(order.lane_rows, rank, workers) for rank in range(workers)]
        parts = [
            1.0 if one is None else order.lane_rows[one].sum() / order.lane_rows.sum()
            for one in read
        ]
        of = next(lane_sequence(order.lane_rows))
        counts = [
            np.bincount(of[at : at + batch], minlength=len(order.lane_rows))
            for at in range(0, len(of) - batch + 1, batch)
        ]
        largest = [largest_share(one, workers) * workers / batch for one in counts]
        measurement.add(all=sum(parts), each=max(parts), largest=float(np.mean(largest)))
        yield measurement


def measured(rows: int) -> Iterator[Measurement]:
    """Read an epoch with two workers' feeds, in one window and in windows of a sixteenth."""
    with TemporaryDirectory() as folder:
        clips = RaggedRows(rows, [Modality("visual", 256)], ["a", "b", "c", "d"], (8, 32))
        write_ragged(Path(folder), {"train": clips, "val": clips}, shard_rows=-(-rows // 128))
        dataset = open_dataset(folder)
        size = sum(shard.bytes for shard in dataset.split("train"))
        for name, window in (("measured, one window", rows), ("measured, 16 windows", rows // 16)):
            given = {"data.path": folder, "data.cache": "off", "batch.window_rows": window}
            config = override(Config(), {**given, "batch.size": 64})
            data, workers = data_here(dataset, config), 2
            parts, steps = [], []
            for rank in range(workers):
                feed = data.train.feed(config, share=(rank, workers))
                before = _bytes_read()
                steps.append([len(batch.rows) for batch in feed.training(1)])
                parts.append((_bytes_read() - before) / size)
            shards = dataset.split("train")
            lanes = lanes_of(
                [shard.rows for shard in shards],
                [shard.bytes for shard in shards],
                most_rows=window,
                most_bytes=config.batch.window_mb << 20,
                batch=config.batch.size,
            )
            case = {"workers": workers, "batch": config.batch.size, "lanes": lanes}
            measurement = Measurement(name, case=case)
            largest = np.mean(steps) * workers * len(steps[0]) / rows
            measurement.add(all=sum(parts), each=max(parts), largest=float(largest))
            yield measurement


def _bytes_read() -> int:
    """Return how many bytes this process has read from files, as Linux counts them."""
    return int(Path("/proc/self/io").read_text().split()[1])
