"""The command `raymc replay`: what MLflow missed of a run is written there, once. Top layer."""

from collections.abc import Sequence

from rich.console import Console

from raymc.config import Config, overridden
from raymc.errors import ResourceError
from raymc.tracking import Tracker, count_left, open_tracker
from raymc.tracking.models import has_model, log_bundle
from raymc.training.runs import BUNDLE, Run, find_run, read_run

_PATIENCE_SECONDS = 600.0  # after a long outage there may be much to write


def run_replay(run: str, console: Console, *, overrides: Sequence[str] = ()) -> None:
    """Write the records that wait in a run's folder, and its bundle if MLflow hasn't got it.

    Args:
        run: A name below `run.folder`, or a folder.
        console: Where to print.
        overrides: Settings such as tracking.uri=ADDRESS.

    Raises:
        ConfigError: There is no such run.
        ResourceError: MLflow is away, or away again, or the run is still being written.
    """
    folder = find_run(run, overridden(Config(), overrides).run.folder)
    opened = read_run(folder, overrides)
    waiting = count_left(folder)
    with open_tracker(opened.config.tracking, str(folder.parent), folder=folder) as tracker:
        model = _add_bundle(opened, tracker) if (folder / BUNDLE).exists() else ""
        missing = tracker.close(_PATIENCE_SECONDS)
    if missing:
        raise ResourceError(f"{missing} records of {folder} are still not in MLflow")
    told = f"{waiting:,} records" + (f", and the model {model}" if model else "")
    console.print(f"{opened.name}: MLflow has {told}", soft_wrap=True, highlight=False)


def _add_bundle(run: Run, tracker: Tracker) -> str:
    """Log the bundle of a finished run unless that is done; returns the model's address."""
    key = tracker.start_run(run.name, key=run.name, params={}, tags={}, reopen=False)
    run_id = tracker.run_id(key, timeout_seconds=_PATIENCE_SECONDS)
    if has_model(run_id, uri=tracker.uri):
        return ""
    return log_bundle(
        run.folder / BUNDLE,
        run_id,
        uri=tracker.uri,
        register_as=run.config.tracking.register_as,
        alias=run.config.tracking.alias,
    )
