"""Benchmarks of few clips and of fusion: what is drawn, trained and told; no figure is asserted."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from drivers import write_config
from rich.console import Console
from tiny import LABELS

from jobs.bench import fusion, shots
from jobs.bench.groups import group_precision
from raymc.config import Config, override
from raymc.data.shards import Dataset
from raymc.errors import DataError


@pytest.mark.parametrize("count", [1, 3])
def test_each_class_has_as_many_clips_as_were_asked_for_or_all(count: int) -> None:
    labels = np.random.default_rng(1).random((60, 6)) < [0.02, 0.05, 0.1, 0.3, 0.5, 0.9]
    rows = shots.draw(labels, count, seed=0)
    assert len(set(rows.tolist())) == len(rows) <= 6 * count
    assert (labels[rows].sum(axis=0) >= np.minimum(labels.sum(axis=0), count)).all()
    assert rows.tolist() == shots.draw(labels, count, seed=0).tolist()
    assert rows.tolist() != shots.draw(labels, count, seed=1).tolist()


@pytest.mark.slow
def test_shots_are_trained_tested_and_kept(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shots, "MOST_EPOCHS", 1)  # for few clips as for all
    config = write_config(override(tiny_config, {"train.epochs": 1}), tmp_path / "tiny.yaml")

    def bench() -> list[str]:
        screen = io.StringIO()
        settings = shots.Settings(config=str(config), losses=("bce",), clips=(2, 0), seeds=2)
        shots.bench_shots(Console(file=screen, width=200), settings, out=tmp_path)
        return [line for line in screen.getvalue().splitlines() if "| bce |" in line]

    few, every = bench()
    assert (few.split("|")[1].strip(), every.split("|")[1].strip()) == ("2", "all")
    kept = {file.name: json.loads(file.read_text()) for file in tmp_path.glob("shots-*.json")}
    assert {*kept} == {f"shots-bce-{count}-{seed}.json" for count in (0, 2) for seed in (0, 1)}
    assert kept["shots-bce-2-0.json"]["rows"] <= 2 * len(LABELS)
    (tmp_path / "shots-bce-2-1.json").write_text(
        json.dumps({**kept["shots-bce-2-1.json"], "mAP": 7})
    )
    assert bench()[1] == every


def test_the_variants_of_fusion(tiny_config: Config) -> None:
    found = fusion.variants(tiny_config)
    assert [*found] == [
        "visual alone",
        "audio alone",
        *(f"all, fusion depth {depth}" for depth in range(3)),
    ]
    three = override(tiny_config, {"data.modalities": ["visual", "audio", "text"]})
    assert fusion.variants(three)["all but audio"] == {"data.modalities": ["visual", "text"]}


def test_a_group_is_the_mean_of_its_classes_that_have_an_ap(tiny: Dataset) -> None:
    per_class = np.array([0.5, np.nan, 1.0, 0.1, np.nan])
    vocabulary = tiny.manifest.vocabulary
    names = vocabulary.names
    groups = {"few": ",".join(names[:3]), "none": f"{names[1]},{names[4]}"}
    found = group_precision(per_class, groups, vocabulary)
    assert found["few"] == pytest.approx(0.75)
    assert np.isnan(found["none"])
    with pytest.raises(DataError, match="unknown label 'cuont'"):
        group_precision(per_class, {"x": "cuont"}, vocabulary)
