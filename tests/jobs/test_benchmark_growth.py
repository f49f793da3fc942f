"""The benchmark of growth: its dataset, its ways and its table; no time is asserted."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from jobs.bench import growth as bench
from jobs.bench.growth import Clips, Settings, bench_growth, make_dataset, table_of, ways_of
from jobs.bench.measure import Timing, apart
from raymc.data.check import check_dataset
from raymc.data.feed.on_ray import count_classes
from raymc.data.shards import open_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("growth") / "40", 40)


def test_clips_follow_from_their_number() -> None:
    clips = Clips(40)
    assert len(clips) == 40
    first, other, again = clips[3], clips[4], clips[3]
    assert (first.id, first.labels) == (again.id, again.labels)
    assert first.id != other.id
    for name in ("visual", "audio"):
        tokens, repeated = first.tokens[name], again.tokens[name]
        assert tokens is not None
        assert repeated is not None
        np.testing.assert_array_equal(tokens, repeated)
        assert 8 <= len(tokens) <= 24
    values = first.tokens["visual"]
    assert values is not None
    assert values.dtype == np.float16
    assert 0 <= values.min() < values.max() < 1


def test_the_dataset_is_sound_and_its_labels_are_those_of_the_clips(folder: Path) -> None:
    assert check_dataset(str(folder)) == []
    dataset = open_dataset(str(folder))
    counts = count_classes(dataset, "train")
    names = dataset.manifest.vocabulary.names
    assert counts.sum() == sum(len(set(Clips(40)[i].labels)) for i in range(40))
    for k in np.flatnonzero(counts):
        assert counts[k] == sum(names[k] in Clips(40)[i].labels for i in range(40))


def test_every_way_looks_at_the_whole_dataset(folder: Path) -> None:
    ways = ways_of(folder)
    assert list(ways)[:5] == [
        "read",
        "read and hashed",
        "data check",
        "data info",
        "labels counted",
    ]
    for way in ways.values():
        way()
    broken = next(folder.rglob("*.parquet"))
    data = broken.read_bytes()
    (shard,) = open_dataset(str(folder)).split("train")
    assert bench._hash(broken) == shard.sha256
    broken.unlink()
    try:
        for name, way in ways_of(folder).items():
            if name in ("data info", "labels counted"):
                with pytest.raises(Exception, match="is missing"):
                    way()
        assert check_dataset(str(folder))
    finally:
        broken.write_bytes(data)


def test_table_tells_growth_and_speed_beside_hashing() -> None:
    times = {"read and hashed, 10": 0.1, "read and hashed, 100": 1.0}
    times |= {"data check, 10": 0.25, "data check, 100": 2.0}
    timings = [Timing(name, (s * 2, s, s / 2)) for name, s in times.items()]
    added = {name: 3.0 * 2**20 for name in times if "check" in name}
    nbytes = {10: 10**8, 100: 10**9}
    assert table_of(["read and hashed", "data check"], nbytes, timings, added).splitlines()[2:] == [
        "| read and hashed | 0.1 | 1 | 0.5 to 2 | × 10.0 | 1.00 | 1.00 |  |  |",
        "| data check | 0.25 | 2 | 1 to 4 | × 8.0 | 0.50 | 0.50 | 3 | 3 |",
    ]


def test_the_whole_benchmark_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "apart", lambda function, way: function(way))
    page = io.StringIO()
    settings = Settings(rows=100, rounds=2, folder=str(tmp_path))
    bench_growth(Console(file=page), settings, out=tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]  # the datasets are gone
    for name in ("read", "read and hashed", "data check", "data info", "labels counted"):
        assert f"\n| {name} | " in page.getvalue()
    values = json.loads((tmp_path / "out" / "growth.json").read_text())
    assert all(len(timing["seconds"]) == 2 for timing in values["timings"])
    measured = {f"{name}, {rows}" for name in bench.OWN for rows in (10, 100)}
    assert {f["way"] for f in values["figures"]} == measured
    assert measured < {timing["name"] for timing in values["timings"]}


def test_what_runs_apart_hands_its_result_or_error_back() -> None:
    assert apart(os.getpid) != os.getpid()
    with pytest.raises(RuntimeError):
        apart(_fail)


def _fail() -> None:
    raise RuntimeError("there")
