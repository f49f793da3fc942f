"""Records carried out: MLflow's runs of one experiment, known by their keys.

Imports mlflow inside functions only. Carrying a record out a second time changes nothing, so
that it can be tried again after an answer was lost, and read again from a spool.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raymc.tracking.pages import comparison, sweep_page_tags
from raymc.tracking.records import (
    KEY_TAG,
    NOTE_TAG,
    PARENT_TAG,
    STATE_TAG,
    TAG_LENGTH,
    fit_text,
    make_metrics,
)
from raymc.tracking.spool import Record

if TYPE_CHECKING:
    import mlflow.entities


_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "stopped": "KILLED"}
_METRICS_PER_CALL, _PARAMS_PER_CALL = 1000, 100
_METHODS = (
    "start_run",
    "log_epoch",
    "end_run",
    "log_text",
    "log_dataset",
    "set_views",
    "set_note",
)


@dataclass
class _OpenRun:
    run_id: str
    last_epoch: int
    is_closed: bool = False


class MlflowRuns:
    """What a tracker's records do. All methods but `wait_for` belong to the writer's thread."""

    def __init__(self, client: "mlflow.MlflowClient", experiment_id: str) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._opening = threading.Condition()
        self._runs: dict[str, _OpenRun] = {}

    def write(self, record: Record) -> None:
        """Carry a record out.

        Raises:
            LookupError: it is about a run that was not started, or of an unknown kind.
        """
        if record.method not in _METHODS:
            raise LookupError(f"no record is called {record.method!r}")
        getattr(self, record.method)(**record.arguments)

    def wait_for(self, run: str, timeout_seconds: float) -> str | None:
        """Return the id of a run as soon as it has one; None if that takes too long."""
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
        """Open the run of a key; without `reopen`, one that has ended is kept closed."""
        from mlflow.entities import Param, RunTag

        entity = self._find(run)
        if entity is not None and entity.info.status != "RUNNING" and not reopen:
            self._keep(run, entity, is_closed=True)
            return
        if parent:
            tags = {**tags, PARENT_TAG: self._opened(parent).run_id}
        if entity is not None:
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
        """Store an epoch's metrics with step = epoch, if it is newer than those there are."""
        opened = self._opened(run)
        if epoch > opened.last_epoch and not opened.is_closed:
            self._log_metrics(opened.run_id, make_metrics(metrics, epoch, ended))
            opened.last_epoch = epoch

    def end_run(self, run: str, state: str, *, metrics: Mapping[str, float], ended: int) -> None:
        """Close a run, with its final numbers."""
        opened = self._opened(run)
        if opened.is_closed:
            return
        self._log_metrics(opened.run_id, make_metrics(metrics, max(0, opened.last_epoch), ended))
        self._client.set_tag(opened.run_id, STATE_TAG, state)
        self._client.set_terminated(opened.run_id, _STATUS[state], end_time=ended)

    def log_text(self, run: str, file: str, *, text: str) -> None:
        """Store a text file with a run."""
        self._client.log_text(self._opened(run).run_id, text, file)

    def log_dataset(self, run: str, *, name: str, digest: str, source: str, profile: str) -> None:
        """Say which dataset a run trains on."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name, digest, "local", source, profile=profile)
        made = DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
        opened = self._opened(run)
        if not opened.is_closed:
            self._client.log_inputs(opened.run_id, datasets=[made])

    def set_views(self, sweep: str, *, params: Sequence[str], metric: str) -> None:
        """Make the saved views of sweeps and of this one's trials."""
        tags = sweep_page_tags(self._opened(sweep).run_id, params, metric)
        for name, value in tags.items():
            self._client.set_experiment_tag(self._experiment_id, name, value)

    def set_note(self, run: str, *, markdown: str, compare: Sequence[str]) -> None:
        """Describe a run, with a link to a comparison of others below the first paragraph."""
        note = markdown
        if len(compare) > 1:
            first, _, rest = markdown.partition("\n\n")
            page = comparison([self._opened(key).run_id for key in compare], self._experiment_id)
            note = f"{first}\n\n[Compare the trials]({page})\n\n{rest}"
        self._client.set_tag(self._opened(run).run_id, NOTE_TAG, fit_text(note, TAG_LENGTH))

    def _opened(self, run: str) -> _OpenRun:
        """Return a run that was started, by this process or by one whose records are read again."""
        if run not in self._runs:
            entity = self._find(run)
            if entity is None:
                raise LookupError(f"run {run} was not started")
            # What was recorded is in order: after a run's end there is only what is there already.
            self._keep(run, entity, is_closed=entity.info.status != "RUNNING")
        return self._runs[run]

    def _find(self, run: str) -> "mlflow.entities.Run | None":
        wanted = f"tags.`{KEY_TAG}` = '{run}'"
        found = self._client.search_runs([self._experiment_id], wanted, max_results=1)
        return found[0] if found else None

    def _keep(self, run: str, entity: "mlflow.entities.Run", *, is_closed: bool = False) -> None:
        last_epoch = int(entity.data.metrics.get("epoch", -1))
        with self._opening:
            self._runs[run] = _OpenRun(entity.info.run_id, last_epoch, is_closed)
            self._opening.notify_all()

    def _log_metrics(self, run_id: str, metrics: "list[mlflow.entities.Metric]") -> None:
        for first in range(0, len(metrics), _METRICS_PER_CALL):
            self._client.log_batch(run_id, metrics=metrics[first : first + _METRICS_PER_CALL])
