"""`python -m jobs.bench NAME|all`: raymc beside peers and limits, on this machine.

A benchmark is a module of this folder that has `Settings`, which become its options; `BRIEF`, the
settings of `all`; and a function `bench_NAME`. Imports click alone at first, so that
`--help` answers at once.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from raymc.cli.options import Errors, make_console, option_name, options_of, settings_of
from raymc.errors import ConfigError, ResourceError

BENCHMARKS = {
    "loss": "The loss beside its plain formula and a BCE: time, memory.",
    "ingest": "Rows a second, beside hand-written loops and loaders.",
    "train": "Steps beside a bare loop, Lightning and Trainer.",
    "tune": "Trials an hour, beside Optuna and Ray as documented.",
    "growth": "Checks and statistics of ten times the rows: time, memory.",
    "extract": "Videos to features, beside bare decoding.",
}


class Benchmark(click.Command):
    """A benchmark's command; its module is imported only when its options are asked for."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return an option for each of the benchmark's settings, and those of every benchmark."""
        with _plain_errors(str(self.name)):
            settings = import_module(f"jobs.bench.{self.name}").Settings
        return [*options_of(settings), *super().get_params(ctx)]


@click.group(cls=Errors, context_settings={"help_option_names": ["-h", "--help"]})
def bench() -> None:
    """Measure raymc beside peers and limits, in turns, on this machine."""


@bench.command("all")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the pages.")
@click.option("--media", help="Videos for `extract`: a folder, glob or table; else it is left out.")
def bench_all(out: Path, media: str | None) -> None:
    """Run every benchmark and join their pages.

    Briefly: half an hour in all. OUT/README.md is the page. One that fails doesn't stop the
    others; the exit code is 1 then.
    """
    from jobs.bench.everything import run_all

    given = {name: () if name != "extract" else ("--media", str(media)) for name in BENCHMARKS}
    if media is None:
        del given["extract"]
    failed = run_all(given, out, make_console())
    sys.exit(1 if failed else 0)


def _run(name: str, *, out: Path | None, brief: bool, **given: Any) -> None:
    with _plain_errors(name):
        module = import_module(f"jobs.bench.{name}")
        chosen = (module.BRIEF if brief else {}) | settings_of(module.Settings, given)
        settings = module.Settings(**chosen)
        getattr(module, f"bench_{name}")(make_console(), settings, out=out)


@contextmanager
def _plain_errors(name: str) -> Iterator[None]:
    """Tell in a line which option is out of range, or which package is missing.

    Raises:
        ConfigError: a setting is of another type or out of its range.
        ResourceError: a peer isn't installed.
    """
    from pydantic import ValidationError

    try:
        yield
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"{error.name} isn't installed; `python -m jobs.bench {name}` needs it: "
            "pip install 'raymc[bench]'"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        option = option_name(str(first["loc"][0]), many=len(first["loc"]) > 1)
        raise ConfigError(f"--{option} {first['input']}: {first['msg']}") from None


for _name, _help in BENCHMARKS.items():
    bench.add_command(
        Benchmark(
            _name,
            help=_help,
            callback=partial(_run, _name),
            params=[
                click.Option(["--brief"], is_flag=True, help="The sizes of `all`."),
                click.Option(
                    ["--out"],
                    type=click.Path(path_type=Path),
                    help="Folder for the table and, as JSON, all numbers.",
                ),
            ],
        )
    )


if __name__ == "__main__":
    bench(prog_name="python -m jobs.bench")
