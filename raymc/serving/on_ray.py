"""Labellers on Ray Serve, beside the gateway on the same machine, whose files they read."""

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import ray
from ray import serve
from ray.serve.exceptions import BackPressureError

from raymc.errors import BundleError, ConfigError, ResourceError, first_line
from raymc.evaluation.timeline import Timeline
from raymc.runtime.connect import capacity, connect, explained, gpus_to_use
from raymc.serving.labeller import Decoded, FullError, Labeller, Limits, Refusal
from raymc.training.bundle import load_bundle

_BATCH, _BATCH_SECONDS = 8, 0.02  # videos scored together, and how long one waits for others
_SECONDS_TO_END = 10.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a service is to be.

    `bundle` is a folder, and `digest` that of the bundle which the service was started with;
    `windows` and `device` are as for `Labeller`; `replicas` are processes that label, and
    `decoders` the videos that each works on at a time.
    """

    bundle: Path
    digest: str
    limits: Limits
    windows: tuple[float, float, str]
    device: str = "auto"
    replicas: int = 1
    decoders: int = 2

    @property
    def at_once(self) -> int:
        """Videos that are worked on at a time."""
        return self.replicas * self.decoders


class Labelling:
    """A replica: a labeller in a process of its own."""

    def __init__(self, asked: Asked) -> None:
        bundle = load_bundle(asked.bundle)
        if bundle.digest != asked.digest:  # it may start again long after the service has
            raise BundleError(f"{asked.bundle} holds another bundle by now: start the service anew")
        self._labeller = Labeller(
            bundle,
            asked.windows,
            decoders=asked.decoders,
            video_seconds=asked.limits.video_seconds,
            device=asked.device,
        )

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

    def __init__(self, asked: Asked) -> None:
        """Start or join Ray, and wait until the labellers are ready.

        Raises:
            ConfigError: There are more replicas than CPUs.
            ResourceError: Ray or Ray Serve doesn't start, or there is no GPU if one is asked for.
        """
        connect()
        self._name = f"raymc-{uuid4().hex[:8]}"  # a cluster may have several
        cpus = int(capacity().get("CPU", 1))
        if asked.replicas > cpus:
            raise ConfigError(f"--replicas {asked.replicas}: Ray has {cpus:,} CPUs, one for each")
        gpus = 1 if gpus_to_use(asked.device) else 0
        here = f"node:{ray.util.get_node_ip_address()}"
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(
            proxy_location="Disabled",
            logging_config={"log_level": "ERROR", "enable_access_log": False},
        )
        deployment = serve.deployment(
            name="labelling",
            num_replicas=asked.replicas,
            max_ongoing_requests=asked.decoders,
            # The gateway lets no more in; a request counts as queued until a replica has taken it.
            max_queued_requests=asked.at_once + asked.limits.waiting,
            graceful_shutdown_timeout_s=_SECONDS_TO_END,
            ray_actor_options={"num_cpus": 1, "num_gpus": gpus, "resources": {here: 0.001}},
            logging_config={"log_level": "ERROR", "enable_access_log": False},
        )(Labelling)
        try:
            with explained():
                self._handle = serve.run(deployment.bind(asked), name=self._name, route_prefix=None)
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
