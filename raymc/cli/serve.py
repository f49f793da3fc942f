"""`raymc serve`: a model as a service, with a page to drop a video on."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raymc.cli.options import make_console, options_of, overridable, runs_folder, settings_of
from raymc.errors import ResourceError

if TYPE_CHECKING:
    from rich.console import Console

    from raymc.config import ServeConfig
    from raymc.training.bundle import Bundle


class _Serve(click.Command):
    """The command; the settings that are its options are imported only when they are asked for."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return its options and arguments."""
        from raymc.config import ServeConfig

        return [*options_of(ServeConfig, plural={"videos": "PLACE"}), *super().get_params(ctx)]


@click.command(cls=_Serve)
@click.argument("run")
@overridable
@click.option("--token-file", type=click.Path(), help="File with the token that clients must send.")
def serve(run: str, overrides: tuple[str, ...], token_file: str | None, **given: Any) -> None:
    """Serve a model over HTTP: a video in, its labels over time out.

    RUN is the name or folder of a run or sweep, or a bundle. The service has a page to drop a video
    on, and one at /docs that says how programs ask. Only this machine reaches it, unless --host
    says otherwise; then a token is needed, from --token-file or RAYMC_SERVE_TOKEN. Ctrl-C and
    SIGTERM end it after the videos that it has.
    """
    folder = runs_folder(overrides)
    from raymc.config import ServeConfig, checked
    from raymc.serving.access import read_token

    settings = checked(ServeConfig, settings_of(ServeConfig, given))
    token = read_token(Path(token_file) if token_file else None)

    def load() -> "Bundle":
        from raymc.training.bundle import load_bundle
        from raymc.training.runs import find_bundle

        return load_bundle(find_bundle(run, folder))

    run_serve(load, settings, make_console(), token=token)


def run_serve(
    load: Callable[[], "Bundle"], settings: "ServeConfig", console: "Console", *, token: str
) -> None:
    """Serve a model until a signal comes, which this raises as KeyboardInterrupt at the end.

    Two imports take seconds, that of PyTorch with the model and that of Ray. What is wrong with the
    settings is said before the first, and what is wrong with the model before the second.
    """
    from raymc.serving.access import check_host, check_places

    check_host(settings.host, token)
    settings = replace(settings, videos=check_places(settings.videos))
    bundle = load()
    from raymc.evaluation.media import plan_of
    from raymc.evaluation.timeline import window_and_stride
    from raymc.terminal import print_line

    plan_of(bundle)
    windows = window_and_stride(bundle, settings.window, settings.stride)
    try:
        from raymc.serving.run import run_service
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"{error.name} isn't installed; raymc serve needs it: pip install 'raymc[serve]'"
        ) from error
    run_service(bundle, windows, settings, token=token, told=partial(print_line, console))
