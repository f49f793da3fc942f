"""TFRecord files and the tf.train.Example messages in them, read without TensorFlow.

protobuf parses the messages and google-crc32c takes the checksums. The framing is read here, as
readers of other packages stop at damage: this one counts the bytes lost, resumes at the next
record, and finds records by offset.

A record (tensorflow.org/tutorials/load_data/tfrecord) is its payload's length (uint64, little-
endian), the masked CRC-32C of these 8 bytes, the payload, and the payload's masked CRC-32C.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from pyarrow import fs

from raymc.data import storage
from raymc.errors import DataError, ResourceError

FRAME_BYTES = 16  # of a record besides its payload
_HEADER = struct.Struct("<QI")
_MASK_DELTA = 0xA282EAD8
Values = tuple[bytes, ...] | Float32[np.ndarray, " _"] | Int64[np.ndarray, " _"]
# tensorflow/core/example/{feature,example}.proto of TensorFlow; each message's fields are numbered
# from 1. A map is on the wire what a repeated entry of key and value is (protobuf.dev, "Maps").
_MESSAGES: Mapping[str, Mapping[str, str]] = {
    "BytesList": {"value": "repeated bytes"},
    "FloatList": {"value": "repeated float"},
    "Int64List": {"value": "repeated int64"},
    "Feature": {"bytes_list": "BytesList", "float_list": "FloatList", "int64_list": "Int64List"},
    "FeatureEntry": {"key": "string", "value": "Feature"},
    "Features": {"feature": "repeated FeatureEntry"},
    "FeatureList": {"feature": "repeated Feature"},
    "FeatureListEntry": {"key": "string", "value": "FeatureList"},
    "FeatureLists": {"feature_list": "repeated FeatureListEntry"},
    "SequenceExample": {"context": "Features", "feature_lists": "FeatureLists"},
}


@dataclass(frozen=True)
class Damage:
    """A damaged record: what is wrong with it, and how many bytes from its offset on are lost."""

    reason: str
    lost_bytes: int


@dataclass(frozen=True)
class Example:
    """The features of one record, by name.

    `features` are those of an Example, or of a SequenceExample's context; () where a feature holds
    nothing. `lists` are the feature lists of a SequenceExample, one entry a step.
    """

    features: Mapping[str, Values]
    lists: Mapping[str, Sequence[Values]]


def masked_crc32c(data: bytes) -> int:
    """Return the checksum of TFRecord files: the CRC-32C, rotated by 15 bits, plus a constant."""
    try:
        import google_crc32c
    except ImportError as error:
        raise ResourceError(
            "record files need the package google-crc32c; install it: pip install 'raymc[formats]'"
        ) from error
    checksum = google_crc32c.value(data)
    return ((checksum >> 15 | checksum << 17) + _MASK_DELTA) & 0xFFFFFFFF


def read_record(read: Callable[[int], bytes], left: int) -> bytes | Damage:
    """Read the payload of the next record, if its checksum is right.

    `read` returns that many next bytes of the file, fewer only at its end. Never more than `left`
    bytes, those to the end of the file, are read: a damaged length may be huge.
    """
    header = read(min(_HEADER.size, left))
    if len(header) < _HEADER.size:
        return Damage("the file ends inside of its length", left)
    length, checksum = _HEADER.unpack(header)
    if masked_crc32c(header[:8]) != checksum:
        return Damage(
            "the checksum of its length is wrong, so nothing from here on can be read", left
        )
    if length > left - FRAME_BYTES:
        return Damage(f"the file ends inside of its {length} bytes", left)
    payload, footer = read(length), read(4)
    if len(footer) < 4:
        return Damage("the file became shorter while it was read", left)
    if masked_crc32c(payload) != int.from_bytes(footer, "little"):
        return Damage("its checksum is wrong", length + FRAME_BYTES)
    return payload


def scan_records(read: Callable[[int], bytes], size: int) -> Iterator[tuple[int, bytes | Damage]]:
    """Yield every record of a file of `size` bytes with its offset; `read` as in `read_record`.

    After a damaged payload the next record follows; after a damaged length none can be found.
    """
    offset = 0
    while offset < size:
        record = read_record(read, size - offset)
        yield offset, record
        offset += record.lost_bytes if isinstance(record, Damage) else len(record) + FRAME_BYTES


class RecordReader:
    """Reads single records by file and offset; nearby records share a read of the file.

    `window_bytes` are read, and held, at once; more if a record is longer.
    """

    def __init__(self, filesystem: fs.FileSystem, *, window_bytes: int = 8 << 20) -> None:
        self._filesystem = filesystem
        self._window_bytes = window_bytes
        self._path, self._size, self._start, self._window = "", 0, 0, b""

    def read(self, path: str, offset: int) -> bytes | Damage:
        """Return the payload of the record that begins at `offset`."""
        if path != self._path:
            self._fetch(path, offset, _HEADER.size)
        position = offset

        def read(count: int) -> bytes:
            nonlocal position
            begin = position - self._start
            if begin < 0 or begin + count > len(self._window):
                self._fetch(path, position, count)
                begin = 0
            position += count
            return self._window[begin : begin + count]

        return read_record(read, max(self._size - offset, 0))

    def _fetch(self, path: str, offset: int, count: int) -> None:
        with storage.reaching(path), self._filesystem.open_input_file(path) as file:
            self._path, self._size, self._start = path, file.size(), offset
            file.seek(min(offset, self._size))
            self._window = file.read(max(count, self._window_bytes))


def parse_example(payload: bytes) -> Example:
    """Parse a tf.train.SequenceExample, or an Example: on the wire that is one without lists."""
    from google.protobuf.message import DecodeError

    try:
        message = _sequence_example().FromString(payload)
    except DecodeError as error:
        raise DataError("it is not a tf.train.Example or SequenceExample") from error
    return Example(
        features={entry.key: _values(entry.value) for entry in message.context.feature},
        lists={
            entry.key: [_values(step) for step in entry.value.feature]
            for entry in message.feature_lists.feature_list
        },
    )


def _values(feature: Any) -> Values:
    if feature.HasField("float_list"):
        return np.array(feature.float_list.value, np.float32)
    if feature.HasField("int64_list"):
        return np.array(feature.int64_list.value, np.int64)
    return tuple(feature.bytes_list.value)


@cache
def _sequence_example() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="example", package="raymc", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            kind, repeated = kind.removeprefix("repeated "), kind.startswith("repeated ")
            described = message.field.add(name=field, number=number)
            described.label = described.LABEL_REPEATED if repeated else described.LABEL_OPTIONAL
            if kind in _MESSAGES:
                described.type_name = f".raymc.{kind}"
            else:
                described.type = described.Type.Value(f"TYPE_{kind.upper()}")
    # not the default pool, in which TensorFlow may have registered these messages
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("raymc.SequenceExample"))
