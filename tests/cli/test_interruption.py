"""Commands that were interrupted, at any moment and in any way, end in order and are resumed."""

import shutil
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from rich.console import Console

from raymc.cli.main import main
from raymc.cli.runs import run_train
from raymc.config import Config, override
from raymc.data.shards import Dataset
from raymc.training.runs import BUNDLE, open_run


def test_a_run_interrupted_while_its_model_is_logged_needs_only_the_rest(
    tiny_config: Config,
    tiny: Dataset,
    tiny_bundle: Path,
    runs_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri, printed = f"sqlite:///{runs_folder / 'mlflow.db'}", StringIO()
    names = {"tracking.experiment": "cut", "tracking.register_as": "cut", "tracking.uri": uri}
    config = override(tiny_config, {**names, "run.folder": str(tmp_path), "run.name": "cut"})
    run = open_run(config, dataset=tiny.manifest.digest())
    shutil.copytree(tiny_bundle, run.folder / BUNDLE)
    run.begin()
    console = Console(file=printed, width=200)

    def refuse(*_: object, **__: object) -> None:
        # Libraries replace the KeyboardInterrupt of our handler.
        monkeypatch.setattr("raymc.runtime.interruption._state.signal", 2)
        raise OSError("a call was interrupted")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_model_version", refuse)
        with pytest.raises(KeyboardInterrupt):
            run_train(config, console)
    monkeypatch.setattr("raymc.runtime.interruption._state.signal", 0)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("cut")
    assert experiment is not None
    [before] = client.search_runs([experiment.experiment_id])
    assert (before.info.status, before.data.tags["raymc.state"]) == ("KILLED", "stopped")

    assert run_train(config, console) == run.folder / BUNDLE
    client.delete_registered_model_alias("cut", "champion")
    assert run_train(config, console) == run.folder / BUNDLE
    assert "run cut is finished" in printed.getvalue()
    [after] = client.search_runs([experiment.experiment_id])
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert after.data.tags["raymc.state"] == "complete"
    assert len(client.search_logged_models([experiment.experiment_id])) == 1
    [version] = client.search_model_versions("name = 'cut'")
    assert version.run_id == after.info.run_id
    assert not client.get_registered_model("cut").aliases

    run.end(is_recorded=False)  # as if MLflow had been away
    assert not run.is_finished
    done = CliRunner().invoke(main, ["replay", str(run.folder)])
    assert done.exception is None, done.exception
    assert done.output.splitlines() == [
        "cut: MLflow has 0 records, and the model models:/cut@champion"
    ]
    assert run.is_finished
    assert len(client.search_model_versions("name = 'cut'")) == 1
