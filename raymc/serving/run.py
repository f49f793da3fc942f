"""Runs a service until a signal ends it: the gateway in a thread, labellers on Ray Serve.

Signals are those of every command. The first one stops taking requests, and those that are here
are finished; the second ends at once.
"""

import logging
import socket
import threading
from collections.abc import Callable

import uvicorn

from raymc.config import ServeConfig
from raymc.errors import ConfigError, ResourceError
from raymc.runtime.interruption import allow_to_end
from raymc.serving.gateway import Gateway
from raymc.serving.labeller import Windows
from raymc.serving.on_ray import Service
from raymc.training.bundle import Bundle
from raymc.training.runs import name_of

SECONDS_TO_DRAIN = 120.0
_SECONDS_TO_LEAVE = 15.0  # after that, to end Ray


def run_service(
    bundle: Bundle,
    windows: Windows,
    settings: ServeConfig,
    *,
    token: str,
    told: Callable[[str], None],
) -> None:
    """Serve until a signal comes, which this raises as KeyboardInterrupt after the last answer.

    Args:
        bundle: The model.
        windows: Of its timelines.
        settings: Of the service; its host and places are checked.
        token: What clients have to send; empty: nothing.
        told: Called with lines for people.

    Raises:
        ConfigError: The address can't be listened on.
        ResourceError: Ray does not start.
    """
    host = settings.host
    with _listening(host, settings.port) as listener:
        told("starting Ray Serve, which takes some seconds")
        service = Service(bundle, windows, settings)
        title, labels = name_of(bundle.folder), len(bundle.vocabulary)
        gateway = Gateway(
            service.label, settings, title=title, labels=labels, token=token, told=told
        )
        server = _server(gateway)
        allow_to_end(SECONDS_TO_DRAIN + _SECONDS_TO_LEAVE)
        has_ended = _started(server, listener)
        try:
            shown = f"[{host}]" if ":" in host else host
            told(f"ready: http://{shown}:{listener.getsockname()[1]} (Ctrl-C ends it)")
            has_ended.wait()
        except KeyboardInterrupt:
            told("no more videos are taken; finishing those that are here")
            server.should_exit = True
            has_ended.wait(SECONDS_TO_DRAIN)
            service.close()
            raise
        raise ResourceError("the service has ended by itself: start it again")


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise ConfigError(
            f"can't listen on {host}, port {port} ({error}): choose another --port or --host"
        ) from error


def _server(gateway: Gateway) -> uvicorn.Server:
    # These write about each broken request, which a stranger may send.
    for name in ("python_multipart", "uvicorn"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return uvicorn.Server(
        uvicorn.Config(
            gateway.app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=int(SECONDS_TO_DRAIN),
        )
    )


def _started(server: uvicorn.Server, listener: socket.socket) -> threading.Event:
    """Run a server in a thread; returns an event that is set when it has ended.

    Not the thread for its `join`: after an interrupted one, Python takes the thread for ended.
    """
    has_ended = threading.Event()

    def answer() -> None:
        try:
            server.run([listener])
        finally:
            has_ended.set()

    threading.Thread(target=answer, daemon=True).start()
    return has_ended
