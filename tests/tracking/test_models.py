"""Bundles as MLflow models, in real stores: logged, registered, loaded and served over HTTP."""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from sockets import free_port
from tracking_cases import kill, run_server

from raymc.config import TrackingConfig, load, to_dict
from raymc.data.feed.batches import decode_tokens
from raymc.data.labels import Vocabulary
from raymc.data.shards import Dataset, Manifest, Modality, Ragged, read_shard
from raymc.errors import BundleError, ResourceError
from raymc.metrics.calibration import Calibration
from raymc.tracking import Tracker, open_tracker
from raymc.tracking.models import log_bundle
from raymc.training import checkpoint
from raymc.training.bundle import load_bundle, save_bundle
from raymc.training.checkpoint import Progress
from raymc.training.learner import make_model
from raymc.training.loop import describe_dataset

VOCABULARY = Vocabulary(("coin", "number", "shape"))
CALIBRATION = Calibration(5.0, (-1.0, 0.5, 0.0), {1: ((-0.5, 0.5), (0.25, 0.75))})
MODALITIES = (Modality("video", 4, "float32"), Modality("audio", 3, "uint8", scale=1 / 255))
VIDEO = [[[0.5, -1.0, 2.0, 0.25], [1.0, 1.0, 0.0, 3.0]], None, [[1.0, 2.0, 3.0, 4.0]]]
AUDIO = [[[1, 2, 3]], [[255, 0, 7], [9, 9, 9], [0, 0, 1]], None]


def save_tiny_bundle(folder: Path, seed: int) -> Path:
    """An untrained model; its second class has no threshold."""
    config = load(None, ["model.width=16", "model.heads=2"])
    manifest = Manifest(VOCABULARY, MODALITIES, splits={}, provenance={}, license="")
    torch.manual_seed(seed)
    progress = Progress(
        epoch=1,
        best_epoch=1,
        metrics={"val/mAP": 0.5},
        best={"val/mAP": 0.5},
        thresholds=[0.0, None, -1.0],
        calibration=CALIBRATION.to_json() if seed == 1 else None,
        config=to_dict(config),
        dataset=describe_dataset(manifest),
    )
    weights = make_model(config, manifest).state_dict()
    checkpoint.save(folder / f"checkpoint-{seed}", weights, {}, progress)
    save_bundle(folder / f"checkpoint-{seed}", folder / f"bundle-{seed}")
    return folder / f"bundle-{seed}"


def frame() -> pd.DataFrame:
    """Three clips: with both modalities, without video, without audio."""
    return pd.DataFrame({"video": VIDEO, "audio": AUDIO}, index=["a", "b", "c"])


def expected_scores(bundle: Path) -> np.ndarray:
    """The bundle's own scores of `frame`, from arrays written down by hand."""
    video = np.array([*(VIDEO[0] or []), *(VIDEO[2] or [])], dtype=np.float32)
    audio = np.array([*(AUDIO[0] or []), *(AUDIO[1] or [])], dtype=np.uint8)
    tokens = {
        "video": Ragged(video, np.array([0, 2, 2, 3])),
        "audio": Ragged(audio, np.array([0, 1, 4, 4])),
    }
    return load_bundle(bundle).score_tokens(tokens)


@dataclass(frozen=True)
class Store:
    """An MLflow store with one run, and two bundles that are not in it."""

    folder: Path
    uri: str
    run_id: str
    experiment_id: str
    bundles: tuple[Path, Path]

    def log(self, bundle: Path, name: str = "", alias: str = "champion") -> str:
        return log_bundle(bundle, self.run_id, uri=self.uri, register_as=name, alias=alias)

    def log_anew(self, bundle: Path) -> str:
        """Log with a run of its own, where no model is yet."""
        run = MlflowClient(self.uri).create_run(self.experiment_id)
        return log_bundle(bundle, run.info.run_id, uri=self.uri, register_as="", alias="")

    def models(self) -> list[str]:
        """Folders of logged models."""
        return sorted(os.listdir(self.folder / "runs/artifacts/models"))


def start(tracker: Tracker) -> str:
    return tracker.run_id(tracker.start_run("run", key="run", params={}, tags={}))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("serving")
    config = TrackingConfig(uri=f"sqlite:///{folder}/runs/mlflow.db")
    with open_tracker(config, str(folder / "runs")) as tracker:
        run_id = start(tracker)
        tracker.end_run("run", "pruned")
    bundles = save_tiny_bundle(folder, 0), save_tiny_bundle(folder, 1)
    return Store(folder, tracker.uri, run_id, tracker.experiment_id, bundles)


@contextmanager
def as_user(uri: str) -> Iterator[None]:
    """MLflow's global address, as somebody who loads a model sets it."""
    before = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before[0])
        os.environ.pop("MLFLOW_TRACKING_URI")
        if before[1] is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before[1]


def load_model(store: Store, address: str) -> PyFuncModel:
    with as_user(store.uri):
        return mlflow.pyfunc.load_model(address)


@pytest.mark.slow
def test_a_registered_model_scores_like_its_bundle(store: Store) -> None:
    address = store.log(store.bundles[0], "tiny")
    assert address == "models:/tiny@champion"
    result = load_model(store, address).predict(frame())
    scores = expected_scores(store.bundles[0])
    assert list(result.columns) == ["labels", "score.coin", "score.number", "score.shape"]
    assert list(result.index) == ["a", "b", "c"]
    np.testing.assert_allclose(result.iloc[:, 1:].to_numpy(), scores, rtol=1e-5, atol=1e-6)
    coin = [["coin", "shape"] if score >= 0 else ["shape"] for score in scores[:, 0]]
    assert result["labels"].tolist() == coin


@pytest.mark.slow
def test_arrays_are_taken_as_well_as_lists(store: Store) -> None:
    arrays = frame().map(lambda value: None if value is None else np.asarray(value))
    result = load_model(store, store.log(store.bundles[0])).predict(arrays)
    scores = expected_scores(store.bundles[0])
    np.testing.assert_allclose(result.iloc[:, 1:].to_numpy(), scores, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("children_are_threads")
def test_a_model_labels_videos(
    store: Store,
    media_bundle: Path,
    media_dataset: Dataset,
    videos: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("raymc.tracking.pyfunc_model.FILES_HERE", 2)
    monkeypatch.chdir(videos)
    model = load_model(store, store.log_anew(media_bundle))
    frame = pd.DataFrame(
        {"path": ["3.mp4", str(videos / "2.mp4"), "3.mp4"], "start": [None, None, 1]},
        index=["whole", "broken", "end"],
    )
    result = model.predict(frame)
    assert list(result.index) == ["whole", "whole", "broken", "end"]
    assert result["start"].tolist()[:2] == [0, 1]
    assert result["path"].tolist() == [frame["path"].iloc[place] for place in (0, 0, 1, 2)]
    bundle, table = (
        load_bundle(media_bundle),
        read_shard(media_dataset, *media_dataset.split("train")),
    )
    scores = bundle.score(table.slice(2))
    assert table["id"].to_pylist()[2:] == ["3@0-1", "3@1-2"]
    whole = result.loc["whole"]
    np.testing.assert_allclose(whole[["score.a", "score.b"]], scores, atol=1e-6)
    likely = bundle.probabilities(scores)
    np.testing.assert_allclose(whole[["probability.a", "probability.b"]], likely, atol=1e-6)
    assert whole["labels"].tolist() == bundle.labels_above(scores)
    assert result.loc["broken", "labels"] is None
    assert str(result.loc["broken", "error"])
    score = result["score.a"]
    assert score.iloc[3] == pytest.approx(score.iloc[1], abs=1e-6)
    for columns, message in [
        ({"path": [""]}, "row 0: path is ''; expected the path of a video"),
        ({"path": ["3.mp4"], "end": ["soon"]}, "row 0: end is 'soon'; expected seconds"),
    ]:
        with pytest.raises(MlflowException, match=message):
            model.predict(pd.DataFrame(columns))
    with pytest.raises(MlflowException, match="doesn't say how its features were made"):
        load_model(store, store.log_anew(store.bundles[0])).predict(frame)


def test_the_next_version_takes_the_alias(store: Store) -> None:
    for bundle in store.bundles:
        store.log(bundle, "moving", alias="best")
    result = load_model(store, "models:/moving@best").predict(frame())
    newer, older = expected_scores(store.bundles[1]), expected_scores(store.bundles[0])
    assert np.abs(newer - older).max() > 0.01
    names = VOCABULARY.names
    kinds = ("score", "probability")  # the older bundle has no probabilities
    assert list(result.columns)[1:] == [f"{kind}.{name}" for kind in kinds for name in names]
    np.testing.assert_allclose(result.iloc[:, 1:4].to_numpy(), newer, rtol=1e-5, atol=1e-6)
    likely = CALIBRATION.probabilities(newer)
    np.testing.assert_allclose(result.iloc[:, 4:].to_numpy(), likely, rtol=1e-5, atol=1e-6)
    client = MlflowClient(store.uri)
    versions = client.search_model_versions("name = 'moving'")
    assert sorted(int(version.version) for version in versions) == [1, 2]
    assert int(client.get_model_version_by_alias("moving", "best").version) == 2
    assert {version.run_id for version in versions} == {store.run_id}


def test_an_unregistered_model_belongs_to_its_run(store: Store) -> None:
    address = store.log(store.bundles[0])
    client = MlflowClient(store.uri)
    model = client.get_logged_model(address.removeprefix("models:/"))
    assert (model.name, str(model.status), model.source_run_id) == ("bundle", "READY", store.run_id)
    run = client.get_run(store.run_id)
    assert run.outputs is not None
    assert model.model_id in [output.model_id for output in run.outputs.model_outputs]
    assert run.info.status == "KILLED"


def test_a_logged_model_holds_no_pickle_and_no_code(store: Store) -> None:
    address = store.log_anew(store.bundles[0])
    model = store.folder / "runs/artifacts/models" / address.removeprefix("models:/") / "artifacts"
    files = {str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()}
    bundle = store.bundles[0].name
    assert files == {
        "MLmodel",
        "conda.yaml",
        "python_env.yaml",
        "requirements.txt",
        "input_example.json",
        "serving_input_example.json",
        f"data/{bundle}/bundle.json",
        f"data/{bundle}/model.safetensors",
    }


def test_files_of_the_working_directory_stay_out(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uv.lock").write_text("version = 1\n")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'secret'\n")
    monkeypatch.chdir(tmp_path)
    address = store.log_anew(store.bundles[0])
    model = store.folder / "runs/artifacts/models" / address.removeprefix("models:/")
    assert not list(model.rglob("*.lock"))


def test_global_state_of_mlflow_is_neither_used_nor_changed(store: Store) -> None:
    elsewhere = f"http://127.0.0.1:{free_port()}"
    with as_user(elsewhere):
        store.log(store.bundles[0], "quiet")
        assert mlflow.get_tracking_uri() == os.environ["MLFLOW_TRACKING_URI"] == elsewhere
        assert mlflow.active_run() is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"video": VIDEO}, "the input has no column 'audio'"),
        ({"video": [[[1.0, 2.0]]], "audio": [None]}, r"row 0: 'video' has shape \(1, 2\)"),
        ({"video": [[["x"] * 4]], "audio": [None]}, "row 0: 'video' is no"),
    ],
)
def test_input_that_does_not_fit_is_explained(
    columns: dict[str, list[object]], message: str, store: Store
) -> None:
    model = load_model(store, store.log(store.bundles[0]))
    with pytest.raises(MlflowException, match=message) as caught:
        model.predict(pd.DataFrame(columns))
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize(
    ("run_id", "name", "alias", "message"),
    [
        ("0" * 32, "", "champion", r"Run with id=0+ not found"),
        ("", "a/b", "champion", r"Invalid model name 'a/b'"),
        ("", "fine", "v1", r"'v1'"),
    ],
)
def test_a_refusal_is_one_line_that_names_the_bundle(
    run_id: str, name: str, alias: str, message: str, store: Store
) -> None:
    bundle = store.bundles[0]
    with pytest.raises(ResourceError, match=message) as caught:
        log_bundle(bundle, run_id or store.run_id, uri=store.uri, register_as=name, alias=alias)
    assert f"the bundle {bundle} is complete and works without MLflow" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert np.isfinite(expected_scores(bundle)).all()


@pytest.mark.slow
def test_an_interrupted_log_is_finished_and_nothing_is_there_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    client = MlflowClient(store.uri)
    run_id = client.create_run(store.experiment_id).info.run_id
    bundle, given = store.bundles[1], {"uri": store.uri, "register_as": "cut", "alias": "best"}
    for step in (
        "log_model_artifacts",
        "log_outputs",
        "finalize_logged_model",
        "create_model_version",
        "set_logged_model_tags",
        "set_registered_model_alias",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, step, interrupt)
            with pytest.raises(KeyboardInterrupt):
                log_bundle(bundle, run_id, **given)
    assert not client.get_registered_model("cut").aliases
    for _ in range(2):
        assert log_bundle(bundle, run_id, **given) == "models:/cut@best"
        [model] = client.search_logged_models([store.experiment_id], f"source_run_id = '{run_id}'")
        assert str(model.status) == "READY"
        [version] = client.search_model_versions("name = 'cut'")
        assert version.source == model.artifact_location
        assert client.get_registered_model("cut").aliases == {"best": version.version}


@pytest.mark.parametrize("error", [OSError(28, "No space left"), ModuleNotFoundError("boto3")])
def test_a_failing_file_store_is_one_line(
    error: Exception, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", fail)
    with pytest.raises(ResourceError, match=r"No space left|boto3"):
        store.log_anew(store.bundles[0])


def test_an_absent_server_is_one_quick_line(store: Store) -> None:
    began = time.monotonic()
    with pytest.raises(ResourceError, match=r"can't be used \(.*refused"):
        log_bundle(
            store.bundles[0],
            store.run_id,
            uri=f"http://me:secret@127.0.0.1:{free_port()}",
            register_as="",
            alias="",
        )
    assert time.monotonic() - began < 3.0


def test_no_bundle_nothing_logged(store: Store, tmp_path: Path) -> None:
    store.log(store.bundles[0])
    before = store.models()
    with pytest.raises(BundleError, match="is not a raymc bundle"):
        store.log(tmp_path)
    assert store.models() == before


@contextmanager
def server(command: list[str], folder: Path, uri: str) -> Iterator[str]:
    """Run one of MLflow's servers until it answers, and while the test needs it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = run_server(command, folder, {"PATH": path, "MLFLOW_TRACKING_URI": uri})
    try:
        yield f"http://127.0.0.1:{command[command.index('--port') + 1]}"
    finally:
        kill(process)


def post(address: str, content: object) -> tuple[int, str]:
    body = json.dumps(content).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.slow
def test_a_served_model_answers_with_the_scores_of_a_dataset_s_rows(
    store: Store, tiny_bundle: Path, tiny: Dataset, tmp_path: Path
) -> None:
    address = store.log(tiny_bundle, "served")
    table = read_shard(tiny, tiny.split("test")[0])
    bundle = load_bundle(tiny_bundle)
    tokens = decode_tokens(table, bundle.modalities)
    rows = [
        {name: ragged.row(row).tolist() or None for name, ragged in tokens.items()}
        for row in range(len(table))
    ]
    assert any(row["audio"] is None for row in rows)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", address]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(free_port())]
    with server(command, tmp_path, store.uri) as url:
        status, text = post(f"{url}/invocations", {"dataframe_records": rows})
        assert status == 200
        answer = pd.DataFrame(json.loads(text)["predictions"])
        scores = bundle.score(table)
        expected = np.hstack([scores, bundle.probabilities(scores)])
        np.testing.assert_allclose(answer.iloc[:, 1:].to_numpy(), expected, rtol=1e-5, atol=1e-6)
        assert answer["labels"].tolist() == bundle.labels_above(scores)
        bad = {"dataframe_records": [{"visual": [[1, 2]], "audio": None}]}
        status, text = post(f"{url}/invocations", bad)
        assert status == 400
        assert "row 0: 'visual' has shape (1, 2), expected [tokens, 6]" in text
