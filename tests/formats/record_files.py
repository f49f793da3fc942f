"""Makes record files byte by byte, by the formats' descriptions and none of raymc's code.

Wire format: protobuf.dev/programming-guides/encoding. CRC-32C: RFC 3720, appendix B.4.
"""

import struct
from collections.abc import Mapping, Sequence


def _divided(remainder: int) -> int:
    """The remainder after the eight bits of a byte."""
    for _ in range(8):
        remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
    return remainder


_OF_BYTE = [_divided(byte) for byte in range(256)]


def crc32c(data: bytes) -> int:
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder = remainder >> 8 ^ _OF_BYTE[(remainder ^ byte) & 0xFF]
    return remainder ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    checksum = crc32c(data)
    rotated = (checksum >> 15) | (checksum << 17) % 2**32
    return struct.pack("<I", (rotated + 0xA282EAD8) % 2**32)


def framed(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return length + masked(length) + payload + masked(payload)


def varint(number: int) -> bytes:
    number %= 2**64  # negative numbers in two's complement
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def delimited(number: int, data: bytes) -> bytes:
    """A field whose value has a length: bytes, text, a message, packed numbers."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def bytes_feature(*values: bytes) -> bytes:
    return delimited(1, b"".join(delimited(1, value) for value in values))


def floats_feature(*values: float) -> bytes:
    return delimited(2, delimited(1, struct.pack(f"<{len(values)}f", *values)))


def ints_feature(*values: int) -> bytes:
    return delimited(3, delimited(1, b"".join(map(varint, values))))


def named(entries: Mapping[str, bytes]) -> bytes:
    """A map from names to messages."""
    return b"".join(
        delimited(1, delimited(1, name.encode()) + delimited(2, message))
        for name, message in entries.items()
    )


def example(features: Mapping[str, bytes]) -> bytes:
    return delimited(1, named(features))


def sequence_example(
    context: Mapping[str, bytes], lists: Mapping[str, Sequence[bytes]] | None = None
) -> bytes:
    steps = {
        name: b"".join(delimited(1, feature) for feature in features)
        for name, features in (lists or {}).items()
    }
    return delimited(1, named(context)) + delimited(2, named(steps))
