"""Sweeps read back from MLflow, as tables show them.

Imports mlflow inside functions only; writes nothing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from raymc.errors import ConfigError, ResourceError
from raymc.search.trials import TrialState, TrialView
from raymc.tracking.connect import answering, open_client
from raymc.tracking.records import KEY_TAG, PARENT_TAG, STATE_TAG, TRIAL_TAG, best_name

if TYPE_CHECKING:
    import mlflow.entities


_R80 = "val/R80"


@dataclass(frozen=True)
class Sweep:
    """A parent run with trials: its key and name, its MLflow id, and how many trials it has."""

    key: str
    name: str
    run_id: str
    trials: int


def list_sweeps(uri: str, experiment: str = "raymc") -> list[Sweep]:
    """Return the sweeps of an experiment, newest first.

    Raises:
        ResourceError: MLflow does not answer, or holds no such experiment.
    """
    return _sweeps(_all_runs(uri, experiment))


def compare_runs(
    uri: str, experiment: str, sweep: str, *, metric: str = "val/mAP"
) -> list[TrialView]:
    """Return the trials of a sweep by number, ready for `tables.trials_table`.

    Args:
        uri: MLflow address (`tracking_uri`).
        experiment: Name of the experiment.
        sweep: Name, key or MLflow id of the sweep; of several of one name the newest counts.
        metric: What `TrialView.value` shall hold, at its best epoch.

    Raises:
        ConfigError: The experiment has no such sweep; the message names those it has.
        ResourceError: MLflow does not answer, or holds no such experiment.
    """
    runs = _all_runs(uri, experiment)
    sweeps = _sweeps(runs)
    chosen = next((one for one in sweeps if sweep in (one.name, one.key, one.run_id)), None)
    if chosen is None:
        known = ", ".join(one.name for one in sweeps) or "none"
        raise ConfigError(f"no sweep {sweep!r} in experiment {experiment!r}; there are: {known}")
    trials = [run for run in reversed(runs) if run.data.tags.get(PARENT_TAG) == chosen.run_id]
    views = [_view(run, number, metric) for number, run in enumerate(trials)]
    return sorted(views, key=lambda view: view.number)


def _sweeps(runs: "Sequence[mlflow.entities.Run]") -> list[Sweep]:
    trials = Counter(run.data.tags.get(PARENT_TAG) for run in runs)
    return [
        Sweep(run.data.tags.get(KEY_TAG, ""), run.info.run_name or "", run.info.run_id, count)
        for run in runs
        if (count := trials[run.info.run_id])
    ]


def _all_runs(uri: str, experiment: str) -> "list[mlflow.entities.Run]":
    """Every run of the experiment, newest first."""
    client = open_client(uri, create=False)
    with answering(uri):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            known = ", ".join(one.name for one in client.search_experiments())
            raise ResourceError(f"MLflow has no experiment {experiment!r}; there are: {known}")
        runs, token = [], None
        while token != "":
            page = client.search_runs(
                [found.experiment_id], order_by=["attributes.start_time DESC"], page_token=token
            )
            runs += page
            token = page.token or ""
    return runs


def _view(run: "mlflow.entities.Run", number: int, metric: str) -> TrialView:
    """A trial as MLflow has it; a metric of its best epoch where that was recorded."""
    metrics = run.data.metrics
    best = {name: metrics.get(best_name(name), metrics.get(name)) for name in (metric, _R80)}
    seconds = ((run.info.end_time or run.info.start_time) - run.info.start_time) / 1000
    return TrialView(
        number=int(run.data.tags.get(TRIAL_TAG, number)),
        params=run.data.params,
        state=cast(TrialState, run.data.tags.get(STATE_TAG, "running")),
        epoch=int(metrics.get("epoch", 0)),
        epochs=0,
        value=best[metric],
        seconds=metrics.get("cost/seconds", seconds),
        others={} if (r80 := best[_R80]) is None else {_R80: r80},
    )
