"""The commands that make and look at datasets: `raymc data`, `raymc import`, `raymc extract`.

Like `cli.py`, each parses and calls one function, and imports what is heavy inside.
"""

import sys
from typing import Any

import click

from raymc.cli.options import configured, load_config, make_console


@click.group()
def data() -> None:
    """Make, check and describe datasets of shards."""


@data.command("make")
@configured
def data_make(config: str | None, overrides: tuple[str, ...]) -> None:
    """Write the dataset that CONFIG's data.make describes."""
    from raymc.cli.runs import run_import

    run_import(load_config(config, overrides, {}), make_console())


@data.command("check")
@click.argument("path")
def data_check(path: str) -> None:
    """Look at every row of the dataset at PATH; exit code 1 if anything is wrong."""
    from raymc.data.check import check_dataset

    findings = check_dataset(path)
    for finding in findings:
        click.echo(str(finding))
    click.echo(f"{path}: {len(findings)} findings" if findings else f"{path}: no findings")
    sys.exit(1 if findings else 0)


@data.command("info")
@click.argument("path")
@click.option("--plot", type=click.Path(), help="Draw it into a PNG file, too.")
def data_info(path: str, plot: str | None) -> None:
    """Describe the dataset at PATH: rows, tokens, labels and which go together."""
    from raymc.data.info import describe, plot_info, print_info
    from raymc.data.shards import open_dataset

    info = describe(open_dataset(path))
    print_info(info, make_console())
    if plot:
        plot_info(info, plot)


@data.command("audit")
@click.argument("run")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def data_audit(run: str, overrides: tuple[str, ...]) -> None:
    """Prove which rows trained RUN, a run or sweep; exit code 1 if one was lost or used twice."""
    settings = load_config(None, overrides, {})
    from raymc.search.audit import audit_trials, trials_table
    from raymc.training.audit import audit_run, audit_table, restarts_line
    from raymc.training.runs import find_run, read_run

    opened = read_run(find_run(run, settings.run.folder))
    console = make_console()
    if opened.is_sweep:
        found = audit_trials(opened)
        console.print(trials_table(run, found))
        where = f"{len(found)} trials"
    else:
        audited = audit_run(opened)
        console.print(audit_table(audited))
        if line := restarts_line(audited):
            console.print(line, soft_wrap=True)
        found, where = [audited], audited.checkpoint
    is_right = all(each.is_right for each in found)
    verdict = "no row lost, none used twice" if is_right else "rows were lost or used twice"
    console.print(f"{where}: {verdict}", soft_wrap=True)
    sys.exit(0 if is_right else 1)


class Formats(click.Group):
    """A command for each format; its options are the settings of the format's recipe."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the formats' names."""
        from raymc.config import IMPORTERS

        return sorted(IMPORTERS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Make the command of one format."""
        from raymc.cli.options import options_of
        from raymc.config import IMPORTERS

        if cmd_name not in IMPORTERS:
            return None
        kind = IMPORTERS[cmd_name]
        out = click.Option(["--out"], required=True, help="Folder of the dataset that is written.")
        return click.Command(
            cmd_name,
            params=[*options_of(kind), out],
            help=(sys.modules[kind.__module__].__doc__ or "").split("\n\n")[0],
            callback=lambda out, **given: _import(cmd_name, out, given),
        )


@click.group("import", cls=Formats)
def import_() -> None:
    """Turn features in public formats into a dataset of shards."""


def _import(name: str, out: str, given: dict[str, Any]) -> None:
    from raymc.cli.options import settings_of
    from raymc.cli.runs import run_import
    from raymc.config import IMPORTERS

    settings = settings_of(IMPORTERS[name], given)
    make = {"data.path": out, "data.make": {"name": name, **settings}}
    run_import(load_config(None, (), make), make_console())


@click.command()
@click.argument("source", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", help="Folder of the dataset that is written.")
@click.option("--config", help="YAML file with further settings.")
@click.option("--fps", type=float, help="Frames a second that are encoded.")
@click.option("--window", type=float, help="Cut longer videos to clips of so many seconds.")
@click.option("--stride", type=float, help="Seconds from one clip's start to the next.")
@click.option("--visual", help="Encoder of frames: patches, a model of a hub, or none.")
@click.option("--audio", help="Encoder of sound: logmel, a torchaudio bundle, or none.")
@click.option("--text", help="Encoder of the transcript: words, a model of a hub, or none.")
@click.option("--transcript", help="Where the transcript comes from: sidecar, or an ASR bundle.")
@click.option("--weights", help="Folder of the encoders' weights, where there is no network.")
@click.option("--max-failures", help="Share of files that may fail, such as 5%.")
def extract(
    source: str | None, overrides: tuple[str, ...], config: str | None, **given: Any
) -> None:
    """Make a dataset of the videos in SOURCE: a folder, a glob or a table of paths and labels.

    The same command again goes on where it stopped.
    """
    from raymc.cli.runs import run_extract

    if source is not None and "=" in source:
        source, overrides = None, (source, *overrides)
    named = {"out": "data.path", "window": "extract.window_seconds"}
    named["stride"] = "extract.stride_seconds"
    settings = {named.get(key, f"extract.{key}"): value for key, value in given.items()}
    settings["extract.max_failures"] = _share(given["max_failures"])
    settings["extract.source"] = source
    run_extract(load_config(config, overrides, settings), make_console())


def _share(text: str | None) -> float | str | None:
    """Return `5%` as 0.05; what is no number is left to the settings to refuse."""
    if text is None:
        return None
    number, percent, rest = text.partition("%")
    try:
        return float(number) / (100 if percent else 1) if not rest else text
    except ValueError:
        return text
