import logging
from collections.abc import Iterator
from logging.handlers import BufferingHandler
from pathlib import Path

import pytest

from raymc.config import TrackingConfig


@pytest.fixture(scope="session")
def folder(runs_folder: Path) -> str:
    """The one folder of runs."""
    return str(runs_folder)


@pytest.fixture
def config(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> TrackingConfig:
    """An experiment of its own for every test."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return TrackingConfig(experiment=request.node.name)


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """All that is logged."""
    handler, root = BufferingHandler(capacity=10_000), logging.getLogger()
    root.addHandler(handler)
    yield handler.buffer
    root.removeHandler(handler)
