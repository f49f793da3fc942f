"""A tiny dataset for all tests, and feeds of it that need no Ray.

Its rows are made so that everything odd happens: clips of any length, modalities and labels that
are missing, groups that nobody annotated; and so that a model can learn something.
"""

import gc
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import shapes  # before raymc: it says how its functions are checked
import torch
from threadpoolctl import threadpool_limits
from threads import read_in_threads
from tiny import MODALITIES, SHARD_ROWS, SPLIT_ROWS, VOCABULARY, bundle_here, tiny_row

from raymc import addresses
from raymc.config import Config, from_dict, override
from raymc.data.shards import Dataset, open_dataset, write_dataset
from raymc.features import extraction

# `jobs` and `cluster` are run from a checkout; raymc itself is the installed one.
ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))

gc.disable()  # until all is imported: of what that makes, little is garbage
# Read when Ray is imported: what little the tests put there needs no more.
os.environ["RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES"] = str(300 << 20)
# Read when MLflow is imported, which a test may do before raymc does.
os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"
# A shell ignores these for what runs in the background; commands under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# As where `raymc[pretrained]` is not installed; its own tests name its encoders, which are slower.
extraction.BEST = {"visual": ("patches",), "text": ("words",)}
# What is computed here is tiny: more threads only wait, which keeps their cores busy, too.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
torch.set_num_threads(1)
threadpool_limits(1, user_api="blas")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Share the whole fast part among the cores; other tests need one process and its one Ray."""
    is_fast = "not slow" in config.option.markexpr and "not cluster" in config.option.markexpr
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return min(4, len(os.sched_getaffinity(0))) if is_fast and is_whole else 0


def pytest_collection_finish() -> None:
    """Keep what was imported out of every later garbage collection."""
    gc.collect()
    gc.freeze()


def pytest_runtestloop() -> None:
    """Collect garbage from now on, also in the process that only hands out tests."""
    gc.set_threshold(10_000)  # at Python's 700 it takes a twentieth of the time
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that shares the one Ray as slow: starting Ray alone takes ten seconds.

    Their files come last, so that no Ray runs beside all other tests.
    """
    on_ray = [item for item in items if "ray_logs" in getattr(item, "fixturenames", ())]
    for item in on_ray:
        item.add_marker(pytest.mark.slow)
    files = {item.path for item in on_ray}
    items.sort(key=lambda item: item.path in files)


def pytest_runtest_setup() -> None:
    """Check the first calls of every function in each test."""
    shapes.check_anew()


@pytest.fixture(autouse=True)
def _no_password_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_known", {})
    monkeypatch.setattr(addresses, "_secrets", {})


@pytest.fixture(scope="session", autouse=True)
def _mlflow_lays_out_one_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each later file of this process starts as a copy of the first, for which MLflow took seconds.

    Commands that are processes of their own have MLflow lay out theirs.
    """
    if "mlflow" not in sys.modules:  # no test that was collected works with it directly
        yield
        return
    from mlflow.store.db import utils

    lay_out, turn = utils._initialize_tables, threading.Lock()
    first = tmp_path_factory.mktemp("mlflow") / "mlflow.db"

    def copy(engine: Any) -> None:
        if engine.url.get_backend_name() != "sqlite":
            lay_out(engine)
            return
        with (
            turn,
            closing(engine.raw_connection()) as into,
            closing(sqlite3.connect(first)) as kept,
        ):
            if not kept.execute("SELECT name FROM sqlite_master").fetchone():
                lay_out(engine)
                into.driver_connection.backup(kept)
            else:
                kept.backup(into.driver_connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", copy)
        yield


@pytest.fixture(scope="session", autouse=True)
def _optuna_reads_its_revisions_once() -> Iterator[None]:
    """Otherwise it runs the same ten files twice for each database that is opened."""
    if "optuna" not in sys.modules:  # no test that was collected works with it directly
        yield
        return
    from optuna.storages._rdb.storage import _VersionManager

    make, made = _VersionManager._create_alembic_script, list[Any]()

    def once(manager: _VersionManager) -> Any:
        if not made:
            made.append(make(manager))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_VersionManager, "_create_alembic_script", once)
        yield


@pytest.fixture
def children_are_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in threads, not in processes, which take a second to start."""
    read_in_threads(monkeypatch)


@pytest.fixture(scope="module")
def fewest_resamples() -> Iterator[None]:
    """As few as an interval takes: what it says is measured elsewhere."""
    from raymc.evaluation import compare

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "RESAMPLES", compare.FEWEST_RESAMPLES)
        yield


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny dataset; not to be written to."""
    path = tmp_path_factory.mktemp("data") / "tiny"
    write_dataset(
        str(path),
        {split: [tiny_row(split, i) for i in range(rows)] for split, rows in SPLIT_ROWS.items()},
        vocabulary=VOCABULARY,
        modalities=MODALITIES,
        shard_rows=SHARD_ROWS,
    )
    return path


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> Dataset:
    """The tiny dataset."""
    return open_dataset(str(tiny_path))


@pytest.fixture(scope="session")
def tiny_config(tiny_path: Path) -> Config:
    """Settings of a model that trains on the tiny dataset in a second."""
    return from_dict(
        {
            "data": {"path": str(tiny_path), "make": None},
            "batch": {"size": 8, "pool_batches": 2},
            "model": {
                "width": 16,
                "depth": 2,
                "fusion_depth": 1,
                "heads": 2,
                "embedding_dim": 8,
                "bottleneck_tokens": 2,
            },
            "optimizer": {"lr": 1e-3, "warmup_epochs": 1.0, "clip_norm": 1.0},
            "train": {"epochs": 3, "device": "cpu", "threshold_confidence": 0.0},
            "search": {"space": {"loss.margin": {"low": 0.0, "high": 0.5}}},
        }
    )


@pytest.fixture(scope="session")
def ray_logs() -> Iterator[Path]:
    """The one Ray of all tests that need it, with 3 CPUs; yields the folder of its logs."""
    import ray

    from raymc.runtime.connect import connect

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr(os, "cpu_count", lambda: 2)
        here = str(Path(__file__).parent)  # so that workers find the tests' own modules
        patch.setenv("PYTHONPATH", os.pathsep.join([here, str(ROOT)]), prepend=os.pathsep)
        logs = connect()
    yield Path(logs)
    ray.shutdown()


@pytest.fixture
def joined(ray_logs: Path) -> dict[str, str]:
    """What a command needs in its environment to join that Ray, which costs less than its own."""
    import ray

    ours = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    return {**ours, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of runs, because MLflow takes seconds to lay out a database."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny: Dataset, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle that was trained on the tiny dataset; not to be written to."""
    return bundle_here(tiny, tiny_config, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three videos, the second of which is none; not to be written to."""
    from video_dataset import write_videos

    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="session")
def media_dataset(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """What `raymc extract` makes of these videos."""
    from video_dataset import dataset_of

    return dataset_of(videos, tmp_path_factory.mktemp("data") / "videos")


@pytest.fixture(scope="session")
def media_bundle(
    media_dataset: Dataset, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle of the videos' features; not to be written to."""
    config = override(tiny_config, {"train.epochs": 1, "data.path": media_dataset.path})
    return bundle_here(media_dataset, config, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server that speaks S3, on this machine alone; yields its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
