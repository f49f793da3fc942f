"""`import raymc`: the commands as quiet functions, which return frames."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal, assert_series_equal
from tiny import LABELS, SPLIT_ROWS

import raymc
from raymc.data.shards import open_dataset
from raymc.errors import ConfigError, DataError
from raymc.training.bundle import Bundle


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Bundle:
    return raymc.load(tiny_bundle)


def test_importing_it_costs_nothing() -> None:
    line = "import raymc, sys; print(*sorted(sys.modules)); print(*dir(raymc))"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    modules, names = done.stdout.splitlines()
    assert not {"torch", "ray", "pandas", "pyarrow", "pydantic"} & set(modules.split())
    assert set(raymc.__all__) <= set(names.split())
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = raymc.trian


def test_predictions_are_a_frame(
    model: Bundle, tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = raymc.predict(model, tiny_path)
    assert frame["id"].tolist() == [f"test-{i:03d}" for i in range(SPLIT_ROWS["test"])]
    likely = frame[[f"probability.{name}" for name in LABELS]]
    assert likely.to_numpy().min() >= 0
    assert_frame_equal(raymc.predict(model.folder, tiny_path), frame)
    best = raymc.predict(model, tiny_path, split="val", top=2)
    assert len(best) == SPLIT_ROWS["val"]
    assert list(best.columns) == ["id", "labels", *(f"{x} {n}" for n in (1, 2) for x in BEST)]
    assert (best["probability 1"] >= best["probability 2"]).all()
    assert capsys.readouterr().out == ""
    with pytest.raises(DataError, match="no media: there is no such file or folder"):
        raymc.predict(model, tmp_path / "nowhere")


BEST = ("label", "probability")


def test_an_evaluation_has_metrics_and_labels(model: Bundle, tiny_path: Path) -> None:
    evaluation = raymc.evaluate(model, tiny_path, split="val")
    metrics, labels = evaluation
    assert isinstance(metrics, pd.Series)
    told = f"mAP {metrics['mAP']:.3f}, R80 {metrics['R80']:.3f}"
    assert repr(evaluation) == f"Evaluation({told}; {len(labels)} labels)"
    assert labels["label"].tolist() == list(LABELS)
    assert metrics["mAP"] == pytest.approx(np.nanmean(labels["AP"]))
    given = labels[np.isfinite(labels["threshold"])]
    assert (given["found"] <= given["clips"]).all()
    assert (labels[~np.isfinite(labels["threshold"])][["found", "false_alarms"]] == 0).all(
        axis=None
    )
    found, false = labels["found"].sum(), labels["false_alarms"].sum()
    assert metrics["precision"] == pytest.approx(found / (found + false))
    own = raymc.evaluate(model, split="val")  # of the dataset that it was trained on
    assert_series_equal(own.metrics, metrics)


def test_what_is_loaded_says_what_it_is(model: Bundle, tiny_path: Path, tmp_path: Path) -> None:
    assert repr(model).endswith("bundle': 5 labels from visual, audio)")
    assert repr(open_dataset(str(tiny_path))).startswith(f"Dataset('{tiny_path}': 45 train, ")
    with pytest.raises(ConfigError, match="no run 'mine'"):
        raymc.load("mine", folder=tmp_path)
