"""Evaluations and predictions equal what the model gives, in the split's order, Ray or not."""

import json
import shutil
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from example_dataset import contents
from rich.console import Console
from tiny import LABELS, MODALITIES, SPLIT_ROWS, VOCABULARY, feed_of, tiny_row

from raymc.cli.use import run_evaluate, run_predict
from raymc.data.labels import Vocabulary
from raymc.data.shards import Dataset, Modality, Shard, open_dataset, write_dataset
from raymc.errors import BundleError, DataError, ResourceError
from raymc.evaluation import predict as predictions
from raymc.evaluation import scoring
from raymc.evaluation.evaluate import numbers_of
from raymc.evaluation.predict import predict_split
from raymc.metrics.calibration import expected_calibration_error
from raymc.metrics.families import family_scores
from raymc.metrics.metrics import evaluate_scores
from raymc.training.bundle import Bundle, load_bundle
from raymc.training.validation import Predictions
from raymc.training.validation import predict as score

CONSOLE = Console(file=StringIO(), width=100)
pytestmark = pytest.mark.usefixtures("ray_logs")


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def expected(bundle: Bundle, tiny: Dataset) -> Predictions:
    """The test split's scores, without Ray."""
    feed = feed_of(tiny, "test", bundle.config)
    return score(bundle.model, feed, device=torch.device("cpu"))


@pytest.mark.slow
def test_every_row_is_evaluated_once(
    tiny_bundle: Path, tiny_path: Path, bundle: Bundle, expected: Predictions, tmp_path: Path
) -> None:
    file = tmp_path / "metrics.json"
    found = run_evaluate(str(tiny_bundle), str(tiny_path), CONSOLE, json_file=file)
    assert (found.scored.split, len(found.scored.ids)) == ("test", SPLIT_ROWS["test"])
    scores = evaluate_scores(expected.scores, expected.labels, expected.observed)
    assert found.scores.to_dict() == pytest.approx(scores.to_dict(), abs=1e-6)
    numbers = json.loads(file.read_text())
    assert numbers == numbers_of(found)
    assert numbers.items() >= found.scores.to_dict().items()
    judged = (expected.labels, expected.observed)
    probabilities = bundle.probabilities(expected.scores)
    error = expected_calibration_error(probabilities, *judged)
    assert numbers["ECE"] == pytest.approx(error, abs=1e-4)
    for group, values in family_scores(expected.scores, *judged, VOCABULARY).items():
        assert numbers[f"any_AP/{group}"] == pytest.approx(values.any_AP, abs=1e-6)
    given = (expected.scores >= bundle.thresholds) & expected.observed
    right = given & expected.labels
    assert numbers["precision"] == pytest.approx(right.sum() / given.sum())
    assert numbers["recall"] == pytest.approx(right.sum() / (judged[0] & judged[1]).sum())
    np.testing.assert_array_equal(found.scores.support, scores.support)


def test_a_metric_without_a_value_is_null(tiny_bundle: Path, tmp_path: Path) -> None:
    unlabelled = [replace(tiny_row("test", i), labels=()) for i in range(3)]
    data, file = str(tmp_path / "data"), tmp_path / "metrics.json"
    write_dataset(data, {"test": unlabelled}, vocabulary=VOCABULARY, modalities=MODALITIES)
    run_evaluate(str(tiny_bundle), data, CONSOLE, json_file=file)
    text = file.read_text()
    assert json.loads(text)["mAP"] is None
    assert "NaN" not in text


@pytest.mark.slow
def test_predictions(
    tiny_bundle: Path, tiny_path: Path, bundle: Bundle, expected: Predictions, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "out"
    left_over = tmp_path / "deep" / ".out.parts" / "part-00000.parquet"  # of another model
    left_over.parent.mkdir(parents=True)
    left_over.write_text("torn")
    said = StringIO()
    run_predict(str(tiny_bundle), str(tiny_path), out, Console(file=said, width=200))
    table = pq.read_table(out)
    columns = [f"{kind}.{name}" for kind in ("score", "probability") for name in LABELS]
    assert table.column_names == ["id", "labels", *columns]
    assert table["id"].to_pylist() == [f"test-{i:03d}" for i in range(SPLIT_ROWS["test"])]
    scores = np.stack([table[f"score.{name}"].to_numpy() for name in LABELS], axis=1)
    np.testing.assert_allclose(scores, expected.scores, rtol=0, atol=1e-5)
    likely = np.stack([table[f"probability.{name}"].to_numpy() for name in LABELS], axis=1)
    np.testing.assert_array_equal(likely, bundle.probabilities(scores))
    above = [[LABELS[c] for c in np.flatnonzero(row >= bundle.thresholds)] for row in scores]
    assert table["labels"].to_pylist() == above
    assert any(above)
    counts = f"{len(above)} clips, {sum(map(bool, above))} with a label: {out}\n"
    missing = int(np.isinf(bundle.thresholds).sum())
    assert said.getvalue().endswith(
        f"predictions of {counts}{missing} labels have no threshold, because none is reliable on "
        "the validation clips, so they are not given\nfor a threshold of your own, add for "
        "example --threshold 0.5\n"
    )
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_labels_from_a_threshold_of_ones_own(tiny: Dataset, bundle: Bundle, tmp_path: Path) -> None:
    unsure = {LABELS[c] for c in np.flatnonzero(np.isinf(bundle.thresholds))}
    assert unsure

    def labels(name: str, threshold: float | None) -> tuple[list[list[str]], np.ndarray]:
        out = tmp_path / f"{name}.parquet"
        found = predict_split(bundle, tiny, "test", out, threshold=threshold)
        table = pq.read_table(out)
        given = table["labels"].to_pylist()
        assert (found.clips, found.labelled) == (len(given), sum(map(bool, given)))
        likely = [table[f"probability.{label}"].to_numpy() for label in LABELS]
        return given, np.stack(likely, axis=1)

    own, likely = labels("own", None)
    assert not unsure & {name for row in own for name in row}
    middle = float(np.median(likely))
    given, _ = labels("mine", middle)
    assert given == [[LABELS[c] for c in np.flatnonzero(row >= middle)] for row in likely]
    assert unsure & {name for row in given for name in row}


@pytest.mark.slow
def test_predictions_keep_the_order_of_the_split_if_the_first_shard_is_last(
    tiny_bundle: Path, tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = tmp_path / "done"
    done.mkdir()

    def first_comes_last(
        bundle: Bundle, dataset: Dataset, shard: Shard, threshold: float | None
    ) -> pa.Table:
        from raymc.evaluation.predict import _predicted  # Ray's process has its own

        others = len(dataset.split("train")) - 1
        while shard.file == "train/00000.parquet" and len(list(done.iterdir())) < others:
            time.sleep(0.05)
        (done / shard.file.replace("/", "-")).touch()
        return _predicted(bundle, dataset, shard, threshold)

    monkeypatch.setattr(predictions, "_predicted", first_comes_last)
    monkeypatch.setattr(scoring, "ROWS_HERE", 0)
    out = tmp_path / "out"
    assert predict_split(load_bundle(tiny_bundle), tiny, "train", out).clips == SPLIT_ROWS["train"]
    files = sorted(out.iterdir())
    assert [file.name for file in files] == [f"part-{n:05d}.parquet" for n in range(6)]
    ids = [name for file in files for name in pq.read_table(file)["id"].to_pylist()]
    assert ids == [f"train-{i:03d}" for i in range(SPLIT_ROWS["train"])]


@pytest.mark.slow
def test_a_large_split_is_scored_on_ray_as_a_small_one_is_here(
    tiny_bundle: Path, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = scoring.score_split(load_bundle(tiny_bundle), tiny, "train")
    monkeypatch.setattr(scoring, "ROWS_HERE", 0)
    there = scoring.score_split(load_bundle(tiny_bundle), tiny, "train")
    np.testing.assert_array_equal(here.scores, there.scores)
    assert (here.ids, here.labels.tolist()) == (there.ids, there.labels.tolist())
    assert here.observed.tolist() == there.observed.tolist()


def test_predictions_are_not_overwritten(tiny_bundle: Path, tiny: Dataset, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match=rf"{tmp_path} already exists: choose another --out"):
        predict_split(load_bundle(tiny_bundle), tiny, "test", tmp_path)
    assert contents(tmp_path) == {"mine.txt": b"mine"}


def test_a_prediction_that_breaks_off_leaves_no_result(
    tiny_bundle: Path, tiny_path: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(tiny_path, tmp_path / "data")
    shard = path / "test" / "00001.parquet"
    shard.write_bytes(shard.read_bytes()[:700])
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"test/00001.parquet") as caught:
        predict_split(load_bundle(tiny_bundle), open_dataset(str(path)), "test", out)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    kept = out.with_name(".out.parts") / "part-00000.parquet"
    before = kept.stat().st_mtime_ns
    shutil.copy(tiny_path / "test" / "00001.parquet", shard)  # mended: goes on after the first part
    found = predict_split(load_bundle(tiny_bundle), open_dataset(str(path)), "test", out)
    assert found.clips == SPLIT_ROWS["test"]
    assert (out / kept.name).stat().st_mtime_ns == before
    ids = pq.read_table(out)["id"].to_pylist()
    assert ids == [f"test-{i:03d}" for i in range(SPLIT_ROWS["test"])]


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        (
            (MODALITIES[0], replace(MODALITIES[1], rate_hz=8.0)),
            r"'audio' with rate_hz 4.0, but the dataset has rate_hz 8.0: use a dataset made",
        ),
    ],
)
def test_a_dataset_of_other_tokens(
    tiny_bundle: Path, tmp_path: Path, modalities: tuple[Modality, ...], message: str
) -> None:
    rows = [tiny_row("test", i) for i in range(3)]
    names = [modality.name for modality in modalities]
    rows = [replace(row, tokens={name: row.tokens[name] for name in names}) for row in rows]
    path = str(tmp_path / "data")
    write_dataset(path, {"test": rows}, vocabulary=VOCABULARY, modalities=modalities)
    with pytest.raises(BundleError, match=message):
        run_evaluate(str(tiny_bundle), path, CONSOLE)
    with pytest.raises(BundleError, match=message):
        run_predict(str(tiny_bundle), path, tmp_path / "out", CONSOLE)
    assert not (tmp_path / "out").exists()


def test_a_dataset_without_a_column_is_of_clips_without_it(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    rows = [tiny_row("test", i) for i in range(5)]
    found = []
    for name, modalities, tokens in (
        ("none", MODALITIES, lambda row: {**row.tokens, "audio": None}),
        ("no column", MODALITIES[:1], lambda row: {"visual": row.tokens["visual"]}),
    ):
        path, out = str(tmp_path / name), tmp_path / f"{name}.csv"
        silent = [replace(row, tokens=tokens(row)) for row in rows]
        write_dataset(path, {"test": silent}, vocabulary=VOCABULARY, modalities=modalities)
        metrics = numbers_of(run_evaluate(str(tiny_bundle), path, CONSOLE))
        run_predict(str(tiny_bundle), path, out, CONSOLE)
        found.append((str(metrics), out.read_text()))
    assert found[0] == found[1]


def test_a_dataset_of_other_labels(tiny_bundle: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "data")
    rows = [replace(tiny_row("test", i), labels=["new"], observed=None) for i in range(3)]
    write_dataset(path, {"test": rows}, vocabulary=Vocabulary(("new",)), modalities=MODALITIES)
    with pytest.raises(BundleError, match=r"5 classes, the dataset 1: they differ in add, count, "):
        run_evaluate(str(tiny_bundle), path, CONSOLE)


def test_no_gpu(tiny_bundle: Path, tiny_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"but this Ray cluster has 0: use .*cpu, or a cluster"):
        run_predict(str(tiny_bundle), str(tiny_path), tmp_path / "out", CONSOLE, device="gpu")
