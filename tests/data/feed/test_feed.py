"""Splits in the object store, or streamed by each worker: the same batches as from the files."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import LABELS, MODALITIES, SPLIT_ROWS, feed_of, tiny_row

from raymc.config import Config, override
from raymc.data.feed import on_ray as feeds
from raymc.data.feed.batches import Batch
from raymc.data.feed.feed import Feed
from raymc.data.feed.on_ray import share_data, share_split
from raymc.data.feed.shared import SharedSplit
from raymc.data.shards import Dataset, count_classes, open_dataset
from raymc.errors import DataError

pytestmark = pytest.mark.usefixtures("ray_logs")
WAYS = {
    "read by the driver": {"data.cache": "object_store"},
    "read by tasks": {"data.cache": "object_store"},
    "streamed": {"data.cache": "off"},
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings that make a split come by each of the ways it can."""
    if request.param == "read by tasks":
        monkeypatch.setattr(feeds, "DIRECT_BYTES", 0)
    return {**WAYS[request.param], "batch.window_rows": 16}


def assert_same(found: Batch, expected: Batch) -> None:
    assert found.tokens.keys() == expected.tokens.keys()
    for name, tokens in expected.tokens.items():
        assert found.tokens[name].dtype == tokens.dtype
        torch.testing.assert_close(found.tokens[name], tokens, rtol=0, atol=0)
        torch.testing.assert_close(found.lengths[name], expected.lengths[name])
    for name in ("rows", "labels", "observed"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))


def assert_all_same(found: Feed, expected: Feed) -> None:
    """Both feeds give the same training and evaluation batches, and leave out no row."""
    assert (found.rows, found.steps) == (expected.rows, expected.steps)
    pairs = list(zip(found.training(2), expected.training(2), strict=True))
    for one, two in pairs:
        assert_same(one, two)
    rows = torch.cat([one.rows for one, _ in pairs])
    assert sorted(rows.tolist()) == list(range(found.rows))
    for one, two in zip(found.evaluation(), expected.evaluation(), strict=True):
        assert_same(one, two)


@pytest.mark.slow
def test_batches_are_those_of_the_files(
    tiny: Dataset, tiny_config: Config, way: dict[str, Any]
) -> None:
    config = override(tiny_config, way)
    shared = share_split(tiny, "train", config.data)
    assert (shared.blocks is None) == (config.data.cache == "off")
    keep = shared.blocks is not None
    assert_all_same(shared.feed(config), feed_of(tiny, "train", config, keep=keep))


def test_workers_share_each_batch(tiny: Dataset, tiny_config: Config) -> None:
    config = override(tiny_config, {"data.cache": "object_store"})
    data = share_data(tiny, config)
    for rank in (0, 1):
        mine = data.feeds(config, share=(rank, 2))
        files = feed_of(tiny, "val", config, share=(rank, 2))
        for one, two in zip(mine.val.evaluation(), files.evaluation(), strict=True):
            assert_same(one, two)
        assert mine.train.rows == SPLIT_ROWS["train"]


@pytest.mark.parametrize("cache", ["object_store", "off"])
def test_some_modalities_alone(tiny: Dataset, tiny_config: Config, cache: str) -> None:
    config = override(tiny_config, {"data.cache": cache, "data.modalities": ["audio"]})
    shared = share_split(tiny, "val", config.data)
    assert shared.manifest.modalities == (MODALITIES[1],)
    batches = list(shared.feed(config).evaluation())
    assert all(batch.tokens.keys() == {"audio"} for batch in batches)
    lengths = torch.cat([batch.lengths["audio"] for batch in batches])
    tokens = [tiny_row("val", i).tokens["audio"] for i in range(SPLIT_ROWS["val"])]
    rows = torch.cat([batch.rows for batch in batches])
    assert lengths.tolist() == [0 if (x := tokens[i]) is None else len(x) for i in rows.tolist()]


def test_classes_are_counted(tiny: Dataset, tiny_config: Config) -> None:
    expected = np.zeros(len(LABELS), dtype=int)
    for i in range(SPLIT_ROWS["train"]):
        for name in tiny_row("train", i).labels:
            expected[LABELS.index(name)] += 1
    assert count_classes(tiny, "train").tolist() == expected.tolist()
    assert share_data(tiny, tiny_config).class_counts.tolist() == expected.tolist()


@pytest.mark.parametrize(("share", "cached"), [(0.5, True), (1e-9, False)])
def test_auto_caches_what_fits(
    tiny: Dataset, tiny_config: Config, share: float, cached: bool
) -> None:
    config = override(tiny_config, {"data.cache_share": share})
    assert (share_split(tiny, "train", config.data).blocks is not None) == cached


def test_a_modality_that_is_not_there(tiny: Dataset, tiny_config: Config) -> None:
    config = override(tiny_config, {"data.modalities": ["smell"]})
    with pytest.raises(DataError, match=r"smell"):
        share_split(tiny, "train", config.data)


@pytest.mark.parametrize("shard", ["00000", "00002"])
def test_a_shard_that_cannot_be_read(
    tiny_path: Path, tiny_config: Config, tmp_path: Path, way: dict[str, Any], shard: str
) -> None:
    path = shutil.copytree(tiny_path, tmp_path / "data")
    torn = path / "train" / f"{shard}.parquet"
    torn.write_bytes(torn.read_bytes()[:700])
    config = override(tiny_config, way)
    with pytest.raises(DataError, match=rf"{shard}\.parquet") as caught:
        _read_all(share_split(open_dataset(str(path)), "train", config.data))
    assert "\n" not in str(caught.value)


def _read_all(shared: SharedSplit) -> int:
    return sum(len(table) for table in shared.read(range(len(shared.dataset.split(shared.split)))))
