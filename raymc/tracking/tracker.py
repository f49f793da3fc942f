"""What is recorded of runs and trials: settings, epochs, ends, notes and small files.

One process of a run holds the one tracker. What it is told becomes records, which the writer's
thread has `MlflowRuns` write.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raymc.config import TrackingConfig
from raymc.errors import ResourceError
from raymc.tracking.connect import open_client, open_experiment, tracking_uri
from raymc.tracking.mlflow_runs import MlflowRuns
from raymc.tracking.records import (
    KEY_TAG,
    PARAM_LENGTH,
    STATE_TAG,
    TAG_LENGTH,
    best_name,
    fit_key,
    fit_name,
    fit_text,
    now,
    source_tags,
    without_password,
)
from raymc.tracking.spool import Record, Spool
from raymc.tracking.writer import Writer

if TYPE_CHECKING:
    import mlflow


EndState = Literal["complete", "pruned", "failed", "stopped"]


def open_tracker(
    config: TrackingConfig, runs_folder: str, *, folder: Path | None = None
) -> "Tracker":
    """Connect to MLflow and make sure that the experiment exists.

    Args:
        config: Where MLflow is.
        runs_folder: Where its database is if no address is given.
        folder: The run's own; what MLflow doesn't take in time is left there, and written
            before anything else when the tracker is opened again. None: it is lost.

    Raises:
        ConfigError: The address isn't one that MLflow can write to.
        ResourceError: The server or database does not answer, the experiment was deleted, or
            another process records the same run.
    """
    uri = tracking_uri(config, runs_folder)
    client = open_client(uri, create=True)
    experiment = open_experiment(client, config.experiment, runs_folder)
    return Tracker(client, experiment, spool=Spool(folder) if folder else None)


class Tracker:
    """The one writer of a process. Every method but `close`, `wait` and `run_id` returns at once.

    Runs are addressed by their key, so that a run can be written about before the server
    has given it an id. What can't be written is tried again until `close`, and then left to
    `raymc replay`.
    """

    def __init__(
        self, client: "mlflow.MlflowClient", experiment_id: str, *, spool: Spool | None = None
    ) -> None:
        self.uri: str = client.tracking_uri
        self.experiment_id = experiment_id
        self._runs = MlflowRuns(client, experiment_id)
        self._writer = Writer(self.uri, self._runs.write, spool)

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
        run = fit_key(key)
        marks = {**source_tags(), **tags, KEY_TAG: run, STATE_TAG: "running"}
        self._send(
            f"run {run}",
            "start_run",
            run=run,
            name=name,
            parent=fit_key(parent or ""),
            params={fit_name(key): fit_text(value, PARAM_LENGTH) for key, value in params.items()},
            tags={fit_name(tag): fit_text(value, TAG_LENGTH) for tag, value in marks.items()},
            started=now(),
            reopen=reopen,
        )
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
        named = {**best, **metrics, "epoch": epoch}  # MLflow's plots begin with the first
        self._send(
            f"epoch {epoch} of {run}",
            "log_epoch",
            run=run,
            epoch=epoch,
            metrics=_plain(named),
            ended=now(),
        )

    def end_run(
        self, run: str, state: EndState, *, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Close a run, with final numbers such as `cost/seconds` and `cost/gpu_seconds`."""
        values = _plain(metrics or {})
        self._send(f"end of {run}", "end_run", run=run, state=state, metrics=values, ended=now())

    def log_text(self, run: str, file: str, text: str) -> None:
        """Store a text file with the run, at the relative path `file`."""
        self._send(file, "log_text", run=run, file=file, text=without_password(text))

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
        """Make MLflow's saved views of sweeps, and of this one's trials, best first.

        Args:
            sweep: Key of the sweep, from now on the newest.
            params: What it searches, by dotted config key: columns of the views.
            metric: What it maximises.
        """
        self._send(
            f"views of {sweep}", "set_views", sweep=sweep, params=list(params), metric=metric
        )

    def set_note(self, run: str, markdown: str, *, compare: Sequence[str] = ()) -> None:
        """Set the description on the run's MLflow page.

        Args:
            run: Key of the run.
            markdown: The description.
            compare: Keys of runs; a link below the first paragraph opens their comparison.
        """
        note = without_password(markdown)
        self._send(f"note of {run}", "set_note", run=run, markdown=note, compare=list(compare))

    def run_id(self, run: str, *, timeout_seconds: float = 30.0) -> str:
        """Return MLflow's id of a started run; waits until the server has given it one.

        Raises:
            ResourceError: The run isn't there within the time.
        """
        found = self._runs.wait_for(run, timeout_seconds)
        if found is not None:
            return found
        raise ResourceError(
            f"run {run} did not reach MLflow at {self._writer.place} within {timeout_seconds} s"
        )

    def wait(self, timeout_seconds: float = 30.0) -> None:
        """Wait until MLflow has everything.

        Raises:
            ResourceError: It hasn't within the time.
        """
        if not self._writer.wait(timeout_seconds):
            raise ResourceError(
                f"MLflow at {self._writer.place} is away; {self._writer.waiting} records wait"
            )

    def close(self, timeout_seconds: float = 30.0) -> int:
        """Write what waits and stop; records sent later are ignored.

        Returns:
            How many records could not be written: those MLflow refused, and those still
            waiting for the server after `timeout_seconds`.
        """
        return self._writer.close(timeout_seconds)

    def _send(self, what: str, method: str, **arguments: Any) -> None:
        self._writer.send(Record(what, method, arguments))


def _plain(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return numbers as JSON has them, NumPy's included."""
    return {name: float(value) for name, value in metrics.items()}
