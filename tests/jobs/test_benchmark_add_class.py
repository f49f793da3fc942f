"""The benchmark of added labels: who trains with what, what is judged; no figure is asserted."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from drivers import write_config
from rich.console import Console
from sklearn.metrics import average_precision_score
from tiny import LABELS

from jobs.bench.add_class import TRAINED, Settings, bench_add_class, train
from raymc.config import Config, override
from raymc.data.shards import Dataset, read_shard


@pytest.fixture
def config(tiny_config: Config) -> Config:
    return override(tiny_config, {"train.epochs": 1})


def test_a_model_is_trained_as_if_a_label_did_not_exist(
    tiny: Dataset, config: Config, tmp_path: Path
) -> None:
    bundle = train(tiny, config, ("rhyme", "other"), tmp_path / "bundle")
    assert bundle.vocabulary.names == ("add", "count", "spell")
    assert dict(bundle.vocabulary.groups) == {"math": ("add", "count"), "literacy": ("spell",)}
    assert bundle.dataset_digest != tiny.manifest.digest()


@pytest.mark.slow
def test_its_page_and_figures(tiny: Dataset, config: Config, tmp_path: Path) -> None:
    file, screen = write_config(config, tmp_path / "tiny.yaml"), io.StringIO()
    settings = Settings(configs=(str(file),), seeds=2, classes=1, examples=(1, 3))
    bench_add_class(Console(file=screen), settings, out=tmp_path)
    page = (tmp_path / "add-class.md").read_text()
    assert [
        line.split("|")[1].strip() for line in page.splitlines() if line[:1] == "|" and "±" in line
    ] == [*("1 example", "3 examples", TRAINED)]
    lines = json.loads((tmp_path / "add-class.json").read_text())["measurements"]
    assert {line["case"]["dataset"] for line in lines} == {"tiny"}
    one, three, trained = (line["figures"] for line in lines)
    assert one["label"] == three["label"] == trained["label"]
    assert set(one["label"]) <= set(LABELS)
    assert one["expected"] == [None, None]  # a single example can't be left out
    assert all(0 <= value <= 100 for value in three["expected"])

    folder = tmp_path / "again"
    whole = train(tiny, override(config, {"train.seed": 0}), (), folder)
    scores, true = [], []
    for shard in tiny.split("test"):
        table = read_shard(tiny, shard)
        at = LABELS.index(trained["label"][0])
        observed = tiny.manifest.vocabulary.encode_observed(table["observed"].to_pylist())[:, at]
        scores += whole.score(table)[observed, at].tolist()
        labels = np.array([LABELS[at] in row for row in table["labels"].to_pylist()])
        true += labels[observed].tolist()
    assert trained["AP"][0] == pytest.approx(100 * average_precision_score(true, scores))
