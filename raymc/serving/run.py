"""Runs a service until a signal ends it: the gateway in a thread, labellers on Ray Serve.

Signals are those of every command. The first one stops taking requests, and those that are here
are finished; the second ends at once.
"""

import socket
import threading
from collections.abc import Callable

import uvicorn

from raymc.errors import ConfigError, ResourceError
from raymc.runtime.interruption import allow_to_end
from raymc.serving.access import LOOPBACK, check_host, is_loopback
from raymc.serving.gateway import make_app
from raymc.serving.on_ray import Asked, Service

SECONDS_TO_DRAIN = 120.0
_SECONDS_TO_LEAVE = 15.0  # after that, to end Ray


def run_service(
    asked: Asked,
    *,
    host: str,
    port: int,
    token: str,
    title: str,
    labels: int,
    told: Callable[[str], None],
) -> None:
    """Serve until a signal comes, which this raises as KeyboardInterrupt after the last answer.

    Args:
        asked: What to serve.
        host: Address to listen on.
        port: Its port; 0: any that is free.
        token: What clients have to send; empty: nothing.
        title: Name of the model.
        labels: How many labels it has.
        told: Called with lines for people.

    Raises:
        ConfigError: The address can't be listened on.
        ResourceError: Ray does not start.
    """
    check_host(host, token)
    with _listening(host, port) as listener:
        told("starting Ray Serve, which takes some seconds")
        service = Service(asked)
        app = make_app(
            service.label,
            asked.limits,
            title=title,
            labels=labels,
            at_once=asked.at_once,
            token=token,
            hosts=LOOPBACK | {host} if is_loopback(host) else frozenset(),
            told=told,
        )
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=int(SECONDS_TO_DRAIN),
        )
        server = uvicorn.Server(config)
        # Not the thread's `join`: after an interrupted one, Python takes the thread for ended.
        has_ended = threading.Event()

        def answer() -> None:
            try:
                server.run([listener])
            finally:
                has_ended.set()

        allow_to_end(SECONDS_TO_DRAIN + _SECONDS_TO_LEAVE)
        threading.Thread(target=answer, daemon=True).start()
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
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"can't listen on {host}, port {port} ({error}): choose another --port or --host"
        ) from error
