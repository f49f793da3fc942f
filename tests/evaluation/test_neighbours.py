"""The nearest training clips are those that a slow search finds, computed once for a bundle."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from finished_runs import finished_run
from tiny import SPLIT_ROWS

from raymc.data.feed.batches import decode_tokens
from raymc.data.shards import Dataset, read_shard
from raymc.errors import ConfigError
from raymc.evaluation import neighbours
from raymc.evaluation.neighbours import training_clips
from raymc.training.bundle import Bundle, load_bundle
from raymc.training.runs import BUNDLE


def one_by_one(bundle: Bundle, dataset: Dataset) -> dict[str, np.ndarray]:
    """Embed each training clip alone."""
    found = {}
    for shard in dataset.split("train"):
        table = read_shard(dataset, shard)
        for row in range(len(table)):
            tokens = decode_tokens(table.slice(row, 1), bundle.modalities)
            found[table["id"][row].as_py()] = bundle.embed_tokens(tokens)[0][0].astype(float)
    return found


def test_the_nearest_clips_are_those_of_a_slow_search(
    tiny_bundle: Path, tiny: Dataset, tmp_path: Path
) -> None:
    bundle = load_bundle(finished_run(tmp_path, "one", tiny_bundle) / BUNDLE)
    clips, alone = training_clips(bundle), one_by_one(bundle, tiny)
    ids = clips.clips["id"].to_pylist()
    assert ids == list(alone)
    asked = np.random.default_rng(0).normal(size=(4, clips.embeddings.shape[1]))
    order, cosines = clips.nearest(asked.astype(np.float32), 3)
    for one, numbers, values in zip(asked, order, cosines):
        slow = {
            name: sum(a * b for a, b in zip(one, x)) / np.sqrt(sum(one**2) * sum(x**2))
            for name, x in alone.items()
        }
        expected = sorted(slow, key=lambda name: -slow[name])[:3]
        assert [ids[k] for k in numbers] == expected
        np.testing.assert_allclose(values, [slow[name] for name in expected], atol=1e-5)
    own, alike = clips.nearest(clips.embeddings)
    np.testing.assert_allclose(alike[:, 0], 1, atol=1e-5)
    assert own.shape == (SPLIT_ROWS["train"], 3)


def test_they_are_computed_once_for_a_bundle_and_its_dataset(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(tmp_path, "one", tiny_bundle)
    bundle = load_bundle(run / BUNDLE)
    first = training_clips(bundle)
    (file,) = (run / "neighbours").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(neighbours, "embed_clips", lambda *_, **__: pytest.fail("computed again"))
        again = training_clips(bundle)
    np.testing.assert_array_equal(first.embeddings, again.embeddings)
    assert first.clips.equals(again.clips)
    file.write_bytes(b"damaged")
    np.testing.assert_array_equal(training_clips(bundle).embeddings, first.embeddings)
    other = load_bundle(finished_run(tmp_path, "two", tiny_bundle, noise=0.3) / BUNDLE)
    file.rename(tmp_path / "two" / file.name)
    assert not np.array_equal(training_clips(other).embeddings, first.embeddings)
    elsewhere = shutil.copytree(run / BUNDLE, tmp_path / "given away")
    with pytest.raises(ConfigError, match="is in no run's folder"):
        training_clips(load_bundle(elsewhere))


def test_of_a_large_split_shards_are_taken_evenly(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "MOST_CLIPS", 20)
    bundle = load_bundle(finished_run(tmp_path, "one", tiny_bundle) / BUNDLE)
    ids = training_clips(bundle).clips["id"].to_pylist()
    assert ids == [f"train-{i:03d}" for i in (*range(8), *range(24, 32))]
