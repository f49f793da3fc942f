"""MLflow: records what every run and trial did, and reads it back to compare them.

Top layer: may import the configuration, the tables and, inside functions only, mlflow; never
Ray. `tracker.py` says what is recorded of a run, `writer.py` brings it to MLflow without making
training wait, `mlflow_runs.py` writes it there, and `spool.py` keeps what isn't there yet.
`sweeps.py` reads sweeps back, `pages.py` says what MLflow's pages show first, `connect.py` finds
MLflow, and `records.py` makes names and values fit for it.
"""

from raymc.tracking.connect import check_reachable, tracking_uri, ui_command
from raymc.tracking.pages import runs_page
from raymc.tracking.records import command_line
from raymc.tracking.spool import count_left
from raymc.tracking.sweeps import Sweep, list_sweeps, read_trials
from raymc.tracking.tracker import EndState, Tracker, open_tracker

__all__ = [
    "EndState",
    "Sweep",
    "Tracker",
    "check_reachable",
    "command_line",
    "count_left",
    "list_sweeps",
    "open_tracker",
    "read_trials",
    "runs_page",
    "tracking_uri",
    "ui_command",
]
