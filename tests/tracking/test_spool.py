"""What is left in a run's folder when MLflow is away: all of it, in order, for one at a time."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raymc.errors import ResourceError
from raymc.tracking import count_left
from raymc.tracking.spool import SPOOL_FILE, Record, Spool


def record(number: int) -> Record:
    metrics = {"val/mAP": number / 10, "train/loss": float("inf")}
    return Record(f"epoch {number}", "log_epoch", {"run": "ä", "metrics": metrics})


def spool_with(folder: Path, *numbers: int) -> Spool:
    spool = Spool(folder)
    for number in numbers:
        spool.add(record(number))
    return spool


def test_the_next_process_finds_what_is_left(tmp_path: Path) -> None:
    spool_with(tmp_path, 1, 2).close(keep=True)
    assert count_left(tmp_path) == 2
    spool = Spool(tmp_path)
    assert spool.left == [record(1), record(2)]
    spool.add(record(3))
    spool.close(keep=True)
    assert Spool(tmp_path).left == [record(1), record(2), record(3)]


def test_nothing_is_left_of_what_was_written(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, 1, 2)
    spool.clear()
    assert count_left(tmp_path) == 0
    spool.add(record(3))
    spool.close(keep=True)
    spool = Spool(tmp_path)
    assert spool.left == [record(3)]
    spool.close(keep=False)
    assert list(tmp_path.iterdir()) == []
    assert count_left(tmp_path) == 0


def test_a_line_that_a_crash_tore_is_left_out(tmp_path: Path) -> None:
    spool_with(tmp_path, 1, 2).close(keep=True)
    file = tmp_path / SPOOL_FILE
    file.write_bytes(file.read_bytes()[:-5])
    spool = Spool(tmp_path)
    assert spool.left == [record(1)]
    spool.add(record(3))
    spool.close(keep=True)
    assert Spool(tmp_path).left == [record(1), record(3)]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file grows beyond some bytes, as if the disk were full then."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_had_no_space_is_kept_in_order_when_there_is_some(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, 1)
    size = (tmp_path / SPOOL_FILE).stat().st_size
    for limit in (size, size + 20):  # no byte of the line fits; a part of it does
        with files_of_at_most(limit), pytest.raises(OSError, match=r"large|space"):
            spool.add(record(limit))
        assert (tmp_path / SPOOL_FILE).stat().st_size == size
    assert spool.unsaved == [record(size), record(size + 20)]
    spool.add(record(4))
    assert spool.unsaved == []
    spool.close(keep=True)
    assert Spool(tmp_path).left == [record(1), record(size), record(size + 20), record(4)]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, 1)
    with pytest.raises(ResourceError, match=r"another process is writing the records of /"):
        Spool(tmp_path)
    spool.close(keep=True)
    assert Spool(tmp_path).left == [record(1)]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"mlflow-spool.jsonl can't be written: No such file"):
        Spool(tmp_path / "none")


def test_a_file_of_something_else(tmp_path: Path) -> None:
    (tmp_path / SPOOL_FILE).write_text("notes\n")
    with pytest.raises(ResourceError, match=r"holds no records: move it away"):
        Spool(tmp_path)
