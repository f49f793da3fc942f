import logging
from collections.abc import Iterator
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


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert record.levelno == logging.WARNING
        self.warnings.append(record.getMessage())


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """What the tracker has warned of."""
    kept, log = _Kept(), logging.getLogger("raymc.tracking")
    log.addHandler(kept)
    yield kept.warnings
    log.removeHandler(kept)
