"""Runs, sweeps and their trials read back from MLflow.

A local database is read with sqlite3: importing MLflow and opening its store take three seconds,
reading takes three milliseconds. Servers and other databases are read through MLflow's client.
"""

import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from raymc.config import SHORTEST_ID
from raymc.errors import ConfigError, ResourceError
from raymc.search.trials import Trial, TrialState
from raymc.tracking.connect import answering, check_reachable, open_client, sqlite_file
from raymc.tracking.records import (
    GPUS_TAG,
    KEY_TAG,
    KIND_TAG,
    PARENT_TAG,
    REASON_TAG,
    STATE_TAG,
    TRIAL_TAG,
    WORKERS_TAG,
    best_name,
    code_of,
    now,
)


@dataclass(frozen=True)
class RecordedRun:
    """A run or a sweep as MLflow has it.

    Attributes:
        key: The run's id; its name where raymc 0.1.0 recorded it.
        name: The run's.
        run_id: MLflow's own id.
        kind: `run` or `sweep`.
        state: Where it stands.
        value: The metric asked for at the best epoch, of the best trial so far in a sweep; None
            before the first epoch.
        started: When it began, in milliseconds since 1970.
        trials: How many a sweep has.
        commit: The beginning of the commit that it ran last, with a + if files differed from it;
            empty if there was none.
        gpu_hours: Hours for which it held GPUs, summed over them and over the trials of a sweep; 0
            without GPUs. A run counts from its start to its end, a stop in between included. None
            where an earlier raymc recorded it.
        worker_hours: The same of workers.
    """

    key: str
    name: str
    run_id: str
    kind: Literal["run", "sweep"]
    state: str
    value: float | None
    started: int
    trials: int
    commit: str = ""
    gpu_hours: float | None = None
    worker_hours: float | None = None

    @property
    def short_id(self) -> str:
        """The beginning of its id, by which it may be asked for."""
        return (self.run_id if self.key == self.name else self.key)[:8]


def list_runs(uri: str, experiment: str = "raymc", *, metric: str = "val/mAP") -> list[RecordedRun]:
    """Return the runs and sweeps of an experiment, newest first.

    Raises:
        ResourceError: MLflow does not answer, or holds no such experiment.
    """
    return _recorded(_all_runs(uri, experiment), metric)


def find_recorded(runs: Sequence[RecordedRun], asked: str) -> list[RecordedRun]:
    """Return the runs that are called so or else whose id begins so, in their order.

    Raises:
        ConfigError: There is none; the message names those there are.
    """
    named = [run for run in runs if asked in (run.name, run.key, run.run_id)]
    if not named and len(asked) >= SHORTEST_ID:
        named = [
            run
            for run in runs
            if run.run_id.startswith(asked) or (run.key != run.name and run.key.startswith(asked))
        ]
    if not named:
        known = ", ".join(dict.fromkeys(run.name for run in runs)) or "none"
        raise ConfigError(f"MLflow has no run or sweep {asked!r}; there are: {known}")
    return named


def read_trials(uri: str, experiment: str, run_id: str, *, metric: str = "val/mAP") -> list[Trial]:
    """Return the trials of a sweep, given by MLflow's id, by number, without their single epochs.

    `Trial.value` is `metric` at the best epoch.

    Raises:
        ResourceError: MLflow does not answer, or holds no such experiment.
    """
    runs = _all_runs(uri, experiment)
    trials = [run for run in reversed(runs) if run.tags.get(PARENT_TAG) == run_id]
    found = [_trial(run, number, metric) for number, run in enumerate(trials)]
    return sorted(found, key=lambda trial: trial.number)


def _recorded(runs: "Sequence[_Run]", metric: str) -> list[RecordedRun]:
    trials, seconds = defaultdict[str, list[Trial]](list), defaultdict[str, float](float)
    for run in runs:
        if PARENT_TAG in run.tags:
            trials[run.tags[PARENT_TAG]].append(_trial(run, 0, metric))
            seconds[run.tags[PARENT_TAG]] += _seconds(run)
    found = []
    for run in runs:
        if KEY_TAG not in run.tags or PARENT_TAG in run.tags:
            continue
        value = run.metrics.get(best_name(metric), run.metrics.get(metric))
        if value is None:
            scores = (trial.score for trial in trials[run.run_id])
            value = max((score for score in scores if not math.isnan(score)), default=None)
        is_sweep = run.tags.get(KIND_TAG) == "sweep" or bool(trials[run.run_id])
        hours = (seconds[run.run_id] if is_sweep else _seconds(run)) / 3600
        found.append(
            RecordedRun(
                key=run.tags[KEY_TAG],
                name=run.name,
                run_id=run.run_id,
                kind="sweep" if is_sweep else "run",
                state=run.tags.get(STATE_TAG, "running"),
                value=value,
                started=run.started,
                trials=len(trials[run.run_id]),
                commit=code_of(run.tags).short,
                gpu_hours=_held(run, GPUS_TAG, hours),
                worker_hours=_held(run, WORKERS_TAG, hours),
            )
        )
    return found


def _held(run: "_Run", tag: str, hours: float) -> float | None:
    return float(run.tags[tag]) * hours if tag in run.tags else None


def _seconds(run: "_Run") -> float:
    """Return for how long a run or trial has trained, so far or in all."""
    # A resumed run keeps the time of its last stop until it ends.
    ended = now() if run.tags.get(STATE_TAG, "running") == "running" else run.ended or run.started
    return run.metrics.get("cost/seconds", (ended - run.started) / 1000)


@dataclass(frozen=True)
class _Run:
    """A run as MLflow's store has it: of each metric the last value, times in milliseconds."""

    run_id: str
    name: str
    started: int
    ended: int | None
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]


def _all_runs(uri: str, experiment: str) -> list[_Run]:
    """Return every run of the experiment, newest first."""
    if uri.startswith("sqlite"):
        check_reachable(uri, create=False)
        with suppress(sqlite3.Error):  # another version's tables
            return _runs_of_file(sqlite_file(uri), experiment)
    client = open_client(uri, create=False)
    with answering(uri):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            raise _unknown(experiment, [one.name for one in client.search_experiments()])
        runs, token = [], None
        while token != "":
            page = client.search_runs(
                [found.experiment_id], order_by=["attributes.start_time DESC"], page_token=token
            )
            runs += [
                _Run(
                    run.info.run_id,
                    run.info.run_name or "",
                    run.info.start_time,
                    run.info.end_time,
                    tags=run.data.tags,
                    params=run.data.params,
                    metrics=run.data.metrics,
                )
                for run in page
            ]
            token = page.token or ""
    return runs


def _runs_of_file(file: Path, experiment: str) -> list[_Run]:
    """Read a local database; raises sqlite3.Error if the tables are not those of MLflow 3."""
    with closing(sqlite3.connect(file)) as database:
        known = dict(database.execute("SELECT name, experiment_id FROM experiments"))
        if experiment not in known:
            raise _unknown(experiment, known)
        wanted = "FROM runs WHERE experiment_id = ? AND lifecycle_stage = 'active'"

        def facts(table: str, value: str) -> dict[str, dict[str, Any]]:
            found = defaultdict[str, dict[str, Any]](dict)
            query = f"SELECT run_uuid, key, {value} FROM {table} WHERE run_uuid IN "
            for run_id, key, one in database.execute(
                f"{query}(SELECT run_uuid {wanted})", (known[experiment],)
            ):
                found[run_id][key] = one
            return found

        tags, params = facts("tags", "value"), facts("params", "value")
        # MLflow stores NaN as 0 and a mark, because not every database has it.
        metrics = facts("latest_metrics", "CASE WHEN is_nan THEN NULL ELSE value END")
        columns = "run_uuid, name, start_time, end_time"
        order = "ORDER BY start_time DESC, run_uuid"
        rows = database.execute(f"SELECT {columns} {wanted} {order}", (known[experiment],))
        return [
            _Run(
                run_id,
                name or "",
                started,
                ended,
                tags=tags[run_id],
                params=params[run_id],
                metrics={k: math.nan if x is None else x for k, x in metrics[run_id].items()},
            )
            for run_id, name, started, ended in rows
        ]


def _unknown(experiment: str, known: Iterable[str]) -> ResourceError:
    return ResourceError(
        f"MLflow has no experiment {experiment!r}; there are: {', '.join(known) or 'none'}"
    )


def _trial(run: _Run, number: int, metric: str) -> Trial:
    """Return a trial; its metrics are those of the best epoch where MLflow has these."""
    metrics = run.metrics
    best = {name: metrics.get(best_name(name), metrics.get(name)) for name in (metric, "val/R80")}
    seconds = ((run.ended or run.started) - run.started) / 1000
    state = run.tags.get(STATE_TAG, "running")
    return Trial(
        number=int(run.tags.get(TRIAL_TAG, number)),
        params=run.params,
        state="waiting" if state == "stopped" else cast(TrialState, state),
        epoch=int(metrics.get("epoch", 0)),
        value=best[metric],
        best={name: value for name, value in best.items() if value is not None},
        seconds=metrics.get("cost/seconds", seconds),
        message=run.tags.get(REASON_TAG, ""),
    )
