"""One media file opened: its streams, its clock, and its packets with times that can be trusted.

What FFmpeg may open is limited here: formats, addresses, sizes, waiting times.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from typing import Any, Literal

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.stream import VideoStream
from pyarrow import fs

from raymc.data.storage import open_address
from raymc.errors import DataError
from raymc.features.decoding.faults import FAULTS, ErrorLog, reason
from raymc.features.decoding.timeline import LONGEST_STILL_SECONDS, Clock, Timeline

MAX_PIXELS = 8192 * 4352  # of a coded picture: 8K and its padding
_TIMEOUT_SECONDS = 60.0  # to open a remote file, and for each read of it
_REMOTE_READ_BYTES = 1 << 20
_FIRST_PACKETS = 2000  # looked at for each stream's first after a seek
_BACK_SECONDS = (0.0, 10.0)  # tried in turn when a seek lands too late
# Only containers of sound and moving pictures: FFmpeg would also play text files as pictures,
# and follow the addresses in playlists.
_FORMATS = (
    "mov,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,ogg,asf,mxf,nut,wtv,rm,dv,gif,ivf,h264,hevc,"
    "m4v,wav,w64,mp3,aac,flac,aiff,au,ac3,eac3,amr,dts,wv,tta,ape"
)
_LIMITS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
# Others seek by guess, or count time from where reading begins, or don't say how long they are.
_SEEKING_FORMATS = {"mov", "matroska", "wav"}
_MEASURED_FORMATS = _SEEKING_FORMATS | {"avi"}
_UNORDERED_FORMATS = {"avi", "asf", "mxf"}
_GUESSED_FORMATS = {"mpeg", "mpegts"}
_CUT = "a packet is cut or damaged"
# In Ogg each of several joined recordings has headers, which FFmpeg hands on as if pictures.
_OGG_HEADERS = (b"OVP80", b"\x80theora", b"\x81theora", b"\x82theora")
_KINDS: tuple[Literal["video", "audio"], ...] = ("video", "audio")
_Streams = Sequence[VideoStream | AudioStream]


class MediaFile:
    """An open file, to be read once from the start, or from several times on.

    Attributes:
        video: Its best video stream that isn't a cover picture, if it has one.
        audio: Its best audio stream, if it has one.
        seeks: Whether reading may begin in the middle.
        is_ordered: Whether the format gives each packet of video the time of its own frame.
        is_fragmented: Whether it is an MP4 or MOV file in fragments.
        opening_trouble: What FFmpeg found damaged while it opened the file, or nothing.
        troubles: How often the file itself (not a stream's data) was found damaged so far.
        trouble: What it was the last time.
        begins_anew: Whether the last packet is the first of its stream in another recording, of
            which several can be joined in a file.
    """

    def __init__(
        self,
        container: InputContainer,
        opening_trouble: str,
        *,
        path: str,
        origin_seconds: float,
        on_packet: Callable[[], None],
    ) -> None:
        self._container = container
        self._path = path
        self._on_packet = on_packet
        self._origin = origin_seconds
        self.opening_trouble = opening_trouble
        streams = container.streams
        best = {stream.index for kind in _KINDS if (stream := streams.best(kind)) is not None}
        videos = [s for s in streams.video if _is_decodable(s) and not is_cover(s)]
        audios = [s for s in streams.audio if _is_decodable(s)]
        self.video = max(videos, key=lambda stream: stream.index in best, default=None)
        self.audio = max(audios, key=lambda stream: stream.index in best, default=None)
        formats = set(container.format.name.split(","))
        # Others number packets, or time them, in the order of decoding.
        self._is_numbered = "avi" in formats
        self._is_ogg = "ogg" in formats
        self.is_ordered = not formats & _UNORDERED_FORMATS
        self._is_late = "matroska" in formats and origin_seconds > 0
        self._is_measured = bool(_MEASURED_FORMATS & formats) and not self._is_late
        self._is_guessed = bool(_GUESSED_FORMATS & formats) or self._is_late
        self._can_be_joined = bool(container.format.flags & Flags.ts_discont.value)
        is_mov, both = "mov" in formats, (*videos, *audios)
        self.is_fragmented = is_mov and not all(stream.frames for stream in both)
        # The index of a fragmented file is only known when all of it is read.
        self.seeks = bool(_SEEKING_FORMATS & formats) and not self.is_fragmented
        # What a parser complains of, the decoder of its stream does, too.
        codecs = {stream.codec_context.name for stream in both}
        self._parsers = codecs - {container.format.name}
        self.troubles = 0
        self.trouble = ""
        self.begins_anew = False

    def clock(self, stream: VideoStream | AudioStream) -> Clock:
        """The clock of a stream."""
        return Clock(float(stream.time_base or 0) or 1 / av.time_base, self._origin)

    def duration(self, streams: _Streams) -> float | None:
        """Seconds from the start of the file to the end of its streams, if the header knows."""
        return self._duration(streams) if self._is_measured else None

    def guessed_duration(self, streams: _Streams) -> float | None:
        """The same where it is a guess, made from the last times in the file."""
        return self._duration(streams) if self._is_guessed else None

    def _duration(self, streams: _Streams) -> float | None:
        ends = [self._end_of(stream) for stream in streams]
        known = [end for end in ends if end is not None]
        if known and len(known) == len(ends):
            return max(known)
        duration = self._container.duration
        # Some programs count that of Matroska from the start, others from 0.
        before = self._origin if self._is_late else 0.0
        return None if duration is None else max(duration / av.time_base - before, 0.0)

    def packets(self, streams: _Streams) -> Iterator[Packet]:
        """Yield the packets of streams from the start of a file that was just opened.

        Damage is counted in `troubles`; where reading on is impossible, the packets end.
        """
        self._choose(streams)
        packets = self._demux(streams)
        yield from self._in_line(packets, streams) if self._can_be_joined else packets

    def packets_from(self, streams: _Streams, seconds: float) -> Iterator[Packet] | None:
        """The same from before a time on; None where the index doesn't lead there.

        Twelve short rows of an hour of H.264 take 1.0 s so, and 5.5 s when each is read from the
        start.
        """
        self._choose(streams)
        for back in _BACK_SECONDS:
            if seconds <= back:
                break
            try:
                self._container.seek(int((seconds - back + self._origin) * av.time_base))
            except FAULTS:
                continue
            packets = self._demux(streams)
            first = self._first_packets(packets, streams, seconds)
            if first is not None:
                return chain(first, packets)
        return None

    def has_others(self, streams: _Streams, start: float, end: float) -> bool:
        """Whether the file's sound, if it isn't among streams, goes on from one time to another."""
        if self.audio is None or self.audio in streams:
            return False
        clock = self.clock(self.audio)
        try:
            with open_container(self._path) as container:
                for packet in container.demux(container.streams[self.audio.index]):
                    if packet.pts is None:
                        continue
                    time = clock.seconds(packet.pts)
                    if start + LONGEST_STILL_SECONDS < time:
                        return False
                    start = max(start, time)
                    if start + LONGEST_STILL_SECONDS >= end:
                        return True
        except (*FAULTS, DataError):
            pass
        return False

    def _choose(self, streams: _Streams) -> None:
        chosen = {stream.index for stream in streams}
        for stream in self._container.streams:
            stream.discard = Discard.default if stream.index in chosen else Discard.all

    def _first_packets(
        self, packets: Iterator[Packet], streams: _Streams, seconds: float
    ) -> list[Packet] | None:
        """Read until every stream has come; None if one comes only after a time."""
        late = {
            stream.index: self.clock(stream).tick(seconds)
            for stream in streams
            if stream is self.video or (self._end_of(stream) or seconds) >= seconds
        }
        read = []
        for packet in islice(packets, _FIRST_PACKETS):
            read.append(packet)
            if packet.pts is not None:
                if packet.pts > late.get(packet.stream_index, packet.pts):
                    return None
                late.pop(packet.stream_index, None)
            if not late:
                return read
        return None

    def _demux(self, streams: _Streams) -> Iterator[Packet]:
        log = ErrorLog()
        packets = self._container.demux(*streams)
        while True:
            log.start()
            self._on_packet()
            try:
                packet = next(packets, None)
            except FAULTS as error:
                self._note(f"reading stops: {reason(error)}")
                return
            if trouble := log.last(but=self._parsers):
                self._note(trouble)
            if packet is None or (packet.size == 0 and packet.dts is None):
                return  # av ends with an empty packet for each stream
            if self._is_ogg and bytes(memoryview(packet)[:7]).startswith(_OGG_HEADERS):
                continue
            if packet.is_corrupt and not self._can_be_joined:
                self._note(_CUT)
            if self._is_numbered and self.video and packet.stream_index == self.video.index:
                packet.pts = packet.dts  # FFmpeg makes something else of it
            if packet.size:  # another empty one would tell the decoder that the stream has ended
                yield packet

    def _in_line(self, packets: Iterator[Packet], streams: _Streams) -> Iterator[Packet]:
        """Yield packets of joined recordings with their times in the whole file.

        Where a recording ends, one of its last two packets seems damaged to FFmpeg, as the count of
        the parts of the next one doesn't go on from them; so these wait for the next one.
        """
        clocks = {stream.index: self.clock(stream) for stream in streams}
        is_flac = self.audio is not None and self.audio.codec_context.name == "flac"
        timeline = Timeline(clocks, is_from_zero=self._is_ogg and is_flac)
        waiting: dict[int, list[Packet]] = {stream.index: [] for stream in streams}
        for packet in packets:
            if trouble := timeline.place(packet):
                self._note(trouble)
            last = waiting[packet.stream_index]
            if timeline.begins_anew or len(last) == 2:
                yield from self._ended(last, is_whole=timeline.begins_anew)
                last.clear()
            if last or packet.is_corrupt:
                last.append(packet)
                continue
            self.begins_anew = timeline.begins_anew
            yield packet
        for last in waiting.values():
            yield from self._ended(last, is_whole=False)

    def _ended(self, packets: Sequence[Packet], *, is_whole: bool) -> Iterator[Packet]:
        self.begins_anew = False
        if packets and not is_whole:
            self._note(_CUT)
        for packet in packets:
            packet.is_corrupt = packet.is_corrupt and not is_whole
            yield packet

    def _end_of(self, stream: VideoStream | AudioStream) -> float | None:
        if stream.duration is None or stream.time_base is None:
            return None
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - self._origin

    def _note(self, trouble: str) -> None:
        self.troubles += 1
        self.trouble = trouble


@contextmanager
def open_media(path: str, on_packet: Callable[[], None] = lambda: None) -> Iterator[MediaFile]:
    """Open a file for reading, with one thread.

    Args:
        path: A local path, opened by FFmpeg itself, or an address, read through pyarrow.
        on_packet: Called before each packet is read.

    Raises:
        DataError: The address can't be reached, or it isn't an audio or video file.
        FFmpegError: FFmpeg can't read it.
        OSError: It is missing, or isn't a file.
    """
    log = ErrorLog()
    with open_container(path) as container:
        trouble = log.last(container.format.name)
        start = (container.start_time or 0) / av.time_base
        if start < 0:
            with open_container(path) as other:
                start = _first_seconds(other)
        yield MediaFile(container, trouble, path=path, origin_seconds=start, on_packet=on_packet)


@contextmanager
def open_container(path: str) -> Iterator[InputContainer]:
    """Open a file as FFmpeg's own container; errors are those of `open_media`."""
    filesystem, inner = open_address(path)
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
        yield stack.enter_context(container)


def _first_seconds(container: InputContainer) -> float:
    """When the earliest stream begins: its header may count sound that decoders leave out."""
    streams = [*container.streams.video, *container.streams.audio]
    waiting = {stream.index for stream in streams if _is_decodable(stream) and not is_cover(stream)}
    first: list[float] = []
    packets = islice(container.demux(streams), _FIRST_PACKETS)
    while waiting:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            frames: list[Any] = packet.decode() if packet.stream_index in waiting else []
            times = [frame.time for frame in frames]
        except FAULTS:
            continue
        if known := [time for time in times if time is not None]:
            first.append(min(known))
            waiting.discard(packet.stream_index)
    return min(first, default=0.0)


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


def is_cover(stream: VideoStream | AudioStream) -> bool:
    """Tell whether a stream is a picture that a file of sound attaches."""
    return bool(stream.disposition & Disposition.attached_pic)


def _is_decodable(stream: VideoStream | AudioStream) -> bool:
    context = stream.codec_context
    if context is None:
        return False
    context.thread_count = 1
    context.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "crccheck"}
    return True
