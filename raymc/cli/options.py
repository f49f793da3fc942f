"""What commands share: one-line errors, a configuration as arguments, settings as options.

Imports only click at first, so that `raymc --help` is answered at once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import click

from raymc.errors import RaymcError
from raymc.runtime.interruption import exit_code, is_interrupted, told

_UNITS = ("_seconds", "_hz")
_RESUMED = {"train", "tune", "extract", "demo", "replay"}
Command = TypeVar("Command", bound=Callable[..., Any])


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
                again = "run the same command again"
                resumes = ctx.invoked_subcommand in _RESUMED
                click.echo(told(f"{again} to resume" if resumes else again), err=True)
                ctx.exit(exit_code())
            if not isinstance(error, RaymcError):
                raise
            from raymc.terminal import one_line

            click.echo(one_line(f"raymc: {error}"), err=True)
            ctx.exit(error.exit_code)


def configured(command: Command) -> Command:
    """Add the arguments of every command that takes a configuration."""
    return click.argument("config", required=False, metavar="[CONFIG]")(overridable(command))


def overridable(command: Command) -> Command:
    """Add the overrides of settings to a command's arguments."""
    return click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(command)


def load_config(config: str | None, overrides: tuple[str, ...], given: dict[str, Any]) -> Any:
    """Load a configuration; a first argument of the form KEY=VALUE is an override."""
    from raymc.config import check_passwords, load, override

    if config is not None and "=" in config and not Path(config).is_file():
        config, overrides = None, (config, *overrides)
    loaded = load(config, overrides)
    loaded = override(loaded, {key: value for key, value in given.items() if value is not None})
    check_passwords(loaded)
    return loaded


def make_console() -> Any:
    """Return the console on which commands print."""
    from raymc import terminal

    return terminal.make_console()


def options_of(kind: Any) -> list[click.Parameter]:
    """Return an option for each setting except `name`.

    Options leave out units, and take lists and mappings piece by piece under a singular:
    `rates_hz` becomes `--rate NAME=VALUE`, which may be given several times.
    """
    return [
        _option(name, field) for name, field in kind.__pydantic_fields__.items() if name != "name"
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
            settings[name] = dict(_pair(piece, name) for piece in value)
        else:
            settings[name] = list(value) if isinstance(value, tuple) else value
    return settings


def _option(name: str, field: Any) -> click.Option:
    many = _is(field, Mapping) or _is(field, tuple)
    flags = [f"--{option_name(name, many=many)}"]
    given: dict[str, Any] = {"multiple": many}
    if field.annotation is bool:
        flags = [f"{flags[0]}/--no-{flags[0][2:]}"]
        given["default"] = None
    elif choices := [x for x in get_args(field.annotation) if isinstance(x, str)]:
        given["type"] = click.Choice(choices)
    elif _is(field, Mapping):
        given["metavar"] = "NAME=VALUE"
    required = field.is_required()
    default = None if required else field.get_default(call_default_factory=True)
    listed = " ".join(map(str, default)) if isinstance(default, tuple) else default
    shown = f"  [default: {listed}]" if default not in (None, "", (), {}) else ""
    text = f"{field.description}{shown}"
    return click.Option([*flags, name], help=text, required=required, **given)


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


def _pair(piece: str, name: str) -> tuple[str, str]:
    key, equals, value = piece.partition("=")
    if not equals or not key or not value:
        option = option_name(name, many=True)
        raise click.BadParameter(f"{piece!r}: expected NAME=VALUE", param_hint=f"--{option}")
    return key, value
