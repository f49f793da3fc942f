"""What is recorded of runs and trials, and how MLflow stores it.

One process of a run holds the one `Tracker`. Each of its methods makes a record, which the
writer's thread hands to the method of `_MlflowRuns` of the same name.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raymc.addresses import keep_password, redacted, without_password
from raymc.config import TrackingConfig
from raymc.errors import ResourceError
from raymc.tracking.connect import open_client, open_experiment, tracking_uri
from raymc.tracking.notes import comparison, sweep_page_tags
from raymc.tracking.records import (
    KEY_TAG,
    NOTE_TAG,
    PARAM_LENGTH,
    PARENT_TAG,
    REASON_TAG,
    STATE_TAG,
    TAG_LENGTH,
    best_name,
    fit_key,
    fit_name,
    fit_names,
    fit_text,
    make_metrics,
    now,
    source_tags,
)
from raymc.tracking.writer import Record, Spool, Writer

if TYPE_CHECKING:
    import mlflow.entities


EndState = Literal["complete", "pruned", "failed", "stopped"]
_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "stopped": "KILLED"}
_METRICS_PER_CALL, _PARAMS_PER_CALL = 1000, 100
_SECONDS_TO_CLOSE = 30.0
_SECONDS_IF_INTERRUPTED = 5.0  # the next command sends what is left
_METHODS = {"start_run", "log_epoch", "end_run", "log_text", "log_dataset", "set_views", "set_note"}


def open_tracker(
    config: TrackingConfig, runs_folder: str, *, folder: Path | None = None
) -> "Tracker":
    """Connect to MLflow, and make the experiment if it doesn't exist.

    `runs_folder` holds MLflow's database if no address is set. Records that MLflow doesn't take in
    time are left in `folder`, the run's, and are the first to be written when the tracker is
    opened again. With None, they are lost.

    Raises:
        ConfigError: MLflow can't write to an address of this kind.
        ResourceError: The server or database does not answer, the experiment was deleted, or
            another process records the same run.
    """
    uri = tracking_uri(config, runs_folder)
    client = open_client(uri, create=True)
    experiment = open_experiment(client, config.experiment, runs_folder)
    return Tracker(client, experiment, spool=Spool(folder) if folder else None)


class Tracker:
    """Records runs. Every method but `close`, `wait` and `run_id` returns at once.

    Runs are known by their key, because MLflow may not have given them an id yet. Records that
    can't be written are retried until `close`, and then left to `raymc replay`.
    """

    def __init__(
        self, client: "mlflow.MlflowClient", experiment_id: str, *, spool: Spool | None = None
    ) -> None:
        self.uri = keep_password(client.tracking_uri)
        self.experiment_id = experiment_id
        self._runs = _MlflowRuns(client, experiment_id)
        self._writer = Writer(self.uri, self._runs.write, spool)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        is_interrupted = kind is not None and not issubclass(kind, Exception)
        self.close(_SECONDS_IF_INTERRUPTED if is_interrupted else _SECONDS_TO_CLOSE)

    def start_run(
        self,
        name: str,
        *,
        key: str,
        parent: str | None = None,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        reopen: bool = True,
    ) -> str:
        """Open the experiment's run of this key: the existing one, or a new one.

        Where a sweep's process died, the trials that it left open end as stopped. They are opened
        again when they resume.

        Args:
            name: Shown on MLflow's pages.
            key: Identity of the run across restarts, unique in the experiment.
            parent: Key of the sweep that the run is a trial of.
            params: By dotted config key; params that the run already has stay as they are.
            tags: In addition to the git commit, the user and the command. `raymc.trial` is read
                back as the trial's number.
            reopen: Whether a run that has ended is continued, or records of it are ignored.

        Returns:
            The key as MLflow stores it, which the other methods take.
        """
        run = fit_key(key)
        names = fit_names(params)
        marks = {**source_tags(), **tags, KEY_TAG: run, STATE_TAG: "running"}
        self._send(
            f"run {run}",
            "start_run",
            run=run,
            name=name,
            parent=fit_key(parent or ""),
            params={names[key]: fit_text(value, PARAM_LENGTH) for key, value in params.items()},
            tags={fit_name(tag): fit_text(value, TAG_LENGTH) for tag, value in marks.items()},
            started=now(),
            reopen=reopen,
        )
        return run

    def log_epoch(
        self, run: str, epoch: int, metrics: Mapping[str, float], *, is_best: bool = False
    ) -> None:
        """Record an epoch's metrics with step = epoch; an epoch that is recorded already is kept.

        For the best epoch so far, every `val/NAME` is also recorded as `best/NAME`, because
        MLflow's tables show only the last value of a metric.
        """
        validated = [key for key in metrics if key.startswith("val/")] if is_best else []
        best = {best_name(key): metrics[key] for key in validated}
        named = {**best, **metrics, "epoch": epoch}  # MLflow plots the first metric first
        self._send(
            f"epoch {epoch} of {run}",
            "log_epoch",
            run=run,
            epoch=epoch,
            metrics=_plain(named),
            ended=now(),
        )

    def end_run(
        self,
        run: str,
        state: EndState,
        *,
        metrics: Mapping[str, float] | None = None,
        reason: str = "",
    ) -> None:
        """Close a run, with final numbers such as `cost/seconds`, and why it failed if it did.

        With a sweep, its open trials end as stopped.
        """
        self._send(
            f"end of {run}",
            "end_run",
            run=run,
            state=state,
            metrics=_plain(metrics or {}),
            ended=now(),
            reason=fit_text(reason, TAG_LENGTH),
        )

    def log_text(self, run: str, file: str, text: str) -> None:
        """Store a text file with the run, at the relative path `file`."""
        self._send(file, "log_text", run=run, file=file, text=redacted(text))

    def log_json(self, run: str, file: str, content: object) -> None:
        """Store JSON with the run, at the relative path `file`."""
        self.log_text(run, file, json.dumps(content, indent=2, sort_keys=True))

    def log_dataset(self, run: str, *, name: str, digest: str, source: str, rows: object) -> None:
        """Record which dataset a run trains on, for its MLflow page.

        `name` is shown in MLflow's column "Dataset", `digest` to 8 characters; `rows` holds the
        number of rows of each split.
        """
        self._send(
            f"dataset of {run}",
            "log_dataset",
            run=run,
            name=name,
            digest=digest[:8],
            source=json.dumps({"uri": without_password(source)}),
            profile=json.dumps(rows),
        )

    def set_views(self, sweep: str, params: Sequence[str], metric: str) -> None:
        """Make MLflow's saved views: all sweeps, and this sweep's trials with the best first.

        The sweep becomes the newest one. Its `params`, by dotted config key, are columns.
        """
        what, columns = f"views of {sweep}", list(params)
        self._send(what, "set_views", sweep=sweep, params=columns, metric=metric)

    def set_note(self, run: str, markdown: str, *, compare: Sequence[str] = ()) -> None:
        """Set the description on the run's MLflow page.

        A link below its first paragraph opens a comparison of the runs with the keys `compare`.
        """
        note = redacted(markdown)
        self._send(f"note of {run}", "set_note", run=run, markdown=note, compare=list(compare))

    def run_id(self, run: str, *, timeout_seconds: float = 30.0) -> str:
        """Wait until MLflow has given a run its id, and return the id.

        Raises:
            ResourceError: It took longer than `timeout_seconds`.
        """
        found = self._runs.wait_for(run, timeout_seconds)
        if found is not None:
            return found
        raise ResourceError(
            f"run {run} did not reach MLflow at {self._writer.place} within {timeout_seconds} s"
        )

    def wait(self, timeout_seconds: float = 30.0) -> None:
        """Wait until MLflow has all records.

        Raises:
            ResourceError: MLflow took none of them for `timeout_seconds`.
        """
        if not self._writer.wait(timeout_seconds):
            raise ResourceError(
                f"MLflow at {self._writer.place} is unreachable; "
                f"{self._writer.waiting} records wait"
            )

    def close(self, timeout_seconds: float = _SECONDS_TO_CLOSE) -> int:
        """Write the records that wait, and stop; see `Writer.close`."""
        return self._writer.close(timeout_seconds)

    def _send(self, what: str, method: str, **arguments: Any) -> None:
        self._writer.send(Record(what, method, arguments))


def _plain(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return NumPy's numbers as Python's, which JSON takes."""
    return {name: float(value) for name, value in metrics.items()}


@dataclass
class _OpenRun:
    run_id: str
    last_epoch: int
    is_trial: bool
    is_closed: bool


class _MlflowRuns:
    """Writes a tracker's records to MLflow, whose runs it finds by their keys.

    Only the writer's thread calls it, except for `wait_for`. Writing a record a second time
    changes nothing, because it may be read again from a spool, or retried after a lost answer.
    """

    def __init__(self, client: "mlflow.MlflowClient", experiment_id: str) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._opening = threading.Condition()
        self._runs: dict[str, _OpenRun] = {}

    def write(self, record: Record) -> None:
        if record.method not in _METHODS:
            raise LookupError(f"no record is called {record.method!r}")
        getattr(self, record.method)(**record.arguments)

    def wait_for(self, run: str, timeout_seconds: float) -> str | None:
        """Return the id of a run as soon as it has one; None after the time-out."""
        with self._opening:
            if self._opening.wait_for(lambda: run in self._runs, timeout_seconds):
                return self._runs[run].run_id
        return None

    def start_run(
        self,
        run: str,
        name: str,
        *,
        parent: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        started: int,
        reopen: bool,
    ) -> None:
        """Open the run of a key; without `reopen`, a run that has ended stays closed."""
        from mlflow.entities import Param, RunTag

        entity = self._find(run)
        if entity is not None and entity.info.status != "RUNNING" and not reopen:
            self._keep(run, entity, is_closed=True)
            return
        if parent:
            tags = {**tags, PARENT_TAG: self._opened(parent).run_id}
        if entity is not None:
            if reopen and not parent:
                self._stop_trials(entity.info.run_id)
            self._client.update_run(entity.info.run_id, status="RUNNING", name=name)
            marks = [RunTag(key, value) for key, value in tags.items()]
            self._client.log_batch(entity.info.run_id, tags=marks)
        else:
            entity = self._client.create_run(self._experiment_id, started, dict(tags), name)
        run_id = entity.info.run_id
        new = [Param(key, params[key]) for key in params if key not in entity.data.params]
        for first in range(0, len(new), _PARAMS_PER_CALL):
            self._client.log_batch(run_id, params=new[first : first + _PARAMS_PER_CALL])
        self._keep(run, entity)

    def log_epoch(self, run: str, epoch: int, *, metrics: Mapping[str, float], ended: int) -> None:
        opened = self._opened(run)
        if epoch > opened.last_epoch and not opened.is_closed:
            self._log_metrics(opened.run_id, make_metrics(metrics, epoch, ended))
            opened.last_epoch = epoch

    def end_run(
        self, run: str, state: str, *, metrics: Mapping[str, float], ended: int, reason: str = ""
    ) -> None:
        opened = self._opened(run)
        if opened.is_closed:
            return
        if not opened.is_trial:
            self._stop_trials(opened.run_id, ended=ended)
        self._log_metrics(opened.run_id, make_metrics(metrics, max(0, opened.last_epoch), ended))
        if reason:
            self._client.set_tag(opened.run_id, REASON_TAG, reason)
        self._terminate(opened.run_id, state, ended)

    def log_text(self, run: str, file: str, *, text: str) -> None:
        self._client.log_text(self._opened(run).run_id, text, file)

    def log_dataset(self, run: str, *, name: str, digest: str, source: str, profile: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name, digest, "local", source, profile=profile)
        made = DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
        opened = self._opened(run)
        if not opened.is_closed:
            self._client.log_inputs(opened.run_id, datasets=[made])

    def set_views(self, sweep: str, *, params: Sequence[str], metric: str) -> None:
        tags = sweep_page_tags(self._opened(sweep).run_id, params, metric)
        for name, value in tags.items():
            self._client.set_experiment_tag(self._experiment_id, name, value)

    def set_note(self, run: str, *, markdown: str, compare: Sequence[str]) -> None:
        note = markdown
        if len(compare) > 1:
            first, _, rest = markdown.partition("\n\n")
            page = comparison([self._opened(key).run_id for key in compare], self._experiment_id)
            note = f"{first}\n\n[Compare the trials]({page})\n\n{rest}"
        self._client.set_tag(self._opened(run).run_id, NOTE_TAG, fit_text(note, TAG_LENGTH))

    def _stop_trials(self, sweep_id: str, *, ended: int | None = None) -> None:
        """End a sweep's open trials as stopped, where no time is given at their last epoch's."""
        wanted = f"tags.`{PARENT_TAG}` = '{sweep_id}' and attributes.status = 'RUNNING'"
        while found := self._client.search_runs([self._experiment_id], wanted):
            for trial in found:
                run_id = trial.info.run_id
                epochs = self._client.get_metric_history(run_id, "epoch") if ended is None else ()
                last = max((one.timestamp for one in epochs), default=trial.info.start_time)
                self._terminate(run_id, "stopped", ended or last)

    def _terminate(self, run_id: str, state: str, ended: int) -> None:
        self._client.set_tag(run_id, STATE_TAG, state)
        self._client.set_terminated(run_id, _STATUS[state], end_time=ended)

    def _opened(self, run: str) -> _OpenRun:
        """Return a run that this process started, or one whose records are read from a spool."""
        if run not in self._runs:
            entity = self._find(run)
            if entity is None:
                raise LookupError(f"run {run} was not started")
            # Records are in order, so those of a run that has ended are in MLflow already.
            self._keep(run, entity, is_closed=entity.info.status != "RUNNING")
        return self._runs[run]

    def _find(self, run: str) -> "mlflow.entities.Run | None":
        wanted = f"tags.`{KEY_TAG}` = '{run}'"
        found = self._client.search_runs([self._experiment_id], wanted, max_results=1)
        return found[0] if found else None

    def _keep(self, run: str, entity: "mlflow.entities.Run", *, is_closed: bool = False) -> None:
        last_epoch = int(entity.data.metrics.get("epoch", -1))
        is_trial = PARENT_TAG in entity.data.tags
        with self._opening:
            self._runs[run] = _OpenRun(entity.info.run_id, last_epoch, is_trial, is_closed)
            self._opening.notify_all()

    def _log_metrics(self, run_id: str, metrics: "list[mlflow.entities.Metric]") -> None:
        for first in range(0, len(metrics), _METRICS_PER_CALL):
            self._client.log_batch(run_id, metrics=metrics[first : first + _METRICS_PER_CALL])
