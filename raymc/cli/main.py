"""The command `raymc`: its commands and their options, in the order in which users need them.

What training, tuning and use do is in `runs.py`; the commands of other files stand beside what
they do. Settings are checked before anything heavy is imported, so that `raymc --help` and a
misspelt setting are answered at once.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click

from raymc import __version__
from raymc.cli.data import data, extract, import_
from raymc.cli.demo import demo
from raymc.cli.give import add_class, export
from raymc.cli.jobs import JOB_COMMANDS
from raymc.cli.options import (
    Commands,
    configured,
    load_config,
    load_preset,
    make_console,
    on_device,
    overridable,
    runs_folder,
    with_threshold,
)
from raymc.cli.records import replay, runs, ui
from raymc.cli.review import review
from raymc.cli.serve import serve

METRICS = click.Choice(["mAP", "R80", "micro_AP", "LRAP"])
SECONDS = click.FloatRange(min=0)


_preset = click.option(
    "--preset",
    type=click.Choice(["auto", "small", "medium", "large"]),
    help="Choose the settings that you leave open for a model of this size; auto: by the number of "
    "rows.  [default: auto; with a CONFIG, its own and the documented defaults]",
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="raymc")
def main() -> None:
    """Train, tune and use classifiers of multi-label, fine-grained educational videos.

    DATASET is the folder that `raymc extract` or `raymc import` wrote, or `digits` for the embedded
    example. CONFIG is a YAML file of settings. KEY=VALUE changes a setting, such as
    loss.margin=0.2. `raymc config --reference` explains them all.
    """


@click.command()
@configured
@click.option("--workers", type=int, help="Training workers that share each batch.")
@click.option("--name", help="Name of the run.")
@_preset
def train(target: str | None, overrides: tuple[str, ...], preset: Any, **asked: Any) -> None:
    """Train a model, and keep its best epoch as a bundle.

    Settings that you leave open are chosen to suit the dataset, and printed. Run the same command
    again to resume.
    """
    given = {"train.workers": asked["workers"], "run.name": asked["name"]}
    loaded = load_config(target, overrides, given)
    from raymc.cli.runs import run_train

    run_train(loaded, make_console(), load_preset(target, overrides, given, preset))


@click.command()
@configured
@click.option("--trials", type=int, help="Trials of the sweep, earlier ones included.")
@click.option("--hours", type=float, help="Hours after which no trial starts any more.")
@click.option("--workers", type=int, help="Training workers of each trial.")
@click.option("--gpus-per-trial", type=float, help="GPUs of each worker; 0.25: four share one.")
@click.option("--name", help="Name of the sweep.")
@_preset
def tune(target: str | None, overrides: tuple[str, ...], preset: Any, **asked: Any) -> None:
    """Search for better settings, and keep the best model.

    The settings to search and their ranges are in search.space. Others that you leave open are
    chosen to suit the dataset, and printed. Run the same command again to resume, or with more
    --trials or --hours to search on.
    """
    given = {f"search.{key}": asked[key] for key in ("trials", "hours", "gpus_per_trial")}
    given |= {"train.workers": asked["workers"], "run.name": asked["name"]}
    loaded = load_config(target, overrides, given)
    from raymc.cli.runs import run_tune

    run_tune(loaded, make_console(), load_preset(target, overrides, given, preset))


@click.command()
@click.argument("sweep")
@overridable
@click.option("--out", type=click.Path(), help="HTML file; by default report.html in the sweep.")
@click.option("--split", help="Split to judge the winner on; by default the validation split.")
@click.option("--price", type=click.FloatRange(min=0), help="Price of a GPU or worker per hour.")
def report(
    sweep: str, overrides: tuple[str, ...], out: str | None, split: str | None, price: float | None
) -> None:
    """Write a page about a sweep: what won, why, and what it cost.

    SWEEP is its name or its folder.
    """
    settings = load_config(None, overrides)
    from raymc.cli.runs import run_report
    from raymc.training.runs import find_run, read_run

    run = read_run(find_run(sweep, settings.run.folder), overrides)
    run_report(run, make_console(), out=Path(out) if out else None, split=split, price=price)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN... [KEY=VALUE]...")
@click.option("--split", default="", help="Split to compare on; by default the first run's test.")
@click.option("--dataset", default="", help="Dataset to compare on; by default the first run's.")
@click.option("--metric", type=METRICS, default="mAP", show_default=True, help="Metric to compare.")
@click.option("--html", type=click.Path(), help="Write the comparison to this HTML file, too.")
def compare(runs: tuple[str, ...], split: str, dataset: str, metric: Any, html: str | None) -> None:
    """Compare runs with the first one, on the same rows.

    Shows metrics with intervals, settings and classes that differ. A RUN is the name of a run or
    sweep, its folder, or a bundle. Runs that differ only in their seed count as one.
    """
    from raymc.cli.compare import run_compare
    from raymc.config import is_setting

    folder = runs_folder([text for text in runs if is_setting(text)])
    run_compare(
        [text for text in runs if not is_setting(text)],
        make_console(),
        runs_folder=folder,
        split=split,
        dataset=dataset,
        metric=metric,
        html=Path(html) if html else None,
    )


@click.command()
@click.argument("run")
@click.argument("dataset", required=False)
@overridable
@click.option("--split", default="test", show_default=True, help="Split to evaluate on.")
@on_device
@click.option("--json", "json_file", type=click.Path(), help="Write the metrics to this file, too.")
def evaluate(
    run: str,
    dataset: str | None,
    overrides: tuple[str, ...],
    split: str,
    device: str,
    json_file: str | None,
) -> None:
    """Measure a trained model on a split of a dataset.

    RUN is the name or folder of a run or sweep, or a bundle. Without a DATASET, it is the one that
    the run was trained on.
    """
    from raymc.config import is_setting

    if dataset is not None and is_setting(dataset):
        dataset, overrides = None, (dataset, *overrides)
    folder = runs_folder(overrides)
    from raymc.cli.use import run_evaluate

    run_evaluate(
        run,
        dataset,
        make_console(),
        runs_folder=folder,
        split=split,
        device=device,
        json_file=Path(json_file) if json_file else None,
    )


def _decoder_for(source: str) -> AbstractContextManager[None]:
    """Start the process that decodes local videos, which takes seconds, beside our own imports."""
    from raymc.runtime.child_process import prepared

    place = Path(source)
    has_videos = place.exists() and not (place / "dataset.json").exists()
    return prepared("raymc.features.extraction") if has_videos else nullcontext()


@click.command()
@click.argument("run")
@click.argument("source")
@overridable
@click.option(
    "--out", required=True, type=click.Path(), help="File: .csv, .xlsx, .jsonl, .parquet."
)
@click.option("--split", default="", help="Split of a dataset; by default its only one, or test.")
@click.option("--top", type=click.IntRange(min=1), help="Write only the K most probable labels.")
@with_threshold("is given")
@on_device
def predict(run: str, source: str, overrides: tuple[str, ...], out: str, **given: Any) -> None:
    """Label videos, or the clips of a dataset, with a trained model.

    RUN is the name or folder of a run or sweep, or a bundle. SOURCE is a video, a folder, a glob or
    a table of videos, or a dataset. Without a suffix, --out is a folder of Parquet files. Run the
    same command again to resume.
    """
    folder = runs_folder(overrides)
    given["top"] = given["top"] or 0
    with _decoder_for(source):
        from raymc.cli.use import run_predict

        run_predict(run, source, Path(out), make_console(), runs_folder=folder, **given)


@click.command()
@click.argument("run")
@click.argument("video")
@overridable
@click.option(
    "--out", required=True, type=click.Path(), help="File: .html, .vtt, .eaf, .csv, .xlsx, .json."
)
@click.option("--window", type=SECONDS, help="Seconds of each window; by default as in training.")
@click.option("--stride", type=SECONDS, help="Seconds between windows; by default half a window.")
@with_threshold("shows")
@click.option("--least", type=SECONDS, default=0.0, help="Leave out shorter segments, in seconds.")
@on_device
def timeline(run: str, video: str, overrides: tuple[str, ...], out: str, **given: Any) -> None:
    """Show where in a video each label shows.

    RUN is the name or folder of a run or sweep, or a bundle. The suffix of --out says what is
    written: a page with the video and a track for each label, chapters (.vtt), an ELAN file with a
    tier for each label (.eaf), or a table of segments.
    """
    folder = runs_folder(overrides)
    with _decoder_for(video):
        from raymc.cli.timeline import run_timeline

        run_timeline(run, video, Path(out), make_console(), runs_folder=folder, **given)


@click.command()
@click.argument("run")
@overridable
@click.option("--alias", default="champion", show_default=True, help="Alias to take.")
@click.option("--name", default="", help="Registered model; by default tracking.register_as.")
@click.option("--dataset", default="", help="Dataset to compare on; by default the recorded one.")
@click.option("--split", default="", help="Split to compare on; by default the recorded one.")
@click.option(
    "--metric", type=METRICS, default="mAP", show_default=True, help="Metric that decides."
)
@click.option("--force", is_flag=True, help="Promote the bundle even if it scores worse.")
def promote(run: str, overrides: tuple[str, ...], **asked: Any) -> None:
    """Register a run's bundle as a model, unless it scores worse.

    RUN is compared with the version that holds the alias, on the test set recorded with that
    version. If it scores worse, beyond the interval, this ends with exit code 1. Otherwise RUN
    becomes a version of the model and gets the alias.
    """
    from raymc.cli.promote import Promotion, run_promote

    run_promote(run, Promotion(**asked), make_console(), overrides=overrides)


@click.command("config")
@configured
@click.option("--reference", is_flag=True, help="Explain every setting, as Markdown.")
def show_config(target: str | None, overrides: tuple[str, ...], reference: bool) -> None:
    """Print all settings as YAML, or explain them."""
    import yaml

    from raymc.config import config_reference, to_dict

    loaded = load_config(target, overrides)
    click.echo(
        config_reference() if reference else yaml.safe_dump(to_dict(loaded), sort_keys=False)
    )


_MAKE = (demo, extract, import_, data)
_TRAIN = (train, tune, runs, report, compare)
_USE = (evaluate, predict, timeline, review, add_class, export, serve)
_KEEP = (promote, ui, replay, show_config)
for command in (*_MAKE, *_TRAIN, *_USE, *_KEEP, *JOB_COMMANDS):
    main.add_command(command)
