"""Labellers on Ray Serve, beside the gateway on the same machine, whose files they read."""

import asyncio
import logging
import os
from pathlib import Path
from uuid import uuid4

import ray
from ray import serve
from ray.serve.exceptions import BackPressureError

from raymc.config import ServeConfig
from raymc.errors import BundleError, ConfigError, ResourceError, first_line
from raymc.evaluation.timeline import Timeline
from raymc.runtime.connect import capacity, connect, explained, gpus_to_use
from raymc.serving.labeller import Decoded, FullError, Labeller, Refusal, Windows
from raymc.training.bundle import Bundle, load_bundle

_BATCH, _BATCH_SECONDS = 8, 0.02  # videos scored together, and how long one waits for others
_SECONDS_TO_END = 10.0
_QUIET = {"log_level": "ERROR", "enable_access_log": False}


class Labelling:
    """A replica: a labeller in a process of its own.

    Args:
        folder: The bundle's.
        digest: That of the bundle which the service was started with.
        windows: Of its timelines.
        settings: Of the service.
    """

    def __init__(self, folder: Path, digest: str, windows: Windows, settings: ServeConfig) -> None:
        bundle = load_bundle(folder)
        if bundle.digest != digest:  # it may start again long after the service has
            raise BundleError(f"{folder} holds another bundle by now: start the service anew")
        self._labeller = Labeller(bundle, windows, settings)

    async def __call__(self, path: str) -> Timeline | Refusal:
        """Return the timeline of a video on this machine."""
        decoded = await asyncio.to_thread(self._labeller.decode, path)
        return decoded if isinstance(decoded, Refusal) else await self._label(decoded)

    @serve.batch(max_batch_size=_BATCH, batch_wait_timeout_s=_BATCH_SECONDS)
    async def _label(self, videos: list[Decoded]) -> list[Timeline | Refusal]:
        return await asyncio.to_thread(self._labeller.label, videos)

    def __del__(self) -> None:
        if hasattr(self, "_labeller"):
            self._labeller.close()


class Service:
    """The labellers, as the gateway sees them."""

    def __init__(self, bundle: Bundle, windows: Windows, settings: ServeConfig) -> None:
        """Start or join Ray, and wait until the labellers are ready.

        Raises:
            ConfigError: There are more replicas than CPUs.
            ResourceError: Ray or Ray Serve doesn't start, or there is no GPU if one is asked for.
        """
        connect()
        self._name = f"raymc-{uuid4().hex[:8]}"  # a cluster may have several
        cpus = int(capacity().get("CPU", 1))
        if settings.replicas > cpus:
            raise ConfigError(
                f"--replicas {settings.replicas}: Ray has {cpus:,} CPUs, one for each"
            )
        given = (bundle.folder.absolute(), bundle.digest, windows, settings)
        bound = _deployment(settings).bind(*given)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled", logging_config=_QUIET)
        try:
            with explained():
                self._handle = serve.run(bound, name=self._name, route_prefix=None)
        except RuntimeError as error:  # Serve's own, which tells the replica's
            raise ResourceError(f"Ray Serve did not start: {first_line(error)}") from error

    async def label(self, path: str) -> Timeline | Refusal:
        """Return a video's timeline.

        Raises:
            FullError: Too many videos wait.
        """
        try:
            return await self._handle.remote(path)
        except BackPressureError as error:
            raise FullError from error

    def close(self) -> None:
        """End the labellers, and then Ray if it was started here, which this process leaves."""
        if "RAY_ADDRESS" in os.environ:
            serve.delete(self._name)
        ray.shutdown()  # else Serve's client would write that its controller is gone


def _deployment(settings: ServeConfig) -> serve.Deployment:
    """Return how the labellers run: on this machine, each with a GPU if there is one to use."""
    gpus = 1 if gpus_to_use(settings.device) else 0
    here = f"node:{ray.util.get_node_ip_address()}"
    return serve.deployment(
        name="labelling",
        num_replicas=settings.replicas,
        max_ongoing_requests=settings.decoders,
        # The gateway lets no more in; a request counts as queued until a replica has taken it.
        max_queued_requests=settings.most_inside,
        graceful_shutdown_timeout_s=_SECONDS_TO_END,
        ray_actor_options={"num_cpus": 1, "num_gpus": gpus, "resources": {here: 0.001}},
        logging_config=_QUIET,
    )(Labelling)
