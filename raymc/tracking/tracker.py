"""What is recorded of runs and trials: settings, epochs, ends, notes and small files.

Imports mlflow inside functions only. One process of a run holds the one tracker.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from raymc.config import TrackingConfig
from raymc.errors import ResourceError
from raymc.tracking.connect import open_client, open_experiment, tracking_uri
from raymc.tracking.pages import comparison, sweep_page_tags
from raymc.tracking.records import (
    KEY_TAG,
    NOTE_TAG,
    PARAM_LENGTH,
    PARENT_TAG,
    STATE_TAG,
    TAG_LENGTH,
    best_name,
    fit_key,
    fit_name,
    fit_text,
    make_metrics,
    now,
    source_tags,
    without_password,
)
from raymc.tracking.writer import Writer

if TYPE_CHECKING:
    import mlflow.entities

EndState = Literal["complete", "pruned", "failed", "stopped"]

_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "stopped": "KILLED"}
_METRICS_PER_CALL, _PARAMS_PER_CALL = 1000, 100


@dataclass
class _OpenRun:
    run_id: str
    last_epoch: int
    is_closed: bool = False


def open_tracker(config: TrackingConfig, runs_folder: str) -> "Tracker":
    """Connect to MLflow and make sure that the experiment exists.

    Raises:
        ConfigError: The address isn't one that MLflow can write to.
        ResourceError: The server or database does not answer, or the experiment was deleted.
    """
    uri = tracking_uri(config, runs_folder)
    client = open_client(uri, create=True)
    return Tracker(client, open_experiment(client, config.experiment, runs_folder))


class Tracker:
    """The one writer of a process. Every method but `close` and `run_id` returns at once.

    Runs are addressed by their key, so that a run can be written about before the server
    has given it an id. What can't be written is tried again until `close`.
    """

    def __init__(self, client: "mlflow.MlflowClient", experiment_id: str) -> None:
        self.uri: str = client.tracking_uri
        self.experiment_id = experiment_id
        self._client = client
        self._writer = Writer(self.uri)
        self._opening = threading.Condition()
        self._runs: dict[str, _OpenRun] = {}

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        """Open the experiment's run of this key: the one that exists, else a new one.

        Args:
            name: Shown on MLflow's pages.
            key: Identity of the run across restarts, unique in the experiment.
            parent: Key of the sweep that the run is a trial of.
            params: By dotted config key; those that the run has already are left alone.
            tags: Added to the git commit, the user and the command. `raymc.trial` is read
                back as the trial's number.
            reopen: Go on with a run that has ended; else what is told of it is ignored.

        Returns:
            The key as MLflow keeps it, by which the other methods know the run.
        """
        run, over = fit_key(key), fit_key(parent or "")
        clean = {fit_name(key): fit_text(value, PARAM_LENGTH) for key, value in params.items()}
        marks = {**source_tags(), **tags, KEY_TAG: run, STATE_TAG: "running"}
        marks = {fit_name(tag): fit_text(value, TAG_LENGTH) for tag, value in marks.items()}
        started = now()

        def write() -> None:
            if reopen or not self._is_over(run):
                self._open(run, name, over, clean, marks, started)

        self._writer.send(f"run {run}", write)
        return run

    def log_epoch(
        self, run: str, epoch: int, metrics: Mapping[str, float], *, is_best: bool = False
    ) -> None:
        """Record an epoch's metrics with step = epoch; an epoch that is there is left alone.

        Of the best epoch so far, every `val/NAME` is recorded as `best/NAME` too, because
        MLflow's pages show the last value only.
        """
        validated = [key for key in metrics if key.startswith("val/")] if is_best else []
        best = {best_name(key): metrics[key] for key in validated}
        named = {**best, **metrics, "epoch": float(epoch)}  # MLflow's plots begin with the first
        records = make_metrics(named, epoch, now())

        def write() -> None:
            opened = self._opened(run)
            if epoch > opened.last_epoch and not opened.is_closed:
                self._log_metrics(opened.run_id, records)
                opened.last_epoch = epoch

        self._writer.send(f"epoch {epoch} of {run}", write)

    def end_run(
        self, run: str, state: EndState, *, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Close a run, with final numbers such as `cost/seconds` and `cost/gpu_seconds`."""
        ended = now()

        def write() -> None:
            opened = self._opened(run)
            if opened.is_closed:
                return
            records = make_metrics(metrics or {}, max(0, opened.last_epoch), ended)
            self._log_metrics(opened.run_id, records)
            self._client.set_tag(opened.run_id, STATE_TAG, state)
            self._client.set_terminated(opened.run_id, _STATUS[state], end_time=ended)

        self._writer.send(f"end of {run}", write)

    def log_text(self, run: str, file: str, text: str) -> None:
        """Store a text file with the run, at the relative path `file`."""
        clean = without_password(text)

        def write() -> None:
            self._client.log_text(self._opened(run).run_id, clean, file)

        self._writer.send(file, write)

    def log_json(self, run: str, file: str, content: object) -> None:
        """Store JSON with the run, at the relative path `file`."""
        self.log_text(run, file, json.dumps(content, indent=2, sort_keys=True))

    def log_dataset(self, run: str, *, name: str, digest: str, source: str, rows: object) -> None:
        """Say which dataset a run trains on, as its MLflow page shows it.

        Args:
            run: Key of the run.
            name: Shown in MLflow's column "Dataset".
            digest: What tells the dataset from others of the name; MLflow shows 8 characters.
            source: Where it is.
            rows: How many rows each split has, by name.
        """
        source = json.dumps({"uri": without_password(source)})
        profile = json.dumps(rows)

        def write() -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            dataset = Dataset(name, digest[:8], "local", source, profile=profile)
            made = DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
            opened = self._opened(run)
            if not opened.is_closed:
                self._client.log_inputs(opened.run_id, datasets=[made])

        self._writer.send(f"dataset of {run}", write)

    def set_views(self, sweep: str, params: Sequence[str], metric: str) -> None:
        """Make MLflow's saved views of sweeps, and of this one's trials, best first.

        Args:
            sweep: Key of the sweep, from now on the newest.
            params: What it searches, by dotted config key: columns of the views.
            metric: What it maximises.
        """

        def write() -> None:
            tags = sweep_page_tags(self._opened(sweep).run_id, params, metric)
            for name, value in tags.items():
                self._client.set_experiment_tag(self.experiment_id, name, value)

        self._writer.send(f"views of {sweep}", write)

    def set_note(self, run: str, markdown: str, *, compare: Sequence[str] = ()) -> None:
        """Set the description on the run's MLflow page.

        Args:
            run: Key of the run.
            markdown: The description.
            compare: Keys of runs; a link below the first paragraph opens their comparison.
        """

        def write() -> None:
            note = markdown
            if len(compare) > 1:
                first, _, rest = markdown.partition("\n\n")
                page = comparison([self._opened(key).run_id for key in compare], self.experiment_id)
                note = f"{first}\n\n[Compare the trials]({page})\n\n{rest}"
            note = fit_text(note, TAG_LENGTH)
            self._client.set_tag(self._opened(run).run_id, NOTE_TAG, note)

        self._writer.send(f"note of {run}", write)

    def run_id(self, run: str, *, timeout_seconds: float = 30.0) -> str:
        """Return MLflow's id of a started run; waits until the server has given it one.

        Raises:
            ResourceError: The run isn't there within the time.
        """
        with self._opening:
            if self._opening.wait_for(lambda: run in self._runs, timeout_seconds):
                return self._runs[run].run_id
        raise ResourceError(
            f"run {run} did not reach MLflow at {self._writer.place} within {timeout_seconds} s"
        )

    def close(self, timeout_seconds: float = 30.0) -> int:
        """Write what waits and stop; records sent later are ignored.

        Returns:
            How many records could not be written: those MLflow refused, and those still
            waiting for the server after `timeout_seconds`.
        """
        return self._writer.close(timeout_seconds)

    def _opened(self, run: str) -> _OpenRun:
        if run not in self._runs:
            raise LookupError(f"run {run} was not started")
        return self._runs[run]

    def _open(
        self,
        run: str,
        name: str,
        parent: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        started: int,
    ) -> None:
        from mlflow.entities import Param, RunTag

        if parent:
            tags = {**tags, PARENT_TAG: self._opened(parent).run_id}
        entity = self._find(run)
        if entity is not None:
            self._client.update_run(entity.info.run_id, status="RUNNING", name=name)
            marks = [RunTag(key, value) for key, value in tags.items()]
            self._client.log_batch(entity.info.run_id, tags=marks)
        else:
            entity = self._client.create_run(self.experiment_id, started, dict(tags), name)
        run_id = entity.info.run_id
        new = [Param(key, params[key]) for key in params if key not in entity.data.params]
        for first in range(0, len(new), _PARAMS_PER_CALL):
            self._client.log_batch(run_id, params=new[first : first + _PARAMS_PER_CALL])
        self._keep(run, entity)

    def _is_over(self, run: str) -> bool:
        """Say whether MLflow has the run, ended; if so, keep it as a closed one."""
        entity = self._find(run)
        if entity is None or entity.info.status == "RUNNING":
            return False
        self._keep(run, entity, is_closed=True)
        return True

    def _find(self, run: str) -> "mlflow.entities.Run | None":
        wanted = f"tags.`{KEY_TAG}` = '{run}'"
        found = self._client.search_runs([self.experiment_id], wanted, max_results=1)
        return found[0] if found else None

    def _keep(self, run: str, entity: "mlflow.entities.Run", *, is_closed: bool = False) -> None:
        last_epoch = int(entity.data.metrics.get("epoch", -1))
        with self._opening:
            self._runs[run] = _OpenRun(entity.info.run_id, last_epoch, is_closed)
            self._opening.notify_all()

    def _log_metrics(self, run_id: str, records: "list[mlflow.entities.Metric]") -> None:
        for first in range(0, len(records), _METRICS_PER_CALL):
            self._client.log_batch(run_id, metrics=records[first : first + _METRICS_PER_CALL])
