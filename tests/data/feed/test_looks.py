"""How classes look is what a regression says, and those of a group look alike."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny import VOCABULARY as TINY_VOCABULARY

from raymc.config import Config, override
from raymc.data.feed import shared
from raymc.data.feed.looks import class_looks, group_look_alikes
from raymc.data.feed.shared import data_here
from raymc.data.labels import Vocabulary
from raymc.data.shards import Dataset, Modality, Row, open_dataset, read_shard, write_dataset

MODALITIES = (
    Modality("visual", 3, "uint8", scale=0.25, offset=-8.0),
    Modality("audio", 2, "float32"),
    Modality("text", 1, "float32"),  # no clip has any
)
NAMES = tuple("abcdef")


def make(folder: Path) -> tuple[list[Row], list[pa.Table]]:
    """Ragged clips of some labels each, none with the last; every third has no sound."""
    generator = np.random.default_rng(0)
    rows = []
    for i in range(40):
        visual = generator.integers(0, 256, (1 + i % 3, 3), dtype=np.uint8)
        audio = generator.normal(size=(2, 2)).astype(np.float32) if i % 3 else None
        labels = sorted({NAMES[i % 5], NAMES[i % 4]})
        tokens = {"visual": visual, "audio": audio, "text": None}
        rows.append(Row(id=str(i), labels=labels, tokens=tokens))
    vocabulary = Vocabulary(NAMES)
    write_dataset(
        str(folder), {"train": rows}, vocabulary=vocabulary, modalities=MODALITIES, shard_rows=16
    )
    dataset = open_dataset(str(folder))
    return rows, [read_shard(dataset, shard) for shard in dataset.split("train")]


def regression(rows: Sequence[Row]) -> np.ndarray:
    """The same in float64, by least squares with a row of its own for each penalty."""
    columns = []
    for one in MODALITIES[:2]:
        means = [None if (x := row.tokens[one.name]) is None else x.mean(axis=0) for row in rows]
        there = np.array([mean for mean in means if mean is not None], dtype=np.float64)
        common = there.mean(axis=0)
        spread = np.sqrt(((there - common) ** 2).sum(axis=1).mean())
        columns.append([0 * common if x is None else (x - common) / spread for x in means])
    features = np.concatenate([np.array(x) for x in columns], axis=1)
    labels = np.array([[name in row.labels for name in NAMES] for row in rows], dtype=np.float64)
    penalised = np.concatenate([labels, np.eye(len(NAMES))])
    targets = np.concatenate([features, np.zeros((len(NAMES), features.shape[1]))])
    return np.linalg.lstsq(penalised, targets)[0]


def test_looks_are_a_regression_on_labels(tmp_path: Path) -> None:
    rows, tables = make(tmp_path)
    found = class_looks(tables, MODALITIES, Vocabulary(NAMES))
    np.testing.assert_allclose(found[:, :5], regression(rows), atol=1e-5)
    assert not found[5].any()
    assert not found[:, 5].any()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_clips_with_tokens_that_are_not_finite_lack_them(tmp_path: Path, broken: float) -> None:
    rows, tables = make(tmp_path)
    sound = tables[0]["audio"].to_pylist()
    sound[7] = np.array([[0.0, 1.0], [2.0, broken]], np.float32).tobytes()
    kind = tables[0].schema.field("audio").type
    tables[0] = tables[0].drop_columns("audio").append_column("audio", pa.array(sound, kind))
    rows[7] = replace(rows[7], tokens={**rows[7].tokens, "audio": None})
    found = class_looks(tables, MODALITIES, Vocabulary(NAMES))
    np.testing.assert_allclose(found[:, :5], regression(rows), atol=1e-5)


@pytest.mark.parametrize("groups", [2, 3, 4, 7, 20])
def test_frequent_look_alikes_are_together_and_no_group_is_too_large(groups: int) -> None:
    generator = np.random.default_rng(groups)
    family = generator.permutation(np.arange(40) % groups)
    counts = generator.integers(1, 30, 40)
    directions = np.eye(20)[family] + 0.1 * generator.normal(size=(40, 20))
    looks = (directions * generator.uniform(0.1, 10, (40, 1))).astype(np.float32)
    looks[counts < 5] = generator.normal(size=(int((counts < 5).sum()), 20))
    found = group_look_alikes(looks, counts, groups)
    assert np.bincount(found, minlength=groups).max() <= -(-40 // groups)
    frequent = np.flatnonzero(counts >= 10)
    same = family[frequent, None] == family[frequent]
    assert (same == (found[frequent, None] == found[frequent])).mean() > 0.95
    assert np.array_equal(found, group_look_alikes(looks, counts, groups))


def test_classes_without_looks_fill_what_is_left() -> None:
    looks = np.zeros((12, 3), np.float32)
    looks[[1, 4, 7]] = [[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0]]
    counts = np.array([0, 3, 0, 9, 2, 0, 0, 4, 0, 0, 0, 0])  # class 3 is not in the sample
    found = group_look_alikes(looks, counts, 8)
    assert np.bincount(found, minlength=8).min() == 1
    assert np.bincount(found, minlength=8).max() == 2
    assert len(set(group_look_alikes(0 * looks, counts, 8).tolist())) == 8


@pytest.mark.filterwarnings("error")
def test_classes_that_always_go_together_have_one_look() -> None:
    looks = np.repeat(np.eye(3, 4, dtype=np.float32), 4, axis=0)
    found = group_look_alikes(looks, np.full(12, 5), 7)
    assert np.bincount(found, minlength=7).max() <= 2


def test_only_runs_that_share_queries_look(
    tiny: Dataset, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = len(TINY_VOCABULARY)
    for queries, is_shared in ((0, False), (classes, False), (2, True)):
        config = override(tiny_config, {"model.class_queries": queries})
        data = data_here(tiny, config)
        assert (data.looks is not None) == is_shared
        assert data.feeds(config).looks is data.looks
    searched = override(tiny_config, {"search.space": {"model.class_queries": {"choices": [0, 2]}}})
    assert np.array_equal(data_here(tiny, searched).looks, data.looks)
    monkeypatch.setattr(shared, "MOST_CLASSES", classes - 1)
    assert data_here(tiny, searched).looks is None


def test_of_much_a_sample_is_read_wherever_the_rows_are(
    tiny: Dataset, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = override(tiny_config, {"model.class_queries": 2})
    whole = data_here(tiny, config).looks
    monkeypatch.setattr(shared, "SHARDS", 2)
    monkeypatch.setattr(shared, "CLIPS", 10)
    first, last = (read_shard(tiny, tiny.split("train")[at]) for at in (0, -1))
    chosen = [
        table.take(np.linspace(0, len(table) - 1, 5).round().astype(int)) for table in (first, last)
    ]
    modalities, vocabulary = tiny.manifest.modalities, tiny.manifest.vocabulary
    expected = class_looks(chosen, modalities, vocabulary)
    for cache in ("off", "auto"):
        found = data_here(tiny, override(config, {"data.cache": cache})).looks
        assert np.array_equal(found, expected)
        assert not np.array_equal(found, whole)
