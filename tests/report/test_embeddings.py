"""Embeddings and scores of rows against those of the bundle itself; the map keeps neighbours."""

from pathlib import Path

import numpy as np
import pytest
from tiny import SPLIT_ROWS

from raymc.data.shards import Dataset, read_shard
from raymc.errors import DataError
from raymc.report.classes import cosine_similarities
from raymc.report.embeddings import embed_split, prototypes_of, to_plane
from raymc.training.bundle import Bundle, load_bundle


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


def test_a_split_as_the_bundle_scores_it(bundle: Bundle, tiny: Dataset) -> None:
    tables = [read_shard(tiny, shard) for shard in tiny.split("val")]
    found = embed_split(bundle, tiny, "val", most=1000)
    scored = found.scored
    assert len(scored.ids) == SPLIT_ROWS["val"]
    assert list(scored.ids) == [i for table in tables for i in table["id"].to_pylist()]
    expected = np.concatenate([bundle.score(table) for table in tables])
    np.testing.assert_allclose(scored.scores, expected, atol=1e-6)
    labels = [names for table in tables for names in table["labels"].to_pylist()]
    assert np.array_equal(scored.labels, bundle.vocabulary.encode(labels))
    groups = [names for table in tables for names in table["observed"].to_pylist()]
    assert np.array_equal(scored.observed, bundle.vocabulary.encode_observed(groups))
    vectors = np.concatenate([found.embeddings, prototypes_of(bundle)])
    rows = len(scored.ids)
    similar = cosine_similarities(vectors)[:rows, rows:]
    np.testing.assert_allclose(similar, scored.scores, atol=1e-5)


@pytest.mark.parametrize("most", [1, 8, 13])
def test_some_rows_are_the_first(most: int, bundle: Bundle, tiny: Dataset) -> None:
    every, some = (embed_split(bundle, tiny, "val", most=count) for count in (1000, most))
    assert some.scored.ids == every.scored.ids[:most]
    np.testing.assert_allclose(some.embeddings, every.embeddings[:most], atol=1e-6)
    np.testing.assert_allclose(some.scored.scores, every.scored.scores[:most], atol=1e-6)


def test_a_split_that_is_not_there(bundle: Bundle, tiny: Dataset) -> None:
    with pytest.raises(DataError, match="split 'demo' does not exist"):
        embed_split(bundle, tiny, "demo", most=10)


def test_the_map_keeps_groups_together() -> None:
    generator = np.random.default_rng(0)
    centres = np.eye(3, 8)
    groups = np.repeat(np.arange(3), 20)
    vectors = centres[groups] + 0.05 * generator.normal(size=(60, 8))
    vectors *= generator.uniform(0.1, 10, size=(60, 1))  # the cosine does not see lengths
    plane, how = to_plane(vectors.astype(np.float32))
    assert how.startswith("t-SNE")
    distances = np.linalg.norm(plane[:, None] - plane[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert np.array_equal(groups[distances.argmin(axis=1)], groups)
    assert np.array_equal(plane, to_plane(vectors.astype(np.float32))[0])


@pytest.mark.parametrize("count", [1, 2, 9])
def test_few_vectors_are_turned_only(count: int) -> None:
    vectors = np.random.default_rng(1).normal(size=(count, 2)).astype(np.float32)
    plane, how = to_plane(vectors)
    assert how == "principal components"
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = np.linalg.norm(unit[:, None] - unit[None], axis=2)
    found = np.linalg.norm(plane[:, None] - plane[None], axis=2)
    np.testing.assert_allclose(found, expected, atol=1e-6)
