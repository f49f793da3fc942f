"""The benchmark of scale: each thing that it times does its work; no time is asserted."""

import pytest

from jobs.bench import scale as bench
from jobs.bench.measure import Measurement
from jobs.bench.scale import measured, planned, table_of

SIZE = 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (bench.manifest_read, lambda made: len(made.splits["train"]) == SIZE),
        (bench.manifest_written, lambda made: made.count("parquet") == SIZE),
        (bench.manifest_digest, lambda made: len(made) == 64),
        (bench.epoch_ordered, lambda made: made == SIZE * bench.SHARD_ROWS),
        (bench.runs_listed, lambda made: [run.trials for run in made] == [SIZE - 1]),
        (bench.trials_read, lambda made: len(made) == SIZE - 1),
        (bench.trial_drawn, lambda made: made.number == SIZE),
        (bench.sweep_driven, lambda made: made == SIZE),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_what_is_timed_does_its_work(prepare, expected) -> None:
    with prepare(SIZE) as work:
        assert expected(work())


def test_the_table_has_a_row_for_each_thing() -> None:
    found = []
    for name, seconds in (("a", (0.1, 1.0, 10.0)), ("b", (1.0, 2.0, 3.0))):
        for size, taken in zip((1, 10, 100), seconds):
            found.append(Measurement(name, case={"size": size}))
            found[-1].add(seconds=taken)
    rows = [line.strip("|").split("|") for line in table_of(found).splitlines()[2:]]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["a", "100", "0.1", "1", "10", "× 10.0"],
        ["b", "100", "1", "2", "3", "× 1.5"],
    ]


@pytest.mark.slow
def test_what_workers_read() -> None:
    found = {one.case["workers"]: one for one in planned(2000)}
    assert list(found) == list(bench.WORKERS)
    for workers, one in found.items():
        assert one.median("all") == pytest.approx(1)
        assert one.median("each") == pytest.approx(1 / workers, rel=0.1)
        assert 1 <= one.median("largest") < 1.1
    together, apart = measured(256)
    assert together.case["lanes"] == 1 < apart.case["lanes"]
    assert together.median("all") > 1.6 * apart.median("all")
