import pytest

from raymc.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("the disk\nis full"), "the disk"),
        (ValueError("one\r\ntwo"), "one"),
        (KeyError("id"), "'id'"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("\nsecond"), "RuntimeError"),
    ],
)
def test_an_error_in_a_line(error: Exception, line: str) -> None:
    assert first_line(error) == line
