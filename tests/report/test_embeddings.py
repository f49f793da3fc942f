"""Embeddings agree with scores; the map keeps neighbours together."""

from pathlib import Path

import numpy as np
import pytest
from tiny import SPLIT_ROWS

from raymc.data.shards import Dataset
from raymc.evaluation.scoring import embed_rows, score_split
from raymc.report.classes import cosine_similarities
from raymc.report.embeddings import prototypes_of, to_plane
from raymc.training.bundle import Bundle, load_bundle


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


@pytest.mark.parametrize("most", [8, 13, 1000])
def test_embeddings_are_those_that_scores_are_made_of(
    most: int, bundle: Bundle, tiny: Dataset
) -> None:
    found, scored = embed_rows(bundle, tiny, "val", most=most), score_split(bundle, tiny, "val")
    rows = min(most, SPLIT_ROWS["val"])
    assert len(found) == rows
    similar = cosine_similarities(np.concatenate([found, prototypes_of(bundle)]))[:rows, rows:]
    np.testing.assert_allclose(similar, scored.scores[:rows], atol=1e-5)


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
