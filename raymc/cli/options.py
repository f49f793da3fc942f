"""What commands share: one-line errors, a configuration as arguments, settings as options.

Imports only click at first, so that `raymc --help` is answered at once.
"""

import errno
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

import click
from click.exceptions import NoArgsIsHelpError

from raymc.errors import ConfigError, RaymcError
from raymc.runtime.interruption import exit_code, is_interrupted, told

if TYPE_CHECKING:
    from rich.console import Console

    from raymc.config import Config, Preset, Size

_CONFIGS = (".yaml", ".yml")
MOST_FAILURES = 10  # that are named in the terminal, too
_UNITS = ("_seconds", "_hz")
# Errors of a path that was typed, or of the disk, wherever a command meets them.
_OF_THE_PLACE = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EACCES, errno.EROFS}
_OF_THE_PLACE |= {errno.ENOSPC, errno.EDQUOT}
Command = TypeVar("Command", bound=Callable[..., Any])
on_device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes a GPU if there is one.",
)
OWN_THRESHOLD = "for a threshold of your own, add for example --threshold 0.5"


def with_threshold(shows: str) -> Callable[[Command], Command]:
    """Return an option for the probability from which a label `shows`, such as "is given"."""
    return click.option(
        "--threshold",
        type=click.FloatRange(0, 1, min_open=True),
        help=f"Probability from which a label {shows}; by default the model's thresholds.",
    )


class Commands(click.Group):
    """Commands in the order in which they were added; their errors are one line on stderr."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names in order."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; prints raymc's own errors without a traceback."""
        try:
            return super().invoke(ctx)
        except click.exceptions.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            # Native code and imports may turn our KeyboardInterrupt into another error.
            if is_interrupted() or isinstance(error, KeyboardInterrupt):
                click.echo(told(command=ctx.invoked_subcommand), err=True)
                ctx.exit(exit_code())
            if isinstance(error, click.UsageError) and not isinstance(error, NoArgsIsHelpError):
                path = (error.ctx or ctx).command_path
                line, code = f"{error.format_message()} See {path} --help.", error.exit_code
            elif isinstance(error, RaymcError):
                line, code = str(error), error.exit_code
            elif isinstance(error, OSError) and error.errno in _OF_THE_PLACE:
                line, code = f"{error.filename or 'a file'} can't be used: {error.strerror}", 2
            else:
                raise
            from raymc.terminal import one_line

            click.echo(one_line(f"raymc: {line}"), err=True)
            ctx.exit(code)


def configured(command: Command) -> Command:
    """Add the arguments of every command that takes a dataset or a configuration."""
    return click.argument("target", required=False, metavar="[DATASET|CONFIG]")(
        overridable(command)
    )


def overridable(command: Command) -> Command:
    """Add the overrides of settings to a command's arguments."""
    return click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(command)


def load_config(
    target: str | None, overrides: tuple[str, ...] = (), given: Mapping[str, Any] = {}
) -> "Config":
    """Load the settings that a command was given; the later ones replace the earlier.

    Args:
        target: A YAML file of settings, the address of a dataset, or `digits` for the embedded
            example; an override if it has the form KEY=VALUE.
        overrides: Settings of the form KEY=VALUE.
        given: Settings by dotted path, from options; None where an option was not used.

    Raises:
        ConfigError: A setting is unknown or out of range, or the target is another kind of file.
    """
    from raymc.config import check_passwords, load, overridden, override

    target, overrides = _told_apart(target, overrides)
    config, data = (target, {}) if _is_config(target) else (None, _dataset(target))
    loaded = overridden(override(load(config), data), overrides)
    loaded = override(loaded, {key: value for key, value in given.items() if value is not None})
    check_passwords(loaded)
    return loaded


def runs_folder(overrides: Sequence[str]) -> str:
    """Return the folder of runs, the one setting of commands that use a trained model.

    Raises:
        ConfigError: Another setting is given, which would change nothing.
    """
    from raymc.config import settings_in

    folder = load_config(None, tuple(overrides)).run.folder
    if others := settings_in(None, overrides) - {"run.folder"}:
        raise ConfigError(
            f"{min(others)}: a trained model keeps its settings, so only run.folder can be given "
            "here; see --help for options"
        )
    return folder


def load_preset(
    target: str | None,
    overrides: tuple[str, ...],
    given: Mapping[str, Any],
    size: "Size | None",
) -> "Preset | None":
    """Return how to choose the settings that a command was not given; the arguments are its own.

    Without a size, a YAML file is taken as it is: None. All else is chosen by the dataset.
    """
    from raymc.config import Preset, settings_in

    target, overrides = _told_apart(target, overrides)
    file = target if _is_config(target) else None
    if size is None and file is not None:
        return None
    keys = {key for key, value in given.items() if value is not None}
    return Preset(size=size or "auto", given=settings_in(file, overrides) | keys)


def _told_apart(
    target: str | None, overrides: tuple[str, ...]
) -> tuple[str | None, tuple[str, ...]]:
    """Return target and overrides; what was typed as the target may be the first override."""
    from raymc.config import is_setting

    if target is not None and not Path(target).exists():
        value_is_missing = "." in target and is_setting(f"{target}=")
        if "=" in target or value_is_missing:
            return None, (target, *overrides)
    return target, overrides


def _is_config(target: str | None) -> bool:
    if target is None or not Path(target).is_file():
        return target is not None and Path(target).suffix in _CONFIGS
    if Path(target).suffix in _CONFIGS:
        return True
    raise ConfigError(
        f"{target} is neither the folder of a dataset nor a YAML file of settings; to make a "
        f"dataset of a video or a table of videos: raymc extract {target} --out FOLDER"
    )


def _dataset(target: str | None) -> dict[str, Any]:
    """Return the settings of the dataset that a command was given."""
    from raymc.config import EXAMPLE, EXAMPLE_FOLDER

    if target is None:
        return {}
    if target == EXAMPLE and not Path(target).exists():
        return {"data.path": EXAMPLE_FOLDER, "data.make": {"name": EXAMPLE}}
    return {"data.path": target}


def make_console() -> Any:
    """Return the console on which commands print."""
    from raymc import terminal

    return terminal.make_console()


def print_unread(console: Any, failures: Sequence[str], *, rest: str = "") -> None:
    """Print what could not be read, or the first of it; `rest` says where all of it is."""
    from raymc.terminal import print_line

    for failure in failures[:MOST_FAILURES]:
        print_line(console, f"not read: {failure}", "yellow")
    if (more := len(failures) - MOST_FAILURES) > 0:
        print_line(console, f"… and {more:,} more{rest}", "yellow")


def program() -> str:
    """Return how to type `raymc`: as a path if the environment is not activated."""
    if shutil.which("raymc"):
        return "raymc"
    beside = Path(sys.executable).with_name("raymc")
    if not beside.exists():
        return f"{sys.executable} -m raymc"
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)


def print_next(console: "Console", what: str, *words: str) -> None:
    """Say which command of raymc comes next."""
    from raymc.terminal import print_line

    print_line(console, f"next, {what}: {program()} {shlex.join(words)}")


def options_of(kind: Any, plural: Mapping[str, str] = {}) -> list[click.Parameter]:
    """Return an option for each setting except `name`.

    Options leave out units, and take lists and mappings piece by piece under a singular:
    `rates_hz` becomes `--rate NAME=VALUE`, which may be given several times. `plural` names the
    lists that keep their own name, with what help calls a piece of each.
    """
    return [
        _option(name, field, plural.get(name))
        for name, field in kind.__pydantic_fields__.items()
        if name != "name"
    ]


def settings_of(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a command was given.

    Raises:
        click.BadParameter: A piece of a mapping is not NAME=VALUE.
    """
    settings: dict[str, Any] = {}
    for name, field in kind.__pydantic_fields__.items():
        value = given.get(name)
        if value is None or value == ():
            continue
        if _is(field, Mapping):
            settings[name] = dict(pair_of(piece, name) for piece in value)
        else:
            settings[name] = list(value) if isinstance(value, tuple) else value
    return settings


class _Option(click.Option):
    """An option that shows a default, but is None where it was not given."""

    shown = ""

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Return what the help shows in brackets."""
        default = {"default": self.shown} if self.shown else {}
        return {**super().get_help_extra(ctx), **default}


def _option(name: str, field: Any, piece: str | None) -> click.Option:
    many = _is(field, Mapping) or _is(field, tuple)
    flags = [f"--{option_name(name, many=many and piece is None)}"]
    given: dict[str, Any] = {"multiple": many, "metavar": piece}
    if field.annotation is bool:
        flags = [f"{flags[0]}/--no-{flags[0][2:]}"]
        given["default"] = None
    elif _is(field, Mapping):
        given["metavar"] = "NAME=VALUE"
    else:
        given["type"] = _type(field)
    option = _Option([*flags, name], help=field.description, required=field.is_required(), **given)
    default = None if option.required else field.get_default(call_default_factory=True)
    if default not in (None, "", (), {}):
        option.shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return option


def _type(field: Any) -> Any:
    """Return what an option takes: one of some words, a number in its range, or (None) any text."""
    kinds = get_args(field.annotation) or (field.annotation,)
    if choices := [x for x in kinds if isinstance(x, str)]:
        return click.Choice(choices)
    number = next((x for x in (int, float) if {x} == {*kinds} - {NoneType, Ellipsis}), None)
    limits: dict[str, Any] = {}
    for sign, end in (("ge", "min"), ("gt", "min"), ("le", "max"), ("lt", "max")):
        for bound in (x for x in field.metadata if hasattr(x, sign)):
            limits |= {end: getattr(bound, sign), f"{end}_open": sign in ("gt", "lt")}
    ranges = {int: click.IntRange, float: click.FloatRange}
    return ranges[number](**limits) if number and limits else number


def option_name(name: str, *, many: bool) -> str:
    """Return the name of a setting on the command line."""
    for unit in _UNITS:
        name = name.removesuffix(unit)
    if many and name.endswith("ies"):
        name = name[:-3] + "y"
    elif many and name.endswith(("sses", "ches")):
        name = name[:-2]
    elif many:
        name = name.removesuffix("s")
    return name.replace("_", "-")


def _is(field: Any, kind: type) -> bool:
    origin = get_origin(field.annotation) or field.annotation
    return isinstance(origin, type) and issubclass(origin, kind)


def pair_of(piece: str, name: str) -> tuple[str, str]:
    """Return the two sides of NAME=VALUE, a piece of the mapping `name`."""
    key, equals, value = piece.partition("=")
    if not equals or not key or not value:
        option = option_name(name, many=True)
        raise click.BadParameter(f"{piece!r}: expected NAME=VALUE", param_hint=f"--{option}")
    return key, value
