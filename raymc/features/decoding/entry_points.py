"""Packets at which decoding can begin, as the stream itself has it: a container's flags may lie.

No picture that is shown after such a packet's own refers to one before it.
"""

from collections.abc import Iterator

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

_START_CODE = b"\0\0\1"
_SEQUENCE, _PICTURE = b"\0\0\1\xb3", b"\0\0\1\0"  # of MPEG-1 and -2
_INTRA = 1  # the type of an MPEG-1 or -2 picture
_H264_SLICES, _H264_ENTRIES, _H264_PARAMETERS = {1, 2, 5}, {5}, {7, 8, 13, 15}
_HEVC_LEADING = {8, 9}  # refer to pictures before the key frame, and none after it to them
_HEVC_SLICES, _HEVC_ENTRIES, _HEVC_PARAMETERS = set(range(32)), set(range(16, 22)), {32, 33, 34}
# Their key frames forget all that was before; whether it is one, the decoded frame says.
_BY_FLAG = {"vp8", "vp9", "av1"}


class EntryPoints:
    """Finds them in the packets of one stream; there are none in codecs that it doesn't know."""

    def __init__(self, codec: VideoCodecContext) -> None:
        self._name = codec.codec.canonical_name
        head = bytes(codec.extradata or b"")
        is_framed = bool(head) and not head.startswith((_START_CODE, b"\0" + _START_CODE))
        at = {"h264": 4, "hevc": 21}.get(self._name, len(head))
        self._length_bytes = (head[at] & 3) + 1 if is_framed and len(head) > at else 0
        self.has_any = self._name in {*_BY_FLAG, "h264", "hevc", "mpeg1video", "mpeg2video"}
        # Only their decoders can leave out pictures that nothing refers to: in HEVC, what counts
        # as such may still be referred to by pictures of a higher layer.
        self.has_unreferenced = self._name in {"h264", "mpeg1video", "mpeg2video"}

    def begins_at(self, packet: Packet) -> bool:
        """Whether decoding can begin at a packet."""
        if not packet.is_keyframe or not self.has_any:
            return False
        if self._name in _BY_FLAG:
            return True
        data = bytes(packet)
        if self._name in ("h264", "hevc"):
            slices, entries = (
                (_H264_SLICES, _H264_ENTRIES)
                if self._name == "h264"
                else (_HEVC_SLICES, _HEVC_ENTRIES)
            )
            kinds = (kind for kind, _ in self._units(data) if kind in slices)
            return next(kinds, None) in entries
        at = data.find(_PICTURE)
        is_intra = 0 <= at < len(data) - 5 and data[at + 5] >> 3 & 7 == _INTRA
        return data.startswith(_SEQUENCE) and is_intra

    def is_leading(self, packet: Packet) -> bool:
        """Whether a packet of HEVC can't be decoded where decoding begins at its key frame."""
        if self._name != "hevc":
            return False
        return {kind for kind, _ in self._units(bytes(packet))} & _HEVC_SLICES <= _HEVC_LEADING

    def parameters(self, packet: Packet) -> set[bytes]:
        """The parameters in a packet that hold for later ones until they are given anew."""
        if self._name not in ("h264", "hevc"):
            return set()
        kinds = _H264_PARAMETERS if self._name == "h264" else _HEVC_PARAMETERS
        return {unit for kind, unit in self._units(bytes(packet)) if kind in kinds}

    def _units(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        for unit in self._framed(data) if self._length_bytes else data.split(_START_CODE)[1:]:
            if unit:
                kind = unit[0] & 31 if self._name == "h264" else unit[0] >> 1 & 63
                yield kind, unit.rstrip(b"\0")

    def _framed(self, data: bytes) -> Iterator[bytes]:
        at = 0
        while at + self._length_bytes < len(data):
            size = int.from_bytes(data[at : at + self._length_bytes], "big")
            at += self._length_bytes
            yield data[at : at + size]
            at += size
