"""The benchmark of growth: its dataset, its ways and its table; no time is asserted."""

import io
import json
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from rich.console import Console

from jobs.bench import growth as bench
from jobs.bench.growth import Settings, bench_growth, make_dataset, table_of, ways_of
from jobs.bench.measure import Measurement, apart
from jobs.bench.ragged import RaggedRows
from raymc.data.check import check_dataset
from raymc.data.shards import Modality, Row, count_classes, open_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("growth") / "40", 40)


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_ragged_rows_follow_from_seed_and_number(dtype: Literal["float16", "uint8"]) -> None:
    seen: list[Row] = []
    modalities, classes = (Modality("visual", 6, dtype), Modality("audio", 4, dtype)), "abcde"
    rows = RaggedRows(40, modalities, classes, (2, 9), seen=seen.append)
    assert len(rows) == 40
    made = [rows[i] for i in range(40)]
    assert seen == made
    lengths = {len(np.asarray(row.tokens["visual"])) for row in made}
    assert (min(lengths), max(lengths)) == (2, 9)
    for row, again in zip(made, (rows[i] for i in range(40))):
        assert (row.id, row.labels) == (again.id, again.labels)
        assert len(set(row.labels)) == 3
        for name, dim in (("visual", 6), ("audio", 4)):
            values = np.asarray(row.tokens[name])
            np.testing.assert_array_equal(values, again.tokens[name])
            assert (values.dtype, values.shape[1]) == (np.dtype(dtype), dim)
            assert dtype == "uint8" or 0 <= values.min() < values.max() < 1
    other = RaggedRows(40, modalities, classes, (2, 9), seed=1)
    assert [other[i].labels for i in range(40)] != [row.labels for row in made]


def test_the_dataset_is_sound_and_its_labels_are_those_of_the_clips(folder: Path) -> None:
    assert check_dataset(str(folder)) == ([], [])
    dataset = open_dataset(str(folder))
    counts = count_classes(dataset, "train")
    names = dataset.manifest.vocabulary.names
    clips = RaggedRows(40, bench.MODALITIES, bench.CLASSES, bench.TOKENS)
    labels = [name for i in range(40) for name in clips[i].labels]
    assert counts.tolist() == [labels.count(name) for name in names]


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
        assert check_dataset(str(folder))[0]
    finally:
        broken.write_bytes(data)


def test_table_tells_growth_and_speed_beside_hashing() -> None:
    times = {"read and hashed, 10": 0.1, "read and hashed, 100": 1.0}
    times |= {"data check, 10": 0.25, "data check, 100": 2.0}
    found = {
        name: Measurement(name, figures={"seconds": [s * 2, s, s / 2]}) for name, s in times.items()
    }
    for name in times:
        if "check" in name:
            found[name].add(added_bytes=3.0 * 2**20)
    nbytes = {10: 10**8, 100: 10**9}
    assert table_of(["read and hashed", "data check"], nbytes, found).splitlines()[2:] == [
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
    found = {one["name"]: one["figures"] for one in values["measurements"]}
    assert all(len(figures["seconds"]) == 2 for figures in found.values())
    own = {f"{name}, {rows}" for name in bench.OWN for rows in (10, 100)}
    assert {name for name, figures in found.items() if "added_bytes" in figures} == own


@pytest.mark.slow
def test_what_fails_apart_fails_here() -> None:
    with pytest.raises(RuntimeError, match="in process") as failure:
        # text, for which the process imports none of the modules of this file
        apart(exec, "import os; raise RuntimeError(f'in process {os.getpid()}')")
    assert str(os.getpid()) not in str(failure.value)
