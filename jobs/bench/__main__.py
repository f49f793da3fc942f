"""The command `python -m jobs.bench`: a benchmark each, `all` of them, and makers of GRID's data.

At the top only click is imported, so that `--help` answers at once. A benchmark is a module of
this folder, as described in `__init__.py`.
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from raymc.cli.options import Commands, make_console, option_name, options_of, settings_of
from raymc.errors import ConfigError, ResourceError

IN_ALL = {
    "loss": "The loss beside its plain formula and a BCE.",
    "ingest": "Rows a second, beside other loaders.",
    "startup": "What a person waits for before and after the work.",
    "train": "Steps beside a bare loop, Lightning and Trainer.",
    "tune": "Trials an hour, beside Optuna and Ray.",
    "growth": "Checks and statistics of ten times the rows.",
    "extract": "Videos to features, beside bare decoding.",
}
BENCHMARKS = {
    **IN_ALL,
    "accuracy": "Losses and classifiers, tuned with one budget.",
    "order": "Sorting by length: who meets, padding, accuracy.",
    "scale": "The driver's work for ever more shards, runs and trials.",
    "presets": "Settings chosen by the data, beside the defaults.",
    "autoscale": "GPU-hours of a sweep on nodes that come and go.",
    "fusion": "Modalities and fusion depths, by label group.",
    "shots": "Accuracy from few clips of each class.",
    "timeline": "Segments of labels in lessons whose times are known.",
    "towers": "Vision towers' share of a device's speed.",
    "serve": "The service under load, beside MLflow's.",
    "add-class": "A class from a few clips, beside training with it.",
    "review": "Planted wrong labels that a review finds.",
}
PATH = click.Path(path_type=Path)


class Benchmark(click.Command):
    """A benchmark's command; its module is imported only when its options are asked for."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return an argument or option for each setting, and the options of every benchmark."""
        with _plain_errors(str(self.name)):
            module = import_module(f"jobs.bench.{_file(str(self.name))}")
        arguments = getattr(module, "ARGUMENTS", {})
        given = [_as_argument(o, arguments) for o in options_of(module.Settings)]
        return [*given, *super().get_params(ctx)]


def _as_argument(option: click.Parameter, metavars: Mapping[str, str]) -> click.Parameter:
    if option.name not in metavars:
        return option
    many = -1 if option.multiple else 1
    metavar = metavars[option.name]
    return click.Argument([option.name], nargs=many, required=option.required, metavar=metavar)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def bench() -> None:
    """Measure raymc beside peers and limits, on this machine."""


def _run(name: str, *, out: Path | None, brief: bool = False, **given: Any) -> None:
    with _plain_errors(name):
        module = import_module(f"jobs.bench.{_file(name)}")
        chosen = (module.BRIEF if brief else {}) | settings_of(module.Settings, given)
        settings = module.Settings(**chosen)
        getattr(module, f"bench_{_file(name)}")(make_console(), settings, out=out)


def _file(name: str) -> str:
    """Return the name of a benchmark's module."""
    return name.replace("-", "_")


@contextmanager
def _plain_errors(name: str) -> Iterator[None]:
    """Report in a line which option is out of range, or which package is missing.

    Raises:
        ConfigError: a setting has the wrong type or is out of its range.
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


_OUT = click.Option(["--out"], type=PATH, help="Folder for the page and, as JSON, all figures.")
_BRIEF = click.Option(["--brief"], is_flag=True, help="Use the sizes of `all`.")
for _name, _help in BENCHMARKS.items():
    _shared = [_BRIEF, _OUT] if _name in IN_ALL else [_OUT]
    bench.add_command(
        Benchmark(_name, help=_help, callback=partial(_run, _name), params=[*_shared])
    )


@bench.command("all")
@click.option("--out", required=True, type=PATH, help="Folder of the pages.")
@click.option(
    "--media", help="Videos for `extract`, which is left out without: a folder, glob or table."
)
def bench_all(out: Path, media: str | None) -> None:
    """Run all that measure time, briefly.

    Takes half an hour and joins the pages to OUT/README.md. If a benchmark fails, the others still
    run, and the exit code is 1. `accuracy`, `order`, `presets`, `fusion`, `shots`, `scale`,
    `timeline`, `towers`, `serve`, `add-class` and `review` are not part of it.
    """
    given: dict[str, Sequence[str]] = {name: () for name in IN_ALL if name != "extract"}
    if media is not None:
        given["extract"] = ("--media", media)
    sys.exit(1 if run_all(given, out, make_console()) else 0)


@bench.command("noise")
@click.argument("grid", type=PATH)
@click.argument("out", type=PATH, metavar="OUT.npz")
@click.option("--snr", type=float, required=True, help="Signal-to-noise ratio in dB; inf is clean.")
@click.option(
    "--noise",
    type=click.Choice(["babble", "white"]),
    default="babble",
    help="Kind of noise.  [default: babble]",
)
def make_noise(grid: Path, out: Path, snr: float, noise: Any) -> None:
    """Make GRID's features with noise in the sound.

    For jobs/configs/accuracy/grid.yaml. The folder GRID holds grid_s1_av.npz and
    audio16k/NAME.flac.
    """
    from jobs.bench.noise import make_noisy

    make_noisy(grid / "grid_s1_av.npz", grid / "audio16k", out, snr_db=snr, noise=noise)


@bench.command("grid")
@click.argument("clips", type=PATH)
@click.argument("table", type=PATH, metavar="TABLE.csv")
def make_grid_table(clips: Path, table: Path) -> None:
    """Write the table of a folder of GRID's clips.

    For jobs/configs/grid-clips.yaml. The labels are in the file names.
    """
    from jobs.bench.grid import write_table

    write_table(clips, table)


@bench.command("long-tail")
@click.argument("folder", type=PATH)
@click.option("--classes", type=click.IntRange(min=2), default=300, help="Labels.  [default: 300]")
@click.option(
    "--clips",
    type=click.IntRange(min=2),
    default=1200,
    help="Clips to train on, as many for the test and half as many for val.  [default: 1200]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed.  [default: 0]")
def make_long_tail(folder: Path, classes: int, clips: int, seed: int) -> None:
    """Write made-up clips of many classes, most of them rare.

    For jobs/configs/accuracy/long-tail.yaml.
    """
    from jobs.bench.long_tail import LongTail, long_tail
    from raymc.formats.recipe import make_dataset

    make_dataset(long_tail(LongTail(classes=classes, clips=clips, seed=seed)), str(folder))


def run_all(given: Mapping[str, Sequence[str]], out: Path, console: Any) -> list[str]:
    """Run benchmarks briefly, each in its own process, and join their pages.

    The page is written again after each, so that a run that is stopped leaves what it has.

    Args:
        given: Options of each, by name; in the order in which they run.
        out: Folder for the pages and figures of all, and README.md with all pages.
        console: Where the names are printed.

    Returns:
        The names of those that failed.
    """
    from jobs.bench.measure import machine_line

    out.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    pages: list[str] = []
    for name, options in given.items():
        console.rule(name, style="dim")
        page = out / f"{name}.md"
        page.unlink(missing_ok=True)  # from an earlier run
        code = _run_apart(name, *options, "--brief", "--out", str(out))
        if code:
            failed.append(name)
            console.print(f"{name} failed with exit code {code}; the others still run")
            pages.append(f"## {name.capitalize()}\n\nFailed with exit code {code}.\n")
        if page.exists():
            pages.append(page.read_text())
        whole = "\n".join(["# Benchmarks of raymc\n", f"{machine_line()}\n", *pages])
        (out / "README.md").write_text(whole)
    console.print(f"{out / 'README.md'}", highlight=False, soft_wrap=True)
    return failed


def _run_apart(name: str, *options: str) -> int:
    command = [sys.executable, "-m", "jobs.bench", name, *options]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    bench(prog_name="python -m jobs.bench")
