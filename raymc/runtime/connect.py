"""On Ray: joining or starting it, its resources, and its errors as raymc's own.

Ray layer. Every command that needs Ray calls `connect` first and nothing else starts Ray.
"""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import ray
import ray.data
from ray._private import ray_constants
from ray._private.state import state as ray_state
from ray.exceptions import RayError
from ray.train.v2.api.exceptions import TrainingFailedError

from raymc.config import Config
from raymc.errors import ConfigError, RaymcError, ResourceError

# Ray's own processes and data tasks mostly wait; without a CPU to spare, tasks that read shards
# starve behind workers that wait for their rows.
SPARE_CPUS = 1
# What a cluster that starts nodes by itself may grow to, as CPU=40,GPU=4: Ray's own autoscaler
# keeps that to itself.
GROWS_TO = "RAYMC_CLUSTER_GROWS_TO"
_START_NODES_SECONDS = "1800"  # for which workers wait for nodes: clouds may have none for a while
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # the default adds 2 s to every report
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",  # a notice may come 30 s before the node's end
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails reports why, and no metric
}
# Of the processes of a Ray that is started here: pyarrow keeps the memory of a window for the next
# one, which otherwise costs as much again in fresh pages.
_KEPT_MEMORY = {"MIMALLOC_PURGE_DELAY": "-1"}


def connect(log_file: Path | None = None) -> str:
    """Join Ray, or start it on this machine if no cluster is named by RAY_ADDRESS.

    Args:
        log_file: where Ray's messages go instead of the terminal; by default a file among
            Ray's own logs.

    Returns:
        The folder of Ray's own logs.

    Raises:
        ResourceError: RAY_ADDRESS names a cluster that doesn't answer.
    """
    for name, value in (_QUIET | _KEPT_MEMORY).items():
        os.environ.setdefault(name, value)
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        if not address:
            _stay_on_loopback()
        try:
            ray.init(
                address or "local",
                num_cpus=None if address else (os.cpu_count() or 1) + SPARE_CPUS,
                dashboard_port=None if address else _dashboard_port(),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, OSError) as error:
            raise ResourceError(
                f"the Ray cluster at {address or 'this machine'} doesn't answer ({error}); "
                "check RAY_ADDRESS, or unset it to start Ray here"
            ) from error
    logs = Path(ray.get_runtime_context().worker.node.get_session_dir_path()) / "logs"
    log_to(log_file or logs / "raymc.log")
    return str(logs)


def _stay_on_loopback() -> None:
    """Have a Ray that is started here listen on this machine alone, as it does on macOS.

    It asks nobody for a token and runs what it is sent. Nodes elsewhere couldn't join it anyway.
    """
    if os.environ.setdefault(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, "0") == "0":
        ray_constants.ENABLE_RAY_CLUSTER = False  # was read from there when Ray was imported


def _dashboard_port() -> int:
    """Return a free port for the dashboard, and let all processes of Ray inherit its address.

    Ray Train asks the dashboard whether a trial that was stopped is dead, and only then gives
    its CPUs back. Left to itself it finds no dashboard where another Ray runs on the machine,
    and the CPUs are gone for good.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    return port


def keep_order() -> None:
    """Have Ray Data keep the order of rows, and leave the terminal to us."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False


def log_to(log_file: Path) -> None:
    """Send the messages of Ray and its libraries to a file rather than the terminal."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log_file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    for name in ("ray", "ray.data", "ray.train", "ray.tune", "optuna"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False


def capacity() -> Mapping[str, float]:
    """Return the cluster's resources by name: what there is, or may be started.

    Raises:
        ConfigError: the environment's limits aren't such as CPU=40,GPU=4.
    """
    there, limits = ray.cluster_resources(), grows_to()
    return {name: max(there.get(name, 0), limits.get(name, 0)) for name in {**there, **limits}}


def grows_to() -> Mapping[str, float]:
    """Return the resources that a cluster may start nodes for, by name; empty if it starts none.

    Ray tells on platforms that have told it (Ray Train asks in the same way); elsewhere the
    nodes' environment has to.

    Raises:
        ConfigError: that isn't such as CPU=40,GPU=4.
    """
    told = ray_state.get_max_resources_from_cluster_config()
    if told:
        return told
    pairs = [pair.partition("=") for pair in os.environ.get(GROWS_TO, "").split(",") if pair]
    try:
        return {name.strip(): float(number) for name, _, number in pairs}
    except ValueError:
        raise ConfigError(
            f"{GROWS_TO}={os.environ[GROWS_TO]}: expected limits such as CPU=40,GPU=4"
        ) from None


def worker_resources(config: Config, gpus: float) -> dict[str, float]:
    """Return what each training worker takes of a node, by resource."""
    of_gpus = {"GPU": gpus} if gpus else {}
    return {"CPU": config.search.cpus_per_trial, **of_gpus, **config.train.worker_resources}


def expect_nodes(config: Config) -> str:
    """Have workers wait where nodes must be started for them.

    Returns:
        What is waited for, for people; empty where all is there.

    Raises:
        ResourceError: the cluster can't grow so far.
    """
    if grows_to() and isinstance(config.train.workers, int):
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _START_NODES_SECONDS)
    there, workers = ray.cluster_resources(), config.train.fewest_workers
    each = worker_resources(config, gpus_per_worker(config))
    short = {name: n * workers for name, n in each.items() if n * workers > there.get(name, 0)}
    if not short:
        return ""
    check_workers(config)
    wanted = ", ".join(f"{number:g} {name}" for name, number in short.items())
    return f"waiting for {wanted}: the cluster starts nodes"


def check_workers(config: Config) -> None:
    """Refuse workers that the cluster can never start.

    Raises:
        ResourceError: there is too little of something.
    """
    workers, most = config.train.fewest_workers, capacity()
    for name, number in worker_resources(config, gpus_per_worker(config)).items():
        if workers * number > most.get(name, 0):
            raise ResourceError(
                f"train.workers is {config.train.workers}, each with {number:g} {name}, but this "
                f"Ray cluster has {most.get(name, 0):g} {name}: ask for fewer workers or a larger "
                "cluster"
            )


def gpus_per_worker(config: Config) -> float:
    """Return the GPUs that each training worker gets: a share of one, one, or none.

    Raises:
        ResourceError: GPUs are asked for and the cluster has too few.
    """
    share = config.search.gpus_per_trial
    device = "gpu" if share and config.train.device == "auto" else config.train.device
    needed = (share or 1.0) * config.train.fewest_workers
    return (share or 1.0) if gpus_to_use(device, needed=needed) else 0.0


def gpus_to_use(device: str, *, needed: int | float = 1) -> bool:
    """Say whether workers are to get GPUs.

    Args:
        device: `auto`, `cpu` or `gpu`, as configured.
        needed: GPUs that a run can't do without.

    Raises:
        ResourceError: GPUs are asked for and the cluster has too few.
    """
    most = capacity().get("GPU", 0)
    if device == "gpu" and most < needed:
        raise ResourceError(
            f"train.device is gpu and the run needs {needed:g} GPU, but this Ray cluster has "
            f"{most:g}: use train.device=cpu, or a cluster with GPUs (RAY_ADDRESS); one that "
            f"starts nodes by itself says so in its nodes' environment ({GROWS_TO}=GPU={needed:g})"
        )
    return device == "gpu" or (device == "auto" and most >= needed)


@contextmanager
def explained() -> Iterator[None]:
    """Raise raymc's own error where Ray wraps it into one of its own.

    Raises:
        RaymcError: a task or actor met one; the first there is.
    """
    try:
        yield
    except (RayError, TrainingFailedError) as error:
        ours = our_error(error)
        if ours is None:
            raise
        raise ours from error


def our_error(error: BaseException) -> RaymcError | None:
    """Return the error of raymc that an error of Ray was caused by, if there is one."""
    waiting, seen = [error], set()
    while waiting:
        current = waiting.pop(0)
        if isinstance(current, RaymcError):
            return current
        seen.add(id(current))
        failures = getattr(current, "worker_failures", {}).values()
        causes = [getattr(current, "cause", None), current.__cause__, *failures]
        waiting += [c for c in causes if isinstance(c, BaseException) and id(c) not in seen]
    return None
