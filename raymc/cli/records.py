"""The commands on what MLflow holds: `raymc runs`, `raymc ui` and `raymc replay`.

Each imports what it needs when it runs: `raymc runs` needs neither torch nor Ray, nor MLflow
where its database is a local file.
"""

from typing import TYPE_CHECKING

import click

from raymc.cli.options import load_config, make_console, overridable

if TYPE_CHECKING:
    import subprocess

    from rich.console import Console

    from raymc.config import Config
    from raymc.tracking import Tracker
    from raymc.training.runs import Run

_PATIENCE_SECONDS = 600.0  # after a long outage there may be much to write


@click.command()
@click.argument("run", required=False)
@overridable
@click.option(
    "--price",
    type=click.FloatRange(min=0),
    help="Price of a GPU per hour, or of a worker where none had a GPU; shows what runs cost.",
)
def runs(run: str | None, overrides: tuple[str, ...], price: float | None) -> None:
    """List runs and sweeps, or compare the trials of one sweep.

    RUN is a name or the beginning of an id. Of several of one name, the newest is shown. The hours
    of a run count from its start to its end; those of a sweep are its trials'.
    """
    from raymc.config import is_setting

    if run is not None and is_setting(run):
        run, overrides = None, (run, *overrides)
    config, console = load_config(None, overrides), make_console()
    from raymc.cli.tables import failure_lines, runs_table, trials_table
    from raymc.terminal import print_line
    from raymc.tracking import find_recorded, list_runs, read_trials, tracking_uri

    uri, metric = tracking_uri(config.tracking, config.run.folder), config.train.monitor
    experiment = config.tracking.experiment
    known = list_runs(uri, experiment, metric=metric)
    if run is None:
        console.print(runs_table(known, metric, width=console.width, price=price))
        return
    newest, *others = find_recorded(known, run)
    if others:
        ids = ", ".join(other.short_id for other in others)
        print_line(
            console,
            f"{len(others) + 1} runs are meant by {run}; this is the newest, {newest.short_id} "
            f"(the others: {ids})",
        )
    if newest.kind == "run":
        console.print(runs_table([newest], metric, width=console.width, price=price))
        return
    if price is not None:
        console.print(runs_table([newest], metric, width=console.width, price=price))
    trials = read_trials(uri, experiment, newest.run_id, metric=metric)
    console.print(trials_table(trials, metric, width=console.width))
    for line in failure_lines(trials):
        print_line(console, line, "yellow")


@click.command()
@overridable
@click.option("--port", default=5000, show_default=True, help="Port on this machine.")
def ui(overrides: tuple[str, ...], port: int) -> None:
    """Serve MLflow's pages about the runs, on this machine."""
    run_ui(load_config(None, overrides), port, make_console())


def run_ui(config: "Config", port: int, console: "Console") -> None:
    """Serve MLflow's pages on the loopback address until interrupted."""
    import subprocess

    from raymc.terminal import print_line
    from raymc.tracking import runs_page, tracking_uri, ui_command

    uri, experiment = tracking_uri(config.tracking, config.run.folder), config.tracking.experiment
    command = ui_command(uri, port)
    if not command:
        print_line(console, f"MLflow's page is at {runs_page(uri, experiment, uri)}")
        return
    print_line(console, "Starting MLflow, which takes a few seconds …", "dim")
    server, address = subprocess.Popen(command), f"http://127.0.0.1:{port}"
    try:
        page = runs_page(uri, experiment, address)
        if _answers(server, address):
            print_line(console, f"Sweeps and runs: {page} (Ctrl-C stops the server)")
        server.wait()
    finally:
        server.terminate()
        server.wait()


def _answers(server: "subprocess.Popen[bytes]", address: str) -> bool:
    """Wait until the server answers; return False if it exits before."""
    import time

    from raymc.errors import ResourceError
    from raymc.tracking import check_reachable

    while server.poll() is None:
        try:
            check_reachable(address, create=False)
        except ResourceError:
            time.sleep(0.2)
        else:
            return True
    return False


@click.command()
@click.argument("run")
@overridable
def replay(run: str, overrides: tuple[str, ...]) -> None:
    """Send MLflow the records that it missed while unreachable.

    RUN is the name of a run or sweep, its folder or the beginning of its id. Its bundle is logged
    too, if MLflow does not have it.
    """
    settings, console = load_config(None, overrides), make_console()
    from raymc.errors import ConfigError, ResourceError
    from raymc.terminal import print_line
    from raymc.tracking import count_left, open_tracker
    from raymc.training.runs import BUNDLE, find_run, original_of, read_run

    folder = find_run(run, settings.run.folder)
    if original := original_of(folder):
        raise ConfigError(f"{folder} is a copy of {original}: replay that one")
    opened = read_run(folder, overrides)
    waiting = count_left(folder)
    with open_tracker(opened.config.tracking, str(folder.parent), folder=folder) as tracker:
        model = _add_bundle(opened, tracker) if (folder / BUNDLE).exists() else ""
        missing = tracker.close(_PATIENCE_SECONDS)
    if missing:
        raise ResourceError(f"{missing} records of {folder} are still not in MLflow")
    if opened.lacks_records:
        opened.end()
    logged = f"{waiting:,} records" + (f", and the model {model}" if model else "")
    print_line(console, f"{opened.name}: MLflow has {logged}")


def _add_bundle(run: "Run", tracker: "Tracker") -> str:
    """Log the bundle of a run unless MLflow has it; returns the model's address."""
    from raymc.tracking.models import has_model, log_bundle
    from raymc.training.runs import BUNDLE

    key = tracker.start_run(run.name, key=run.id, params={}, tags={}, reopen=False)
    run_id = tracker.run_id(key, timeout_seconds=_PATIENCE_SECONDS)
    if run.is_finished and has_model(run_id, uri=tracker.uri):
        return ""
    return log_bundle(
        run.folder / BUNDLE,
        run_id,
        uri=tracker.uri,
        register_as=run.config.tracking.register_as,
        alias=run.config.tracking.alias,
    )
