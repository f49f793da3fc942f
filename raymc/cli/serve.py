"""`raymc serve`: a model as a service, with a page to drop a video on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raymc.cli.options import make_console, on_device, overridable, runs_folder
from raymc.errors import ResourceError

if TYPE_CHECKING:
    from rich.console import Console

    from raymc.training.bundle import Bundle


@click.command()
@click.argument("run")
@overridable
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Its port."
)
@click.option("--token-file", type=click.Path(), help="File with the token that clients must send.")
@click.option(
    "--max-mb",
    type=click.FloatRange(min=0, min_open=True),
    default=512.0,
    show_default=True,
    help="Refuse larger videos.",
)
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Refuse longer videos.",
)
@click.option(
    "--queue",
    type=click.IntRange(min=0),
    default=16,
    show_default=True,
    help="Videos that may wait; more are refused.",
)
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that label videos.",
)
@click.option(
    "--decoders",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Videos that each of them decodes at a time.",
)
@click.option(
    "--videos",
    multiple=True,
    metavar="PLACE",
    help="Folder or address below which clients may name videos, in place of sending them.",
)
@click.option("--window", type=float, help="Seconds of a window; by default as in training.")
@click.option("--stride", type=float, help="Seconds from a window to the next.")
@on_device
def serve(
    run: str, overrides: tuple[str, ...], token_file: str | None, host: str, **given: Any
) -> None:
    """Serve a model over HTTP: a video in, its labels over time out.

    RUN is the name or folder of a run or sweep, or a bundle. The service has a page to drop a video
    on, and one at /docs that says how programs ask. Only this machine reaches it, unless --host
    says otherwise; then a token is needed, from --token-file or RAYMC_SERVE_TOKEN. Ctrl-C and
    SIGTERM end it after the videos that it has.
    """
    folder = runs_folder(overrides)
    from raymc.serving.access import check_host, check_places, read_token

    token = read_token(Path(token_file) if token_file else None)
    check_host(host, token)
    check_places(given["videos"])
    from raymc.training.bundle import load_bundle
    from raymc.training.runs import find_bundle

    bundle = load_bundle(find_bundle(run, folder))
    run_serve(bundle, make_console(), token=token, host=host, **given)


def run_serve(
    bundle: "Bundle",
    console: "Console",
    *,
    host: str,
    port: int,
    token: str,
    max_mb: float,
    max_minutes: float,
    queue: int,
    replicas: int,
    decoders: int,
    videos: Sequence[str],
    window: float | None,
    stride: float | None,
    device: str,
) -> None:
    """Serve a model until a signal comes, which this raises as KeyboardInterrupt at the end."""
    # What is wrong with the model is said before Ray is imported, which takes seconds.
    from raymc.evaluation.media import plan_of
    from raymc.evaluation.timeline import window_and_stride
    from raymc.serving.access import check_host, check_places
    from raymc.terminal import print_line
    from raymc.training.runs import name_of

    check_host(host, token)
    places = check_places(videos)
    plan_of(bundle)
    windows = window_and_stride(bundle, window, stride)
    try:
        from raymc.serving.labeller import Limits
        from raymc.serving.on_ray import Asked
        from raymc.serving.run import run_service
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"{error.name} isn't installed; raymc serve needs it: pip install 'raymc[serve]'"
        ) from error
    limits = Limits(
        upload_bytes=int(max_mb * 2**20),
        video_seconds=60 * max_minutes,
        waiting=queue,
        places=places,
    )
    asked = Asked(
        bundle=bundle.folder.absolute(),
        digest=bundle.digest,
        limits=limits,
        windows=windows,
        device=device,
        replicas=replicas,
        decoders=decoders,
    )
    run_service(
        asked,
        host=host,
        port=port,
        token=token,
        title=name_of(bundle.folder),
        labels=len(bundle.vocabulary),
        told=lambda line: print_line(console, line),
    )
