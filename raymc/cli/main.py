"""The command `raymc`. Parses, calls one function of `commands.py`, turns errors into one line.

Everything heavy is imported inside the command that needs it, so that `raymc --help` answers
at once.
"""

from pathlib import Path
from typing import Any

import click

from raymc import __version__
from raymc.cli.data import data, extract, import_
from raymc.cli.jobs import JOB_COMMANDS
from raymc.cli.options import Errors, configured, load_config, make_console

RATES = click.Choice(["mAP", "R80", "micro_AP", "LRAP"])


@click.group(cls=Errors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="raymc")
def main() -> None:
    """Train and tune classifiers of multi-label, fine-grained educational videos.

    CONFIG is a YAML file; without one the embedded example is used. KEY=VALUE overrides a
    setting, such as loss.margin=0.2; `raymc config` prints all of them.
    """


@main.command()
@configured
@click.option("--workers", type=int, help="Training workers that share each batch.")
@click.option("--name", help="Name of the run.")
def train(
    config: str | None, overrides: tuple[str, ...], workers: int | None, name: str | None
) -> None:
    """Train one model. The same command again goes on where it stopped."""
    loaded = load_config(config, overrides, {"train.workers": workers, "run.name": name})
    from raymc.cli.runs import run_train

    run_train(loaded, make_console())


@main.command()
@configured
@click.option("--trials", type=int, help="Trials of the sweep, restarts included.")
@click.option("--workers", type=int, help="Training workers of each trial.")
@click.option("--gpus-per-trial", type=float, help="GPUs of a worker; 0.25 packs four on one.")
@click.option("--name", help="Name of the sweep.")
def tune(
    config: str | None,
    overrides: tuple[str, ...],
    trials: int | None,
    workers: int | None,
    gpus_per_trial: float | None,
    name: str | None,
) -> None:
    """Search settings. The same command again goes on where it stopped."""
    given = {
        "search.trials": trials,
        "train.workers": workers,
        "search.gpus_per_trial": gpus_per_trial,
        "run.name": name,
    }
    loaded = load_config(config, overrides, given)
    from raymc.cli.runs import run_tune

    run_tune(loaded, make_console())


@main.command()
@click.argument("bundle")
@click.argument("dataset")
@click.option("--split", default="test", show_default=True, help="Split to evaluate on.")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), default="auto")
@click.option("--json", "json_file", type=click.Path(), help="Write the metrics to a file, too.")
def evaluate(bundle: str, dataset: str, split: str, device: str, json_file: str | None) -> None:
    """Measure BUNDLE on a split of DATASET."""
    from raymc.cli.runs import run_evaluate

    target = Path(json_file) if json_file else None
    run_evaluate(bundle, dataset, make_console(), split=split, device=device, json_file=target)


@main.command()
@click.argument("bundle")
@click.argument("dataset")
@click.option("--out", required=True, type=click.Path(), help="Folder for the predictions.")
@click.option("--split", default="test", show_default=True, help="Split to predict.")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), default="auto")
def predict(bundle: str, dataset: str, out: str, split: str, device: str) -> None:
    """Write scores and labels of a split of DATASET as Parquet."""
    from raymc.cli.runs import run_predict

    run_predict(bundle, dataset, Path(out), make_console(), split=split, device=device)


@main.command()
@click.argument("sweep", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def runs(sweep: str | None, overrides: tuple[str, ...]) -> None:
    """Compare the trials of SWEEP, or list the sweeps there are."""
    if sweep is not None and "=" in sweep:
        sweep, overrides = None, (sweep, *overrides)
    loaded = load_config(None, overrides, {})
    from raymc.cli.runs import show_runs

    show_runs(sweep, loaded, make_console())


@main.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN... [KEY=VALUE]...")
@click.option("--split", default="", help="Split to compare on; the first run's test split.")
@click.option("--dataset", default="", help="Dataset to compare on; the first run's.")
@click.option("--metric", type=RATES, default="mAP", show_default=True, help="What decides.")
@click.option("--html", type=click.Path(), help="Write it as a page, too.")
def compare(runs: tuple[str, ...], split: str, dataset: str, metric: Any, html: str | None) -> None:
    """Compare each RUN with the first: on the same rows, with intervals; settings and classes.

    A RUN is a run's or sweep's name, its folder, or a bundle. Runs that differ in their seed
    alone are taken together.
    """
    from raymc.cli.compare import run_compare

    overrides = [text for text in runs if "=" in text]
    run_compare(
        [text for text in runs if "=" not in text],
        make_console(),
        overrides=overrides,
        split=split,
        dataset=dataset,
        metric=metric,
        html=Path(html) if html else None,
    )


@main.command()
@click.argument("sweep")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(), help="The page; else report.html in SWEEP's folder.")
@click.option("--split", help="Split to judge the winner on; else the validation split.")
@click.option("--price", type=click.FloatRange(min=0), help="Of an hour of a GPU, else a worker.")
def report(
    sweep: str, overrides: tuple[str, ...], out: str | None, split: str | None, price: float | None
) -> None:
    """Write a page on SWEEP, a name or a folder: which setting won, why, and at what cost."""
    settings = load_config(None, overrides, {})
    from raymc.cli.runs import run_report
    from raymc.report import find_sweep
    from raymc.training.runs import read_run

    run = read_run(find_sweep(sweep, settings.run.folder), overrides)
    run_report(run, make_console(), out=Path(out) if out else None, split=split, price=price)


@main.command()
@click.argument("run")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--alias", default="champion", show_default=True, help="Alias to take.")
@click.option("--name", default="", help="Registered model; else the run's tracking.register_as.")
@click.option("--dataset", default="", help="Dataset to compare on, rather than the recorded one.")
@click.option("--split", default="", help="Split to compare on, rather than the recorded one.")
@click.option("--metric", type=RATES, default="mAP", show_default=True, help="What decides.")
@click.option("--force", is_flag=True, help="Promote a worse one, too.")
def promote(run: str, overrides: tuple[str, ...], **asked: Any) -> None:
    """Register RUN's bundle and give it an alias, unless it is worse than who has that.

    It is compared on the test set recorded with that version, and refused, with exit code 1, if
    it is worse beyond the interval.
    """
    from raymc.cli.promote import Promotion, run_promote

    run_promote(run, Promotion(**asked), make_console(), overrides=overrides)


@main.command()
@click.argument("run")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def replay(run: str, overrides: tuple[str, ...]) -> None:
    """Write what MLflow missed of RUN, a name or a folder, while it was away."""
    from raymc.cli.replay import run_replay

    run_replay(run, make_console(), overrides=overrides)


@main.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--port", default=5000, show_default=True, help="Port on this machine.")
def ui(overrides: tuple[str, ...], port: int) -> None:
    """Open MLflow's page on the runs."""
    from raymc.cli.runs import run_ui

    run_ui(load_config(None, overrides, {}), port, make_console())


@main.command()
@click.option("--folder", default="raymc-demo", show_default=True, help="Where to put all of it.")
def demo(folder: str) -> None:
    """Do the whole job on the embedded example: data, search, winner, test, predictions."""
    from raymc.cli.demo import run_demo

    run_demo(Path(folder), make_console())


@main.command("config")
@configured
@click.option("--reference", is_flag=True, help="Print every setting, explained, as Markdown.")
def show_config(config: str | None, overrides: tuple[str, ...], reference: bool) -> None:
    """Print the whole configuration as YAML, overrides applied and checked."""
    import yaml

    from raymc.config import config_reference, to_dict

    loaded = load_config(config, overrides, {})
    click.echo(
        config_reference() if reference else yaml.safe_dump(to_dict(loaded), sort_keys=False)
    )


for command in (data, extract, import_, *JOB_COMMANDS):
    main.add_command(command)
