import pytest

from raymc.config import TrackingConfig


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One runs folder, because MLflow takes two seconds to lay out a database."""
    return str(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def config(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> TrackingConfig:
    """An experiment of its own for every test."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return TrackingConfig(experiment=request.node.name)
