"""Packets of a video stream to frames, decoding as few as it can.

Packets are planned group by group (from a key frame to the next). A group without a wanted frame
isn't decoded; others are decoded up to their last wanted frame, and of the frames before it only
those that others refer to. The result is the same as if all were decoded.
"""

from bisect import bisect_right
from heapq import heappop, heappush

from av.packet import Packet
from av.video.frame import PictureType
from av.video.stream import VideoStream

from raymc.features.decoding.faults import FAULTS, ErrorLog, reason
from raymc.features.decoding.packet_times import Clock
from raymc.features.decoding.shown import LONGEST_FRAME_SECONDS, NEVER, Display, PictureMaker

GROUP_PACKETS = 256  # held back at most; a longer group is decoded in parts, none skipped
_ERRORS_IN_A_ROW = 100  # after which the stream is given up


class VideoFrames:
    """Decodes one stream.

    Args:
        stream: Its decoder must be fresh or flushed.
        clock: Its clock.
        maker: Makes the pictures.
        at_key: Whether to wait for a key frame, because packets don't begin at the file's start.

    Attributes:
        display: Where to ask for pictures and to get them.
    """

    def __init__(
        self, stream: VideoStream, clock: Clock, maker: PictureMaker, *, at_key: bool
    ) -> None:
        self._codec = stream.codec_context
        self._clock = clock
        self._step = max(clock.ticks(float(1 / (stream.average_rate or 25))), 1)
        self._longest = clock.ticks(LONGEST_FRAME_SECONDS)
        self.display = Display(clock, maker, step=self._step, in_middle=at_key)
        try:
            self._codec.open(strict=False)  # before `skip_frame` is set, which AV1 reads only here
        except FAULTS as error:
            self.display.distrust(0, reason(error))
        self._at_key = at_key
        self._group: list[Packet] = []
        self._end_tick = 0
        self._log = ErrorLog()
        self._errors = 0
        self._is_fed = False  # the decoder has got packets and wasn't flushed since
        self._since_key: list[Packet] = []  # fed since the last key frame, if they are few
        self._again: list[Packet] = []  # to be fed once more, because the decoder was emptied
        self._shown_to: int | None = None  # their frames were shown up to here
        self._order: list[int] = []  # times of decoding of packets without a time of display
        # What H.264 files call a key frame may only be the first frame of a slow refresh.
        self._may_skip = self._codec.name != "h264"
        self._second_key: int | None = None

    @property
    def end_seconds(self) -> float:
        """Where the last packet so far ends; 0 before the first."""
        return max(self._clock.seconds(self._end_tick), 0.0)

    def feed(self, packet: Packet) -> None:
        """Take the next packet of the stream."""
        if packet.is_keyframe:
            if self._group:
                self._second_key = self._second_key or packet.pts
                self._decode_group(packet.pts)
            self._at_key = False
        elif self._at_key:
            return
        tick = packet.pts if packet.pts is not None else packet.dts
        length = min(packet.duration or self._step, self._longest)
        self._end_tick = max((self._end_tick if tick is None else tick) + length, self._end_tick)
        self._group.append(packet)
        if len(self._group) == GROUP_PACKETS:
            self.decode_all()

    def decode_all(self) -> None:
        """Decode what is held back."""
        group, self._group = self._group, []
        if group:
            self._decode(group)

    def show_all(self, seconds: float) -> None:
        """Show what there is before a time, because no later frame has come for long."""
        self.decode_all()
        again = self._since_key
        self._drain()
        self._again, self._shown_to = again, self.display.last_tick
        self.display.give_up(self._clock.tick(seconds) + 1)

    def finish(self) -> None:
        """Decode and show the rest: there are no more packets."""
        if self._group:
            self._decode_group(NEVER)
        self._drain()
        self.display.finish()

    def disturb(self, trouble: str) -> None:
        """Frames from here to the next key frame can't be trusted."""
        ticks = [packet.pts for packet in self._group if packet.pts is not None]
        self.display.distrust(max([*ticks, self.display.last_tick]), trouble)

    def _decode_group(self, next_tick: int | None) -> None:
        """Decode what is wanted of the group that ends before the key frame at `next_tick`."""
        group, self._group = self._group, []
        ticks = [packet.pts for packet in group if packet.pts is not None]
        if next_tick is None or len(ticks) < len(group):
            self._decode(group)
            return
        owners = self._owners(ticks, max(packet.duration or 0 for packet in group), next_tick)
        if owners is None or (not self._may_skip and next_tick != NEVER):
            self._decode(group, owners)
            return
        count = max((i + 1 for i, tick in enumerate(ticks) if tick in owners), default=0)
        if count:
            self._decode(group[:count], owners)
        if count < len(group):
            self._drain()
            self.display.settle(next_tick)

    def _owners(self, ticks: list[int], duration: int, next_tick: int) -> set[int] | None:
        """The frames of a group that are displayed at wanted moments; None: all may be needed.

        Frames of the next group may be displayed before its key frame and refer to this one;
        they would lie between the end of this group and that key frame.
        """
        first = -NEVER if self._is_fed else ticks[0]
        ordered = sorted(tick for tick in ticks if tick >= first)
        owners = set()
        for wanted in self.display.wanted:
            if wanted >= next_tick:
                break
            if wanted >= ordered[-1] + duration and next_tick != NEVER:
                return None
            at = bisect_right(ordered, wanted)
            if at or not self._is_fed:
                owners.add(ordered[max(at - 1, 0)])
        return owners

    def _decode(self, packets: list[Packet], owners: set[int] | None = None) -> None:
        if self._again and not packets[0].is_keyframe:
            packets, owners = [*self._again, *packets], None
        self._again = []
        key = packets[0].pts if packets[0].is_keyframe and not self._is_fed else None
        for packet in packets:
            if key is not None and packet.pts is not None and packet.pts < key:
                continue  # refers to frames before the key frame, which weren't decoded
            is_wanted = owners is None or packet.pts in owners
            self._codec.skip_frame = "DEFAULT" if is_wanted else "NONREF"
            self._send(packet)
        self._is_fed = True

    def _drain(self) -> None:
        if self._is_fed:
            self._send(None)
            self._codec.flush_buffers()
            self._order.clear()
            self._since_key = []
            self._is_fed = False

    def _send(self, packet: Packet | None) -> None:
        if self._errors >= _ERRORS_IN_A_ROW:
            return
        tick = self.display.last_tick if packet is None or packet.pts is None else packet.pts
        if packet is not None:
            self._remember(packet)
        self._log.start()
        try:
            frames = self._codec.decode(packet)
            self._errors = 0 if frames else self._errors
        except FAULTS as error:
            frames = []
            self._errors += 1
            self.display.distrust(tick, reason(error))
        if trouble := self._log.last():
            self.display.distrust(tick, trouble)
        for frame in frames:
            if frame.pts is not None and frame.pts == self._second_key:
                self._may_skip = frame.pict_type == PictureType.I
            in_order = heappop(self._order) if frame.pts is None and self._order else None
            tick = in_order if frame.pts is None else frame.pts
            if self._shown_to is None or tick is None or tick > self._shown_to:
                self.display.add(frame, tick)

    def _remember(self, packet: Packet) -> None:
        if packet.pts is None and packet.dts is not None:
            heappush(self._order, packet.dts)
        if packet.is_keyframe:
            self._since_key = []
        if packet.is_keyframe or 0 < len(self._since_key) < GROUP_PACKETS:
            self._since_key.append(packet)
