"""MLflow's pages as raymc wants them met: which columns they show, and where they are.

Imports mlflow inside functions only. Views are MLflow's own saved views: experiment tags that
its menu "Views" lists, and that an address can name.
"""

import json
from collections.abc import Sequence
from urllib.parse import quote

from raymc.tracking.connect import answering, open_client
from raymc.tracking.records import PARENT_TAG, STATE_TAG, TRIAL_TAG, best_name, now

SWEEPS_VIEW, BEST_VIEW = "raymc-sweeps", "raymc-best"
_VIEW_TAG = "mlflow.sharedViewState."
_MOST_PARAMS, _MOST_COMPARED = 20, 40
_KIND = "workflowType=machine_learning"  # else MLflow shows its pages about language models
_CHECKBOX, _NAME = "0", "attributes.`Run Name`"
_NAME_WIDTH, _WIDTH = 310, 130  # pixels; at MLflow's own widths names are cut off


def sweep_page_tags(parent_id: str, params: Sequence[str], metric: str) -> dict[str, str]:
    """Return the experiment's tags that make the views of sweeps and of the newest one's trials.

    Args:
        parent_id: MLflow's id of the sweep.
        params: What it searches, by dotted config key.
        metric: What it maximises.
    """
    metrics = dict.fromkeys((best_name(metric), best_name("val/R80")))
    columns = [
        *(f"metrics.`{name}`" for name in metrics),
        *(f"params.`{name}`" for name in params[:_MOST_PARAMS]),
        *(f"tags.`{name}`" for name in (STATE_TAG, TRIAL_TAG)),
    ]
    sweeps = {
        "selectedColumns": columns,
        "columnOrder": [_CHECKBOX, _NAME, *columns],
        "columnWidths": {_NAME: _NAME_WIDTH, **dict.fromkeys(columns, _WIDTH)},
    }
    best = {
        **sweeps,
        "searchFilter": f"tags.`{PARENT_TAG}` = '{parent_id}'",
        "orderByKey": f"metrics.`{best_name(metric)}`",
        "orderByAsc": False,
    }
    return {
        _VIEW_TAG + SWEEPS_VIEW: _saved_view("Sweeps, with their trials", sweeps),
        _VIEW_TAG + BEST_VIEW: _saved_view("Newest sweep, best first", best),
    }


def comparison(run_ids: Sequence[str], experiment_id: str) -> str:
    """Return the address, within MLflow's pages, of the comparison of the first 40 runs."""
    runs, experiments = json.dumps(list(run_ids[:_MOST_COMPARED])), json.dumps([experiment_id])
    return f"#/compare-runs?runs={quote(runs)}&experiments={quote(experiments)}&{_KIND}"


def runs_page(uri: str, experiment: str, server: str) -> str:
    """Return the address of an experiment's sweeps and runs at a server of the records at `uri`.

    That of the server alone where there is no such experiment.

    Raises:
        ResourceError: MLflow does not answer.
    """
    client = open_client(uri, create=False)
    with answering(uri):
        found = client.get_experiment_by_name(experiment)
    server = server.rstrip("/")
    if found is None:
        return server
    page = f"{server}/#/experiments/{found.experiment_id}/runs?{_KIND}"
    has_view = _VIEW_TAG + SWEEPS_VIEW in found.tags
    return f"{page}&viewStateShareKey={SWEEPS_VIEW}" if has_view else page


def _saved_view(name: str, state: object) -> str:
    """A view as MLflow keeps it."""
    made = now()
    return json.dumps(
        {"name": name, "createdAt": made, "updatedAt": made, "state": json.dumps(state)}
    )
