"""One media file opened: its streams, its clock, and its packets with times that can be trusted.

What FFmpeg may open is limited here: formats, addresses, sizes, waiting times.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from typing import Literal

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.stream import VideoStream
from pyarrow import fs

from raymc.data.storage import open_address
from raymc.errors import DataError
from raymc.features.decoding.faults import FAULTS, ErrorLog, reason
from raymc.features.decoding.packet_times import Clock, PacketTimes

MAX_PIXELS = 8192 * 4352  # of a coded picture: 8K and its padding
_TIMEOUT_SECONDS = 60.0  # to open a remote file, and for each read of it
_REMOTE_READ_BYTES = 1 << 20
_FIRST_PACKETS = 2000  # looked at for the first key frame and sound after a seek
_BEFORE_SECONDS = 10.0  # the start of the file: formats find it by a time that must come before
_BACK_SECONDS = (0.0, 5.0, 30.0)  # tried in turn when a seek lands too late
# Only containers of sound and moving pictures: FFmpeg would also play text files as pictures,
# and follow the addresses in playlists.
_FORMATS = (
    "mov,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,ogg,asf,mxf,nut,wtv,rm,dv,gif,ivf,h264,hevc,"
    "m4v,wav,w64,mp3,aac,flac,aiff,au,ac3,eac3,amr,dts,wv,tta,ape"
)
_LIMITS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
# Others seek by guess, or count time from where reading begins.
_SEEKING_FORMATS = {"mov", "matroska", "mpeg", "mpegts", "avi", "wav"}
_KINDS: tuple[Literal["video", "audio"], ...] = ("video", "audio")
_Streams = Sequence[VideoStream | AudioStream]


class MediaFile:
    """An open file.

    Attributes:
        video: Its best video stream that isn't a cover picture, if it has one.
        audio: Its best audio stream, if it has one.
        seeks: Whether reading may begin in the middle and give the same as from the start.
        opening_trouble: What FFmpeg found damaged while it opened the file, or nothing.
        troubles: How often the file itself (not a stream's data) was found damaged so far.
        trouble: What it was the last time.
    """

    def __init__(self, container: InputContainer, opening_trouble: str) -> None:
        self._container = container
        self.opening_trouble = opening_trouble
        streams = container.streams
        best = {stream.index for kind in _KINDS if (stream := streams.best(kind)) is not None}
        videos = [s for s in streams.video if _is_decodable(s) and not _is_cover(s)]
        audios = [s for s in streams.audio if _is_decodable(s)]
        self.video = max(videos, key=lambda stream: stream.index in best, default=None)
        self.audio = max(audios, key=lambda stream: stream.index in best, default=None)
        self._has_index = bool(_SEEKING_FORMATS & set(container.format.name.split(",")))
        # AVI only numbers its frames; what FFmpeg makes of that isn't the order of display.
        is_unordered = container.format.name == "avi" and self.video and self.video.has_b_frames
        self._unordered = self.video.index if self.video and is_unordered else -1
        self.seeks = self._has_index and not is_unordered
        self.troubles = 0
        self.trouble = ""
        self._origin = max((container.start_time or 0) / av.time_base, 0.0)

    def clock(self, stream: VideoStream | AudioStream) -> Clock:
        """The clock of a stream."""
        return Clock(float(stream.time_base or 0) or 1 / av.time_base, self._origin)

    def duration(self, streams: _Streams) -> float | None:
        """Seconds from the start of the file to the end of its streams, if the header knows."""
        if not self._has_index:  # then it would be a guess from the bit rate
            return None
        ends = [self._end_of(stream) for stream in streams]
        known = [end for end in ends if end is not None]
        if known and len(known) == len(ends):
            return max(known)
        duration = self._container.duration
        return None if duration is None else duration / av.time_base

    def packets(self, streams: _Streams, from_seconds: float) -> Iterator[Packet]:
        """Yield the packets of streams, from a key frame before a time (or the start) on.

        A packet whose time can't be right has none. Damage is counted in `troubles`; where
        reading on is impossible, the packets end.
        """
        chosen = {stream.index for stream in streams}
        for stream in self._container.streams:
            stream.discard = Discard.default if stream.index in chosen else Discard.all
        end = self.duration(streams)
        times = {
            stream.index: PacketTimes(self.clock(stream), from_seconds, end) for stream in streams
        }
        for of_stream in times.values():
            of_stream.others = [other for other in times.values() if other is not of_stream]
        for packet in self._packets_from(streams, from_seconds):
            if packet.stream_index == self._unordered:
                packet.pts = None
            of_stream = times[packet.stream_index]
            settled = of_stream.check(packet)
            if of_stream.trouble:
                self._note(of_stream.trouble)
                of_stream.trouble = ""
            yield from settled
            if of_stream.is_lost:
                return
        for of_stream in times.values():
            rest = of_stream.rest()
            if of_stream.trouble:
                self._note(of_stream.trouble)
            yield from rest

    def _packets_from(self, streams: _Streams, seconds: float) -> Iterator[Packet]:
        if seconds <= 0 or not self.seeks:
            return self._demux(streams)
        for back in _BACK_SECONDS:
            if seconds <= back:
                break
            try:
                packets = self._seek(streams, seconds - back)
            except FAULTS:
                continue
            first = self._first_packets(packets, streams, seconds)
            if first is not None:
                return chain(first, packets)
        try:
            return self._seek(streams, -_BEFORE_SECONDS)
        except FAULTS:
            return self._seek(streams, -self._origin)

    def _first_packets(
        self, packets: Iterator[Packet], streams: _Streams, seconds: float
    ) -> list[Packet] | None:
        """Read until every stream has a key frame; None if one comes only after a time."""
        late = {
            stream.index: self.clock(stream).tick(seconds)
            for stream in streams
            if (self._end_of(stream) or seconds) >= seconds
        }
        read = []
        for packet in islice(packets, _FIRST_PACKETS):
            read.append(packet)
            if packet.is_keyframe and packet.pts is not None:
                if packet.pts > late.get(packet.stream_index, packet.pts):
                    return None
                late.pop(packet.stream_index, None)
            if not late:
                return read
        return None

    def _seek(self, streams: _Streams, seconds: float) -> Iterator[Packet]:
        self._container.seek(int((seconds + self._origin) * av.time_base))
        return self._demux(streams)

    def _demux(self, streams: _Streams) -> Iterator[Packet]:
        log = ErrorLog()
        packets = self._container.demux(*streams)
        while True:
            log.start()
            try:
                packet = next(packets, None)
            except FAULTS as error:
                self._note(f"reading stops: {reason(error)}")
                return
            if trouble := log.last():
                self._note(trouble)
            if packet is None or (packet.size == 0 and packet.dts is None):
                return  # av ends with an empty packet for each stream
            if packet.is_corrupt:
                self._note("a packet is cut or damaged")
            if packet.size:  # another empty one would tell the decoder that the stream has ended
                yield packet

    def _end_of(self, stream: VideoStream | AudioStream) -> float | None:
        if stream.duration is None or stream.time_base is None:
            return None
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - self._origin

    def _note(self, trouble: str) -> None:
        self.troubles += 1
        self.trouble = trouble


@contextmanager
def open_media(path: str) -> Iterator[MediaFile]:
    """Open a file for reading, with one thread.

    Args:
        path: A local path, opened by FFmpeg itself, or an address, read through pyarrow.

    Raises:
        DataError: The address can't be reached, or it isn't an audio or video file.
        FFmpegError: FFmpeg can't read it.
        OSError: It is missing, or isn't a file.
    """
    filesystem, inner = open_address(path)
    log = ErrorLog()
    with ExitStack() as stack:
        try:
            if isinstance(filesystem, fs.LocalFileSystem):
                container = _open_local(inner)
            else:
                container = _open_remote(stack.enter_context(filesystem.open_input_file(inner)))
        except FFmpegError as error:
            if "whitelist" in reason(error):
                raise DataError("it isn't an audio or video file") from error
            raise
        yield MediaFile(stack.enter_context(container), log.last())


def _open_local(path: str) -> InputContainer:
    if not os.path.isfile(path):  # opening a pipe would wait forever
        raise OSError("it is a folder" if os.path.isdir(path) else "no such file")
    return av.open(f"file:{path}", "r", container_options=_LIMITS, metadata_errors="replace")


def _open_remote(file: object) -> InputContainer:
    return av.open(
        file,
        "r",
        container_options=_LIMITS,
        metadata_errors="replace",
        buffer_size=_REMOTE_READ_BYTES,
        timeout=_TIMEOUT_SECONDS,
    )


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _is_decodable(stream: VideoStream | AudioStream) -> bool:
    context = stream.codec_context
    if context is None:
        return False
    context.thread_count = 1
    context.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "crccheck"}
    return True
