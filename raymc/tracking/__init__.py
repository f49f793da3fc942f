"""MLflow: records what every run and trial did, and reads it back to compare them.

Top layer: may import the configuration, the tables and, inside functions only, mlflow; never
Ray. `tracker.py` says what is recorded of a run, `writer.py` brings it to MLflow without making
training wait, `compare.py` reads sweeps back, `connect.py` finds MLflow, and `records.py` makes
names and values fit for it.
"""

from raymc.tracking.compare import Sweep, compare_runs, list_sweeps
from raymc.tracking.connect import tracking_uri, ui_command
from raymc.tracking.tracker import EndState, Tracker, open_tracker

__all__ = [
    "EndState",
    "Sweep",
    "Tracker",
    "compare_runs",
    "list_sweeps",
    "open_tracker",
    "tracking_uri",
    "ui_command",
]
