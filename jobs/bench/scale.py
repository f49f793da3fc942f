"""How the driver's work grows with a cluster: shards, recorded runs, and trials with fake workers.

No model is trained and no Ray runs. The dataset is its manifest alone, workers are calls that
report at once, and the study is in memory. Figures are seconds of the processor, which another
program on the machine does not change.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from optuna.trial import create_trial
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from jobs.bench.measure import Columns, Measurement, publish, shown, table
from raymc.config import Config, override
from raymc.data.feed.order import order_of
from raymc.data.labels import Vocabulary
from raymc.data.shards import Manifest, Modality
from raymc.data.shards.manifest import Shard
from raymc.search.searcher import StudySearcher
from raymc.search.study import distributions, make_sampler
from raymc.search.trials import Trial
from raymc.tracking import list_runs, open_tracker, read_trials
from raymc.training.worker import EPOCH, IS_LAST

SHARD_ROWS, SHARD_BYTES = 512, 9_000_000
WINDOW_ROWS, WINDOW_BYTES, BATCH = 65536, 1 << 30, 512
EPOCHS = 3  # of a fake trial
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
    text = "Seconds of the processor, one round. Growth is the time for ten times as many.\n\n"
    publish("Scale", text + table_of(found), found, console, out)


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


def _study(config: Config) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction="maximize", sampler=make_sampler(config, known=0))


@contextmanager
def trial_drawn(trials: int) -> Iterator[Callable[[], object]]:
    """Yield what draws the settings of one more trial of a study."""
    config = override(Config(), {"search.space": SPACE})
    space, study = distributions(config), _study(config)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    params = (drawn.ask(space).params for _ in range(trials))
    study.add_trials(
        create_trial(params=one, distributions=space, value=1 / (1 + number))
        for number, one in enumerate(params)
    )
    yield partial(study.ask, space)


@contextmanager
def sweep_driven(trials: int) -> Iterator[Callable[[], object]]:
    """Yield what runs a sweep's trials, one after the other, with workers that report at once."""
    config = override(Config(), {"search.space": SPACE, "search.trials": trials})
    ended: list[Trial] = []

    def drive() -> int:
        searcher = StudySearcher(
            _study(config), config, session=Path(folder), scheduler=None, listener=ended.append
        )
        for name in map(str, range(trials)):
            searcher.suggest(name)
            report: dict[str, Any] = {}
            for epoch in range(1, EPOCHS + 1):
                report = {EPOCH: epoch, config.train.monitor: epoch / 10, IS_LAST: epoch == EPOCHS}
                report["checkpoint_dir_name"] = f"checkpoint_{epoch}"
                searcher.on_trial_result(name, report)
            searcher.on_trial_complete(name, report)
        return sum(trial.state == "complete" for trial in ended)

    with TemporaryDirectory() as folder:
        yield drive
