"""Packets of a video stream to frames, whose own times say when they are shown.

Decoding all is what is right. Less is decoded where the stream proves that it makes no difference:
up to the last wanted picture before a packet at which decoding can begin (`entry_points.py`), and
without the pictures that nothing refers to. What comes out is compared with what was expected;
where it differs, `UnprovenError` is raised, and the reader decodes all, from the start of the file.
At a picture a second, the first brings GRID's MPEG-1 from 0.9 to 1.6 times the speed of plain
decoding, the second H.264 with a key frame in 250 pictures from 0.9 to 1.5.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from heapq import heappop, heappush

from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from raymc.features.decoding.entry_points import EntryPoints
from raymc.features.decoding.faults import FAULTS, ErrorLog, reason
from raymc.features.decoding.shown import (
    LONGEST_FRAME_SECONDS,
    NEVER,
    Display,
    PictureMaker,
    UnprovenError,
)
from raymc.features.decoding.timeline import JUMP_SECONDS, LONGEST_STILL_SECONDS, Clock

GROUP_PACKETS = 256  # held back at most, until the next entry point shows which are needed
_KEPT_TIMES = 4096
_ERRORS_IN_A_ROW = 100  # after which the stream is given up


class VideoFrames:
    """Decodes one stream.

    Args:
        stream: Its decoder must be fresh or flushed.
        clock: Its clock.
        makers: Each makes a picture of every frame that is wanted.
        is_ordered: Whether each packet has the time of its own frame; else, of one of them.
        may_skip: Whether to decode less where that is proven to give the same.
        from_seconds: About where packets begin; 0: with the file.

    Attributes:
        display: Where to ask for pictures and to get them.
    """

    def __init__(
        self,
        stream: VideoStream,
        clock: Clock,
        makers: Sequence[PictureMaker],
        *,
        is_ordered: bool,
        may_skip: bool,
        from_seconds: float,
    ) -> None:
        self._codec = stream.codec_context
        self._clock = clock
        self._step = max(clock.ticks(float(1 / (stream.average_rate or 25))), 1)
        self._longest = clock.ticks(LONGEST_FRAME_SECONDS)
        self.display = Display(
            clock,
            makers,
            step=self._step,
            from_tick=clock.ticks(from_seconds + clock.origin_seconds),
            start_tick=stream.start_time or clock.ticks(clock.origin_seconds),
        )
        try:
            self._codec.open(strict=False)  # before `skip_frame` is set, which AV1 reads only here
        except FAULTS as error:
            self.display.distrust(0, reason(error))
        self._entries = EntryPoints(self._codec)
        self._times: list[int] = []  # of the packets, as far as they are needed, in order
        self._may_skip = may_skip and is_ordered and self._entries.has_any
        self.display.expected = self._times if self._may_skip else None
        self._unordered: list[int] | None = None if is_ordered else []
        self._group: list[Packet] = []  # held back
        self._entry: int | None = None  # the time of the frame that must come next
        self._first_tick = -NEVER  # frames before it refer to others that weren't decoded
        self._has_skipped = from_seconds > 0
        self._leaves_out = False  # pictures that nothing refers to
        self._is_fed = False  # the decoder has got packets and wasn't flushed since
        self._is_waiting = from_seconds > 0  # for an entry point
        self._first_end_tick = clock.tick(from_seconds)
        self._end_tick = -NEVER
        self._far: tuple[int, int] | None = None  # begin and end of a packet that waits for another
        self._leap: tuple[int, int] | None = None  # the end before the last step, and its time
        self._jump = clock.ticks(JUMP_SECONDS)
        self._is_untimed = False  # the last packet
        self._log = ErrorLog()
        self._errors = 0

    @property
    def end_seconds(self) -> float:
        """Where the last packet so far ends, or its frame if it has no time; 0 before the first."""
        frame = self.display.end_seconds if self._is_untimed else 0.0
        return max(self._clock.seconds(self._end_tick), frame, 0.0)

    def feed(self, packet: Packet) -> None:
        """Take the next packet of the stream.

        Raises:
            UnprovenError: All must be decoded.
        """
        tick = packet.pts if packet.pts is not None else packet.dts
        self._is_untimed = tick is None  # it may be half a frame
        if tick is not None and not packet.is_discard:
            self._extend(tick, tick + min(packet.duration or self._step, self._longest))
        if not self._may_skip:
            if self._is_waiting:
                raise UnprovenError
            self._send(packet)
            return
        if packet.pts is None or not self._is_regular(packet, packet.pts):
            self._skip_no_more()
            self._send(packet)
            return
        insort(self._times, packet.pts)
        if self._entries.begins_at(packet):
            self._end_group(packet)
        elif self._is_waiting:
            raise UnprovenError
        self._group.append(packet)
        if len(self._group) == GROUP_PACKETS:
            self.decode_all()

    def decode_all(self) -> None:
        """Decode what is held back."""
        group, self._group = self._group, []
        self._decode(group)

    def show_all(self, seconds: float) -> None:
        """Show what there is before a time, because no later frame has come for long."""
        self.decode_all()
        self._drain()
        self.display.give_up(self._clock.tick(seconds) + 1)

    def finish(self, end_seconds: float) -> None:
        """Decode and show the rest: there are no more packets, and the file ends at a time."""
        self.decode_all()
        self._drain()
        self.display.finish(self._clock.tick(end_seconds))

    def close(self) -> None:
        """Take the time of the last packet for right, unless it is too late: no more come."""
        known = max(self._end_tick, self._first_end_tick)
        if self._far is not None:
            if self._far[0] <= known + self._clock.ticks(LONGEST_STILL_SECONDS):
                self._end_tick = max(self._end_tick, self._far[1])
            self._far = None

    def _extend(self, tick: int, end: int) -> None:
        """The stream lasts until `end`; where it makes a long step, if the next packet agrees."""
        if self._far is not None and tick >= self._far[0] - self._jump:
            self._leap = self._end_tick, self._far[0]
            self._end_tick = max(self._end_tick, self._far[1])
        elif self._leap is not None and self._leap[0] <= tick < self._leap[1] - self._jump:
            self._end_tick, self._leap = self._leap[0], None  # it goes on from before the step
        self._far = None
        if tick > max(self._end_tick, self._first_end_tick) + self._jump:
            self._far = tick, end
        else:
            self._end_tick = max(self._end_tick, end)

    def disturb(self, trouble: str) -> None:
        """Frames from here to the next key frame can't be trusted."""
        ticks = [packet.pts for packet in self._group if packet.pts is not None]
        self.display.distrust(max([*ticks, self.display.last_tick]), trouble)

    def _is_regular(self, packet: Packet, tick: int) -> bool:
        """Whether the frame of a packet can be expected at its time, and no other."""
        at = bisect_left(self._times, tick)
        is_known = self._times[at : at + 1] == [tick]
        return not (is_known or packet.is_discard or packet.is_corrupt)

    def _skip_no_more(self) -> None:
        if self._has_skipped:
            raise UnprovenError
        self._may_skip = self._leaves_out = False
        self.display.expected = None
        self.decode_all()

    def _end_group(self, entry: Packet) -> None:
        """Decode what is needed of the group before an entry point."""
        group, self._group = self._group, []
        self._is_waiting = False
        if not group and not self._is_fed:
            if self._has_skipped:
                self._expect(entry)
            return
        last = max((k + 1 for k, packet in enumerate(group) if self._is_wanted(packet)), default=0)
        rest = group[last:]
        lasting = {unit for packet in rest for unit in self._entries.parameters(packet)}
        if not rest or self._is_open(entry) or lasting - self._entries.parameters(entry):
            self._decode(group)
            self._first_tick = -NEVER
            return
        self._decode(group[:last])
        self._drain()
        self.display.settle(entry.pts or 0)
        self._has_skipped = True
        self._expect(entry)

    def _expect(self, entry: Packet) -> None:
        self._entry = self._first_tick = entry.pts or 0

    def _is_open(self, entry: Packet) -> bool:
        """Whether pictures before an entry point may be wanted that come after it."""
        time = entry.pts or 0
        at = bisect_left(self._times, time)
        before = self._times[at - 1] if at else -NEVER
        return self._is_any_wanted(before, time)

    def _is_wanted(self, packet: Packet) -> bool:
        """Whether a moment is wanted at which a packet's frame is shown, for all that is known."""
        at = bisect_right(self._times, packet.pts or 0)
        begin = -NEVER if at == 1 else packet.pts or 0
        end = self._times[at] if at < len(self._times) else NEVER
        return self._is_any_wanted(begin, end)

    def _is_any_wanted(self, begin: int, end: int) -> bool:
        wanted = self.display.wanted
        at = bisect_left(wanted, begin)
        return at < len(wanted) and wanted[at] < end

    def _decode(self, packets: list[Packet]) -> None:
        for packet in packets:
            if (packet.pts or 0) < self._first_tick:
                continue
            leaves_out = self._leaves_out and not self._is_wanted(packet)
            self._codec.skip_frame = "NONREF" if leaves_out else "DEFAULT"
            self._has_skipped |= leaves_out
            self._send(packet)
        if self._may_skip and packets:
            self._forget_times()

    def _forget_times(self) -> None:
        if len(self._times) > _KEPT_TIMES:
            wanted = self.display.wanted[0] if self.display.wanted else self.display.last_tick
            earliest = min(wanted, self.display.last_tick)
            del self._times[: max(bisect_right(self._times, earliest) - 1, 0)]

    def _drain(self) -> None:
        if self._is_fed:
            self._send(None)
            self._codec.flush_buffers()
            self._is_fed = False

    def _send(self, packet: Packet | None) -> None:
        if self._errors >= _ERRORS_IN_A_ROW:
            return
        self._is_fed = True
        tick = self.display.last_tick
        if packet is not None and packet.pts is not None:
            tick = packet.pts
            if self._unordered is not None:
                heappush(self._unordered, tick)
        self._log.start()
        try:
            frames = self._codec.decode(packet)
            self._errors = 0 if frames else self._errors
            trouble = self._log.last()
        except FAULTS as error:
            frames, trouble = [], reason(error)
            self._errors += 1
        if trouble and not self._is_cut_off(packet):
            if self._entry is not None:
                raise UnprovenError
            self.display.distrust(tick, trouble)
        for frame in frames:
            self._take(frame)

    def _is_cut_off(self, packet: Packet | None) -> bool:
        """Whether an edit leaves out a picture which it has cut off from those it refers to."""
        return packet is not None and packet.is_discard and self._entries.is_leading(packet)

    def _take(self, frame: VideoFrame) -> None:
        if self._entry is not None:
            is_entry = frame.key_frame and frame.pict_type == PictureType.I
            if frame.pts != self._entry or not is_entry or frame.is_corrupt:
                raise UnprovenError
            self._entry = None
        if self._may_skip:
            self._leaves_out = self._entries.has_unreferenced and not frame.interlaced_frame
        tick = frame.pts
        if self._unordered is not None:
            tick = heappop(self._unordered) if self._unordered else None
        self.display.add(frame, tick)
