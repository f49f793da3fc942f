"""MLflow: what runs and trials leave there, and how it is read back.

Start with `recording.py`, which turns the events of runs and the trials of sweeps into calls of
`tracker.py`; `writer.py` brings these to MLflow while training continues. `sweeps.py` reads runs
back, `notes.py` says what MLflow's pages show, `models.py` registers bundles and moves aliases,
and `connect.py` finds the server. Only this room imports mlflow, and only inside functions,
because that takes seconds.
"""

from raymc.tracking.connect import check_reachable, tracking_uri, ui_command
from raymc.tracking.notes import runs_page
from raymc.tracking.records import command_line
from raymc.tracking.sweeps import RecordedRun, find_recorded, list_runs, read_trials
from raymc.tracking.tracker import EndState, Tracker, open_tracker
from raymc.tracking.writer import count_left

__all__ = [
    "EndState",
    "RecordedRun",
    "Tracker",
    "check_reachable",
    "command_line",
    "count_left",
    "find_recorded",
    "list_runs",
    "open_tracker",
    "read_trials",
    "runs_page",
    "tracking_uri",
    "ui_command",
]
