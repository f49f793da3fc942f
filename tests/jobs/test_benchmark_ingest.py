"""The benchmark of ingest: every way gives the same values, tables say what was measured."""

import ast
import hashlib
import io
import json
import math
import os
import sys
import warnings
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import jobs.bench
from jobs.bench import ingest as bench
from jobs.bench import ingest_peers
from jobs.bench.batches import CLASSES, Padded, Source, pad, read_rows, size_of, sum_of
from jobs.bench.ingest import (
    Settings,
    bench_ingest,
    make_rows,
    make_set,
    ratios_of,
    rows_in,
    table_of,
    ways_named,
)
from jobs.bench.ingest_peers import BY_HAND, CACHED, FLOOR, RAY_DATA, STREAMED, WAYS, Reader
from jobs.bench.measure import Measurement
from jobs.bench.memory import added_bytes, drop_page_cache, touch_memory
from raymc.data.shards import open_dataset
from raymc.errors import ConfigError, DataError

ROWS, BATCH, SHARD_ROWS = 11, 4, 4


INSTALLED = [name for name, way in WAYS.items() if find_spec(way.package)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    """Sets of 11 rows in three shards, by type."""
    made = {}
    for dtype in ("float16", "uint8"):
        folder = tmp_path_factory.mktemp(dtype)
        make_set(folder, ROWS, dtype, shard_rows=SHARD_ROWS)
        made[dtype] = Source(str(folder), dtype, BATCH)
    return made


@pytest.fixture(params=["float16", "uint8"])
def source(request: pytest.FixtureRequest, sources: dict[str, Source]) -> Source:
    return sources[request.param]


def expected_sum(source: Source) -> int:
    """The checksum of the rows as they are made, by a slow way of its own."""
    total = 0
    for i in range(ROWS):
        row = make_rows(ROWS, source.dtype)[i]
        data = b"".join(np.asarray(row.tokens[name]).tobytes() for name in ("visual", "audio"))
        data += bytes(CLASSES.index(name) for name in row.labels)
        total += int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    return total % 2**64


def test_the_checksum_is_that_of_the_rows_as_made(source: Source) -> None:
    made = open_dataset(source.path("raymc")).manifest
    assert made.rows("train") == ROWS
    assert make_set(Path(source.folder), ROWS, source.dtype, shard_rows=SHARD_ROWS) == expected_sum(
        source
    )


def test_sets_have_about_so_many_megabytes() -> None:
    assert rows_in(1000.0, "float16") == 2679
    assert rows_in(1000.0, "uint8") == 5358


def test_padding_by_hand(source: Source) -> None:
    rows = read_rows(source.shards[0])
    batch = pad(rows, source.dtype)
    for place, row in enumerate(rows):
        tokens = np.frombuffer(row.tokens[0], source.dtype).reshape(-1, 1024)
        assert int(batch.lengths[0][place]) == len(tokens)
        np.testing.assert_array_equal(batch.tokens[0][place, : len(tokens)].numpy(), tokens)
        assert not batch.tokens[0][place, len(tokens) :].any()
        assert batch.labels[place].nonzero().flatten().tolist() == sorted(row.labels)
    assert size_of(batch) == (
        SHARD_ROWS,
        sum(len(bytes(data)) for row in rows for data in row.tokens),
    )


def test_the_checksum_notices_any_change_but_order_and_padding(source: Source) -> None:
    rows = read_rows(source.shards[0])
    batch = pad(rows, source.dtype)
    right = sum_of(batch)
    assert sum_of(pad(rows[::-1], source.dtype)) == right
    assert (sum_of(pad(rows[:2], source.dtype)) + sum_of(pad(rows[2:], source.dtype))) % 2**64 == (
        right
    )
    longest = max(range(len(rows)), key=lambda i: int(batch.lengths[1][i]))
    for change in ("token", "label", "length"):
        tokens = tuple(x.clone() for x in batch.tokens)
        lengths, labels = tuple(x.clone() for x in batch.lengths), batch.labels.clone()
        if change == "token":
            tokens[1][longest, -1, -1] = 0.5 if tokens[1][longest, -1, -1] == 1 else 1
        elif change == "label":
            labels[0, 0] ^= True
        else:
            lengths[0][1] -= 1
        assert sum_of(Padded(tokens, lengths, labels)) != right, change


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=[pytest.mark.slow] if WAYS[name].on_ray else [])
        for name, dtype in [
            *((name, "uint8") for name in INSTALLED if name != RAY_DATA),
            (CACHED, "float16"),
            (RAY_DATA, "float16"),
        ]
    ],
)
def test_every_way_gives_the_same_values(
    name: str, dtype: str, sources: dict[str, Source], request: pytest.FixtureRequest
) -> None:
    source = sources[dtype]
    if WAYS[name].on_ray:
        request.getfixturevalue("ray_logs")
    reader = Reader(WAYS[name], source)
    reader.prepare()
    read = reader.read()
    assert read["rows"] == ROWS
    raw = [row for path in source.shards for row in read_rows(path)]
    assert read["bytes"] == sum(len(bytes(data)) for row in raw for data in row.tokens)
    sums = [reader.check()["sum"] for _ in range(1 if name == RAY_DATA else 2)]  # it takes long
    assert set(sums) == {expected_sum(source)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in INSTALLED if WAYS[name].shares and not WAYS[name].on_ray]
)
def test_shares_make_up_the_whole(sources: dict[str, Source], name: str) -> None:
    source, sums = sources["uint8"], []
    Reader(WAYS[name], source).prepare()
    for rank in (0, 1):
        share = Source(source.folder, source.dtype, source.batch, rank, 2)
        sums.append(Reader(WAYS[name], share).check()["sum"])
    assert sum(sums) % 2**64 == expected_sum(source)
    assert all(s > 0 for s in sums)


def test_the_peers_side_needs_nothing_of_raymc() -> None:
    folder = Path(jobs.bench.__file__).parent
    names = ("batches", "ingest_peers", "memory")
    own = {"numpy", "pyarrow", "pyarrow.parquet", "torch", "torch.utils.data"}
    allowed = {*own, *(f"jobs.bench.{name}" for name in names), *sys.stdlib_module_names}
    for name in ("__init__", *names):
        for node in ast.parse((folder / f"{name}.py").read_text()).body:
            if isinstance(node, ast.ImportFrom):
                assert {node.module, str(node.module).partition(".")[0]} & allowed, name
            elif isinstance(node, ast.Import):
                found = {alias.name for alias in node.names}
                assert found <= allowed, name


def settings_for(folder: Path, *ways: str, **given: Any) -> Settings:
    return Settings(
        ways=ways,
        data=str(folder),
        dtypes=("uint8",),
        rounds=2,
        first_rounds=1,
        batch=BATCH,
        shard_rows=SHARD_ROWS,
        **given,
    )


class ProcessThread:
    """Answers as a process of a way does, in a thread, which has nothing to import."""

    def __init__(self, command: list[str], **_: Any) -> None:
        name, given = command[-2:]
        (asked, ask), (answers, answer) = os.pipe(), os.pipe()
        self.stdin, self.stdout = os.fdopen(ask, "w"), os.fdopen(answers)

        def run() -> None:
            with os.fdopen(asked) as commands, os.fdopen(answer, "w") as told:
                ingest_peers.serve(name, Source(**json.loads(given)), commands, told)

        self.thread = Thread(target=run)
        self.thread.start()

    def wait(self) -> None:
        self.thread.join()
        self.stdout.close()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_logs")
def test_the_whole_benchmark_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = SimpleNamespace(Popen=ProcessThread, PIPE=None, DEVNULL=None)
    monkeypatch.setattr(bench, "subprocess", threads)
    page = io.StringIO()
    bench_ingest(
        Console(file=page),
        settings_for(tmp_path / "sets", BY_HAND, CACHED, megabytes=(4.0,), workers=(2,)),
        out=tmp_path / "out",
    )
    assert (tmp_path / "out" / "ingest.md").read_text().strip() in page.getvalue()
    found = json.loads((tmp_path / "out" / "ingest.json").read_text())["measurements"]
    known = json.loads((tmp_path / "sets" / "uint8-4mb" / "sum.json").read_text())
    assert [one["name"] for one in found] == [BY_HAND, CACHED]
    for one in found:
        figures = one["figures"]
        assert (one["note"], figures["sum"]) == ("", [known["sum"]])
        assert (len(figures["first"]), len(figures["later"])) == (1, 2)
        assert set(figures["rows"]) == {known["rows"]}
        assert max(figures["peak_bytes"]) > 50 << 20


@pytest.mark.slow
def test_other_values_are_an_error_and_what_is_missing_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(*given: object, **named: object) -> int:
        return make_set(*given, **named) + 1  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(bench, "make_set", make)
    page, missing = io.StringIO(), "litdata, 2 processes"
    peer = tmp_path / "python"
    peer.write_text("""#!/bin/sh\necho '{"reason": "not installed (there)"}'\n""")
    peer.chmod(0o755)
    ways = {"megabytes": (1.0,), "peer_python": str(peer)}
    settings = settings_for(tmp_path, BY_HAND, missing, **ways)
    with pytest.raises(DataError, match=r"by hand.*not those that were written"):
        bench_ingest(Console(file=page), settings)
    if find_spec("litdata") is None:
        assert f"| {missing} | not installed (there)" in page.getvalue()


def test_a_process_tells_that_its_package_is_missing(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "argv", ["", "gone", json.dumps(asdict(source))])
    monkeypatch.setattr(sys, "stdout", said)
    monkeypatch.setitem(WAYS, "gone", replace(WAYS[FLOOR], package="no_such_package"))
    with warnings.catch_warnings():  # `main` filters those of its process
        ingest_peers.main()
    reason = "not installed (No module named 'no_such_package')"
    assert json.loads(said.getvalue()) == {"reason": reason}


def test_ways_are_named_by_parts() -> None:
    assert ways_named([]) == list(WAYS)
    assert ways_named(["raymc", "by hand"]) == [BY_HAND, CACHED, STREAMED]
    with pytest.raises(ConfigError, match=r"no way is named 'rymc'.*raymc, cached"):
        ways_named(["rymc"])


def test_files_are_whole_after_the_page_cache_was_dropped(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"
    file.parent.mkdir()
    file.write_bytes(b"x" * 10**6)
    drop_page_cache(tmp_path)
    assert file.read_bytes() == b"x" * 10**6


def test_tables_put_ways_beside_the_loop_by_hand_and_the_fastest_peer() -> None:
    def figure(way: str, first: float, later: float) -> Measurement:
        seconds = {"first": [first], "later": [later * 2, later, later / 2]}
        sizes = {"rows": [100], "bytes": [200 * 10**6], "peak_bytes": [300 << 20, 1 << 20]}
        return Measurement(way, figures={**seconds, **sizes})

    figures = [
        figure(BY_HAND, 4.0, 2.0),
        figure(CACHED, 2.0, 0.5),
        figure(STREAMED, 5.0, 1.0),
        figure("datasets, streaming", 8.0, 1.5),
        figure("WebDataset, 2 processes", 3.0, 3.0),
        figure(RAY_DATA, 40.0, 50.0),
        Measurement("litdata, 2 processes", note="not installed"),
    ]
    lines = table_of(figures).splitlines()
    assert lines[3] == (
        f"| {CACHED} | 50 | 100 | 100 to 100 | 2.00 | 200 | 400 | 200 to 800 | 4.00 | 300 |"
    )
    assert lines[8] == f"| litdata, 2 processes | not installed{' | ' * 8} |"
    assert ratios_of(figures).splitlines()[2:] == [
        f"| {CACHED}, first epoch | 2.00 | 1.50 (WebDataset, 2 processes) | 20.00 |",
        f"| {CACHED}, later epoch | 4.00 | 3.00 (datasets, streaming) | 100.00 |",
        f"| {STREAMED}, first epoch | 0.80 | 0.60 (WebDataset, 2 processes) | 8.00 |",
        f"| {STREAMED}, later epoch | 2.00 | 1.50 (datasets, streaming) | 50.00 |",
    ]


def test_touched_memory_is_touched_and_given_back() -> None:
    added = added_bytes(lambda: touch_memory(64 << 20))
    assert math.isnan(added) or 60 << 20 < added < 80 << 20
