"""On Ray: joining or starting it, what resources it has, and its errors as raymc's own.

Every command that needs Ray calls `connect` first; nothing else starts Ray.
"""

import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import ray_constants
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._private.state import state as ray_state
from ray.exceptions import RayError

from raymc.addresses import redacted
from raymc.config import Config
from raymc.errors import ConfigError, RaymcError, ResourceError, first_line
from raymc.runtime.interruption import (
    catch_again,
    give_up,
    interrupt_as,
    lives,
    remember_started,
)

# Ray's own processes and data tasks mostly wait; without a CPU to spare, tasks that read shards
# starve behind workers that wait for their rows.
SPARE_CPUS = 1
# What a cluster that starts nodes by itself may grow to, such as CPU=40,GPU=4: Ray's own
# autoscaler does not tell.
GROWS_TO = "RAYMC_CLUSTER_GROWS_TO"
_WATCH_SECONDS, _REMEMBER_TURNS = 1.0, 30
_ANSWER_SECONDS = 8.0  # that a cluster may take to answer
_PROBE = (
    "import sys; from ray._raylet import GcsClient; print(flush=True); "
    "GcsClient(address=sys.argv[1])"
)
_START_NODES_SECONDS = "1800"  # that workers wait for nodes, which clouds may lack for a while
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # the default adds 2 s to every report
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",  # a spot node may go 30 s after the notice
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # with it, an interrupted sweep looks finished
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial reports why, and no metric
}
# For the processes of a Ray that we start: pyarrow keeps the memory of a window for the next one,
# which would otherwise cost as much again in fresh pages.
_KEPT_MEMORY = {"MIMALLOC_PURGE_DELAY": "-1"}


def connect(log_file: Path | None = None) -> str:
    """Join the Ray cluster that RAY_ADDRESS names, or start Ray on this machine.

    Args:
        log_file: File for Ray's messages, in place of the terminal; by default one among Ray's
            own logs.

    Returns:
        The folder of Ray's own logs.

    Raises:
        ResourceError: RAY_ADDRESS names a cluster that does not answer.
    """
    for name, value in (_QUIET | _KEPT_MEMORY).items():
        os.environ.setdefault(name, value)
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        if address:
            _check_answers(address)
        else:
            _stay_on_loopback()
            # a process of each run that looks for nodes about to go: this machine is the only one
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        try:
            with _keeping_signals(), nullcontext() if address else _starting_little():
                ray.init(
                    address or "local",
                    num_cpus=None if address else (os.cpu_count() or 1) + SPARE_CPUS,
                    dashboard_port=None if address else _dashboard_port(),
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        except Exception as error:  # Ray raises a plain one if no node started in 30 s
            if address:
                raise _unreachable(address, first_line(error)) from error
            raise ResourceError(
                f"Ray did not start on this machine ({first_line(error)}): is it very busy, or out "
                "of memory or disk? Run the same command again"
            ) from error
        if not address:
            atexit.register(remember_started)  # runs before Ray's own, which ends their parents
            threading.Thread(target=_watch_ray, name="raymc-watch", daemon=True).start()
    logs = Path(ray.get_runtime_context().worker.node.get_session_dir_path()) / "logs"
    log_to(log_file or logs / "raymc.log")
    return str(logs)


def _watch_ray() -> None:
    """End the command if one of Ray's main processes ends, without which it would wait for ever.

    A raylet ends, for instance, when it goes on after it was stopped for so long that Ray counts
    its node as dead.
    """
    main = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # others may end meanwhile
            main += [child] if child.name() in ("raylet", "gcs_server") else []
    for turn in count():
        if turn % _REMEMBER_TURNS == 0:
            remember_started()  # a raylet's own children are nobody's once it has ended
        if not all(map(lives, main)):
            break
        time.sleep(_WATCH_SECONDS)
    give_up("Ray's processes on this machine have ended unexpectedly")


def _check_answers(address: str) -> None:
    """Check that a cluster answers before Ray is asked to join it, which would wait for minutes.

    Raises:
        ResourceError: Nothing answers at the address, or it is not that of a cluster's GCS.
    """
    if "://" in address:
        raise ResourceError(
            f"RAY_ADDRESS is {address}, and raymc joins a cluster by HOST:PORT, from one of its "
            "nodes: set RAY_ADDRESS to that (the port is 6379 unless chosen), or send the command "
            "as a job with `raymc submit`"
        )
    try:
        found = canonicalize_bootstrap_address_or_die("auto") if address == "auto" else address
        host, _, port = found.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError("expected HOST:PORT")
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _unreachable(address, first_line(error)) from error
    # Ray's client of the GCS waits for 40 s and writes to the terminal, so it is not asked here.
    probe = [sys.executable, "-c", _PROBE, found]
    with subprocess.Popen(probe, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()  # Ray is imported, which takes long on a busy machine
        try:
            is_there = process.wait(_ANSWER_SECONDS) == 0
        except subprocess.TimeoutExpired:
            is_there = False
        finally:
            process.kill()
    if not is_there:
        raise _unreachable(address, "what listens there is not Ray, or hangs")


def _unreachable(address: str, why: str) -> ResourceError:
    return ResourceError(
        f"the Ray cluster at {address} doesn't answer ({why}): check RAY_ADDRESS, or unset it to "
        "start Ray here"
    )


@contextmanager
def _keeping_signals() -> Iterator[None]:
    """Keep our handling of signals while Ray starts.

    First Ray makes SIGTERM exit with code 15. Then its native part, the core worker, makes it print
    a stack and abort, so SIGTERM is held back until our handler stands again.
    """
    native: Any = import_module("ray._raylet")
    make_core_worker = native.CoreWorker

    def make(*args: Any, **kwargs: Any) -> Any:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        try:
            return make_core_worker(*args, **kwargs)
        finally:
            catch_again()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    native.CoreWorker = make
    try:
        yield
    except SystemExit as error:
        if error.code == signal.SIGTERM:
            interrupt_as(signal.SIGTERM)
        raise
    finally:
        native.CoreWorker = make_core_worker


@contextmanager
def _starting_little() -> Iterator[None]:
    """Leave out what a command does not use while Ray starts here: two fifths of the CPU time.

    That is the autoscaler, what copies workers' output to the terminal, and the dashboard but for
    the process that knows the state of actors, which Ray Train asks for.
    """
    parameter: Any = import_module("ray._private.parameter")
    services: Any = import_module("ray._private.services")
    params, start = parameter.RayParams, services.start_ray_process

    def start_little(command: list[str], *args: Any, **kwargs: Any) -> Any:
        if any(word.endswith("dashboard.py") for word in command):
            command = [*command, "--modules-to-load=StateHead"]
        return start(command, *args, **kwargs)

    parameter.RayParams = partial(params, include_log_monitor=False, no_monitor=True)
    services.start_ray_process = start_little
    try:
        yield
    finally:
        parameter.RayParams, services.start_ray_process = params, start


def _stay_on_loopback() -> None:
    """Make a Ray that we start listen on loopback only, as it does on macOS.

    It asks for no token and runs whatever code it receives. Other nodes could not join it anyway.
    """
    if os.environ.setdefault(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, "0") == "0":
        ray_constants.ENABLE_RAY_CLUSTER = False  # Ray read the variable when it was imported


def _dashboard_port() -> int:
    """Return a free port for the dashboard, and pass its address to all processes of Ray.

    Ray Train asks the dashboard whether a stopped trial is dead, and only then frees its CPUs.
    Without the address it finds no dashboard if another Ray runs on the machine, and the CPUs
    are never freed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    return port


def keep_order() -> None:
    """Make Ray Data keep the order of rows and print no progress."""
    import ray.data  # seconds that not every command needs

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return a message without passwords, which errors may quote."""
        return redacted(super().format(record))


def log_to(log_file: Path) -> None:
    """Send the messages of Ray and its libraries to a file instead of the terminal."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log_file)
    handler.setFormatter(_Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    for name in ("ray", "ray.data", "ray.train", "ray.tune", "optuna"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False


def capacity() -> Mapping[str, float]:
    """Return the cluster's resources by name: what it has or, if more, may grow to.

    Raises:
        ConfigError: the limits in the environment can't be read.
    """
    there, limits = ray.cluster_resources(), grows_to()
    return {name: max(there.get(name, 0), limits.get(name, 0)) for name in {**there, **limits}}


def most_at_work() -> int | None:
    """Return how many tasks may compute at a time on a Ray that was started here: as many as cores.

    Its spare CPU is for tasks that wait. None on a cluster, whose nodes have none to spare.
    """
    return None if os.environ.get("RAY_ADDRESS") else os.cpu_count()


def grows_to() -> Mapping[str, float]:
    """Return what a cluster may grow to, by resource; empty if it starts no nodes.

    Some platforms report it to Ray, where Ray Train asks too; elsewhere the environment of the
    nodes has it.

    Raises:
        ConfigError: the limits in the environment can't be read.
    """
    reported = ray_state.get_max_resources_from_cluster_config()
    if reported:
        return reported
    pairs = [pair.partition("=") for pair in os.environ.get(GROWS_TO, "").split(",") if pair]
    try:
        return {name.strip(): float(number) for name, _, number in pairs}
    except ValueError:
        raise ConfigError(
            f"{GROWS_TO}={os.environ[GROWS_TO]}: expected limits such as CPU=40,GPU=4"
        ) from None


def worker_resources(config: Config) -> Mapping[str, float]:
    """Decide the resources of each training worker, by name.

    Raises:
        ResourceError: the cluster has too little of one, and can't grow that far.
    """
    gpus = _gpus_per_worker(config)
    of_gpus = {"GPU": gpus} if gpus else {}
    each = {"CPU": config.search.cpus_per_trial, **of_gpus, **config.train.worker_resources}
    workers, most = config.train.fewest_workers, capacity()
    for name, number in each.items():
        if workers * number > most.get(name, 0):
            raise ResourceError(
                f"train.workers is {config.train.workers}, each with {number:g} {name}, but this "
                f"Ray cluster has {most.get(name, 0):g} {name}: ask for fewer workers or a larger "
                "cluster"
            )
    return each


def expect_nodes(config: Config, each: Mapping[str, float]) -> str:
    """Make workers wait if the cluster must start nodes for them.

    Args:
        config: all settings.
        each: resources of each worker, from `worker_resources`.

    Returns:
        What they wait for, as a message; empty if the cluster has everything.
    """
    if grows_to() and isinstance(config.train.workers, int):
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _START_NODES_SECONDS)
    there, workers = ray.cluster_resources(), config.train.fewest_workers
    short = {name: n * workers for name, n in each.items() if n * workers > there.get(name, 0)}
    if not short:
        return ""
    wanted = ", ".join(f"{number:g} {name}" for name, number in short.items())
    return f"waiting for {wanted}: the cluster starts nodes"


def _gpus_per_worker(config: Config) -> float:
    """Return the GPUs of each training worker: a share of one, one, or none.

    Raises:
        ResourceError: the configuration asks for GPUs and the cluster has too few.
    """
    share = config.search.gpus_per_trial
    device = "gpu" if share and config.train.device == "auto" else config.train.device
    needed = (share or 1.0) * config.train.fewest_workers
    return (share or 1.0) if gpus_to_use(device, needed=needed) else 0.0


def gpus_to_use(device: str, *, needed: int | float = 1) -> bool:
    """Whether workers get GPUs.

    Args:
        device: `auto`, `cpu` or `gpu`, from the configuration.
        needed: Number of GPUs that the run needs.

    Raises:
        ResourceError: the configuration asks for GPUs and the cluster has too few.
    """
    most = capacity().get("GPU", 0)
    if device == "gpu" and most < needed:
        raise ResourceError(
            f"train.device is gpu and the run needs {needed:g} GPU, but this Ray cluster has "
            f"{most:g}: use train.device=cpu, or a cluster with GPUs (RAY_ADDRESS); one that "
            f"starts nodes by itself needs {GROWS_TO}=GPU={needed:g} in its nodes' environment"
        )
    return device == "gpu" or (device == "auto" and most >= needed)


@contextmanager
def explained() -> Iterator[None]:
    """Raise raymc's own error in place of an error of Ray that wraps it.

    Raises:
        RaymcError: a task or actor raised one; the first that is found.
    """
    try:
        yield
    except _ray_errors() as error:
        ours = our_error(error)
        if ours is None:
            raise
        raise ours from error


def _ray_errors() -> tuple[type[Exception], ...]:
    # Ray Train takes seconds to load; where it is not loaded, it has raised nothing
    train = sys.modules.get("ray.train.v2.api.exceptions")
    return (RayError, train.TrainingFailedError) if train else (RayError,)


def our_error(error: BaseException) -> RaymcError | None:
    """Return the error of raymc that caused an error of Ray, or None."""
    waiting, seen = [error], set()
    while waiting:
        current = waiting.pop(0)
        # Ray makes an error of a task an instance of its cause's class too, with a long traceback
        # as its message; the cause itself has the message that we wrote.
        if isinstance(current, RaymcError) and not isinstance(current, RayError):
            return current
        seen.add(id(current))
        failures = getattr(current, "worker_failures", {}).values()
        causes = [getattr(current, "cause", None), current.__cause__, *failures]
        waiting += [c for c in causes if isinstance(c, BaseException) and id(c) not in seen]
    return None
