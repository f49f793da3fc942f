import io
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs
from record_files import (
    bytes_feature,
    crc32c,
    delimited,
    example,
    floats_feature,
    framed,
    ints_feature,
    masked,
    named,
    sequence_example,
    varint,
)

from raymc.errors import DataError, ResourceError
from raymc.formats.tfrecord import (
    Damage,
    RecordReader,
    masked_crc32c,
    parse_example,
    read_record,
    scan_records,
)

PAYLOADS = (b"first", b"", bytes(range(256)), b"\0" * 40)
FILE = b"".join(map(framed, PAYLOADS))
OFFSETS = [0, 21, 37, 309]


def scan(data: bytes) -> list[tuple[int, bytes | Damage]]:
    return list(scan_records(io.BytesIO(data).read, len(data)))


def payloads(data: bytes) -> list[bytes]:
    return [record for _, record in scan(data) if isinstance(record, bytes)]


def damages(data: bytes) -> list[tuple[int, str]]:
    return [(offset, found.reason) for offset, found in scan(data) if isinstance(found, Damage)]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_the_reference_checksum_is_the_published_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, appendix B.4


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1000])
def test_checksums_are_those_of_the_reference(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert struct.pack("<I", masked_crc32c(data)) == masked(data)


def test_checksum_of_a_file_that_tensorflow_wrote() -> None:
    # the first 12 bytes of TensorFlow's event files: a record of 24 bytes
    assert masked_crc32c(bytes.fromhex("1800000000000000")) == 0x224B7FA3


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with pytest.raises(ResourceError, match=r"google-crc32c; .*pip install 'raymc\[formats\]'"):
        masked_crc32c(b"")


def test_every_record_is_found() -> None:
    assert scan(FILE) == list(zip(OFFSETS, PAYLOADS))
    assert scan(b"") == []


@pytest.mark.parametrize(
    ("data", "offset", "reason"),
    [
        (FILE + b"\1", 365, "the file ends inside of its length"),
        (FILE + framed(b"more")[:11], 365, "the file ends inside of its length"),
        (FILE + framed(b"more")[:12], 365, "the file ends inside of its 4 bytes"),
        (FILE + framed(b"more")[:14], 365, "the file ends inside of its 4 bytes"),
        (FILE + framed(b"more")[:19], 365, "the file ends inside of its 4 bytes"),
        (FILE + bytes(12), 365, "the checksum of its length is wrong, so nothing from here"),
        (b"\x89PNG\r\n\x1a\n" + bytes(60), 0, "the checksum of its length is wrong"),
        (b"\x1f\x8b\x08\0" + bytes(60), 0, "the checksum of its length is wrong"),
        (b"id,labels\nabcd,17\n", 0, "the checksum of its length is wrong"),
    ],
)
def test_what_cannot_be_read_is_told(data: bytes, offset: int, reason: str) -> None:
    ((at, found),) = damages(data)
    assert at == offset
    assert found.startswith(reason)
    assert payloads(data) == (list(PAYLOADS) if offset else [])


def test_a_damaged_payload_costs_one_record() -> None:
    data = flipped(FILE, 8 * (OFFSETS[2] + 100))
    assert damages(data) == [(OFFSETS[2], "its checksum is wrong")]
    assert payloads(data) == [PAYLOADS[0], PAYLOADS[1], PAYLOADS[3]]


@pytest.mark.parametrize("length", [60, 2**31, 2**62, 2**64 - 16, 2**64 - 1])
def test_a_huge_length_asks_for_no_memory(length: int) -> None:
    header = struct.pack("<Q", length)
    stream, asked = io.BytesIO(header + masked(header) + bytes(60)), []

    def read(count: int) -> bytes:
        asked.append(count)
        return stream.read(count)

    found = read_record(read, 72)
    assert found == Damage(f"the file ends inside of its {length} bytes", 72)
    assert asked == [12]


def test_a_file_that_shrinks_while_it_is_read() -> None:
    assert read_record(io.BytesIO(framed(b"abc")[:-6]).read, 19) == Damage(
        "the file became shorter while it was read", 19
    )


def test_no_truncation_gives_a_wrong_record() -> None:
    ends = [*OFFSETS[1:], len(FILE)]
    for size in range(len(FILE)):
        whole = [payload for payload, end in zip(PAYLOADS, ends) if end <= size]
        assert payloads(FILE[:size]) == whole
        assert len(damages(FILE[:size])) == (size not in {0, *ends})


def test_no_flipped_bit_gives_a_wrong_record() -> None:
    for bit in range(8 * len(FILE)):
        data = flipped(FILE, bit)
        record = int(np.searchsorted(OFFSETS, bit // 8, side="right")) - 1
        in_header = bit // 8 < OFFSETS[record] + 12
        behind = PAYLOADS[record + 1 :] if not in_header else ()
        assert payloads(data) == [*PAYLOADS[:record], *behind]
        assert [offset for offset, _ in damages(data)] == [OFFSETS[record]]


def test_no_random_change_gives_a_wrong_record() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        at, cut, added = map(int, rng.integers([len(FILE), 20, 20]))
        data = FILE[:at] + rng.bytes(added) + FILE[at + cut :]
        rest = iter(PAYLOADS)
        assert all(payload in rest for payload in payloads(data))  # a subsequence
        assert data == FILE or damages(data) or payloads(data) != list(PAYLOADS)


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "a.tfrecord").write_bytes(FILE)
    return str(tmp_path / "a.tfrecord")


@pytest.mark.parametrize("window_bytes", [1, 16, 100, 1 << 20])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 2, 0, 3]])
def test_records_by_offset(file: str, window_bytes: int, order: list[int]) -> None:
    reader = RecordReader(fs.LocalFileSystem(), window_bytes=window_bytes)
    for i in order:
        assert reader.read(file, OFFSETS[i]) == PAYLOADS[i]


def test_records_of_several_files(file: str, tmp_path: Path) -> None:
    (tmp_path / "b.tfrecord").write_bytes(framed(b"other"))
    reader = RecordReader(fs.LocalFileSystem())
    found = [reader.read(path, 0) for path in (file, str(tmp_path / "b.tfrecord"), file)]
    assert found == [b"first", b"other", b"first"]


def test_neighbours_come_from_one_read(file: str) -> None:
    reader = RecordReader(fs.LocalFileSystem())
    assert reader.read(file, 0) == PAYLOADS[0]
    os.remove(file)
    assert [reader.read(file, offset) for offset in OFFSETS[1:]] == list(PAYLOADS[1:])


def test_a_file_that_changed(file: str) -> None:
    reader = RecordReader(fs.LocalFileSystem(), window_bytes=1)
    assert reader.read(file, OFFSETS[2]) == PAYLOADS[2]
    Path(file).write_bytes(FILE[:100])
    assert reader.read(file, OFFSETS[2]) == Damage("the file became shorter while it was read", 328)
    assert reader.read(file, OFFSETS[3]) == Damage("the file ends inside of its length", 0)
    os.remove(file)
    with pytest.raises(DataError, match=r"can't read or write .*a\.tfrecord"):
        reader.read(file, 0)


def test_features_of_an_example() -> None:
    found = parse_example(
        example(
            {
                "id": bytes_feature(b"abcd", b""),
                "labels": ints_feature(0, 300, -1, 2**63 - 1, -(2**63)),
                "mean": floats_feature(0.5, -2.0, 1e-30),
                "nothing": b"",
                "no bytes": bytes_feature(),
                "naïve": ints_feature(),
            }
        )
    )
    assert found.lists == {}
    assert list(found.features) == ["id", "labels", "mean", "nothing", "no bytes", "naïve"]
    assert found.features["id"] == (b"abcd", b"")
    assert found.features["nothing"] == found.features["no bytes"] == ()
    labels, mean = found.features["labels"], found.features["mean"]
    assert isinstance(labels, np.ndarray)
    assert isinstance(mean, np.ndarray)
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 300, -1, 2**63 - 1, -(2**63)]
    assert mean.dtype == np.float32
    assert mean.tolist() == [0.5, -2.0, float(np.float32(1e-30))]


def test_feature_lists_of_a_sequence_example() -> None:
    steps = [bytes_feature(b"\1\2"), bytes_feature(b"\3\4"), ints_feature(7)]
    found = parse_example(sequence_example({"id": bytes_feature(b"x")}, {"rgb": steps, "e": []}))
    assert found.features == {"id": (b"x",)}
    assert found.lists["e"] == []
    assert list(found.lists["rgb"][:2]) == [(b"\1\2",), (b"\3\4",)]
    np.testing.assert_array_equal(np.asarray(found.lists["rgb"][2]), [7])


def test_numbers_may_be_unpacked() -> None:
    ints = delimited(3, b"".join(varint(1 << 3) + varint(n) for n in (5, -6)))
    floats = delimited(2, b"".join(varint(1 << 3 | 5) + struct.pack("<f", n) for n in (1.5, 2)))
    found = parse_example(example({"ints": ints, "floats": floats}))
    np.testing.assert_array_equal(np.asarray(found.features["ints"]), [5, -6])
    np.testing.assert_array_equal(np.asarray(found.features["floats"]), [1.5, 2])


def test_unknown_fields_are_passed_over() -> None:
    unknown = delimited(9, b"new") + varint(10 << 3) + varint(3) + varint(11 << 3 | 1) + bytes(8)
    entry = delimited(1, b"id") + unknown + delimited(2, bytes_feature(b"x") + unknown)
    found = parse_example(unknown + delimited(1, unknown + delimited(1, entry)) + unknown)
    assert found.features == {"id": (b"x",)}


def test_of_a_repeated_name_the_last_counts() -> None:
    twice = named({"id": bytes_feature(b"x")}) + named({"id": bytes_feature(b"y")})
    assert parse_example(delimited(1, twice)).features == {"id": (b"y",)}


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        b"\x0a\x05\x0a",  # a message of 5 bytes of which one is there
        b"\x0a\xff\xff\xff\xff\x7f",  # one of 32 GiB
        b"id,labels\n",
        b"\x0b" * 200,  # groups inside of groups
        delimited(1, delimited(1, delimited(1, b"\xff\xfe"))),  # a name that is not text
    ],
)
def test_bytes_that_are_no_example(payload: bytes) -> None:
    with pytest.raises(DataError, match=r"^it is not a tf\.train\.Example or SequenceExample$"):
        parse_example(payload)


@pytest.mark.parametrize("change", ["truncate", "flip", "replace"])
def test_no_change_of_a_message_is_another_error(change: str) -> None:
    message = sequence_example(
        {"id": bytes_feature(b"abcd"), "labels": ints_feature(1, 500), "m": floats_feature(1, 2)},
        {"rgb": [bytes_feature(b"12345678")] * 2},
    )
    rng = np.random.default_rng(1)
    changes: dict[str, Callable[[int], bytes]] = {
        "truncate": lambda i: message[: i % len(message)],
        "flip": lambda i: flipped(message, i % (8 * len(message))),
        "replace": lambda i: message[: i % len(message)] + rng.bytes(8) + message[i % 90 + 8 :],
    }
    parsed = 0
    for i in range(2000):
        try:
            parse_example(changes[change](i))
            parsed += 1
        except DataError:
            pass
    assert 0 < parsed < 2000
