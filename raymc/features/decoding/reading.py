"""One pass over the packets of a file: pictures and sound are decoded in step.

It reads until both streams have reached a time, and not much further, even if the file's header
claims more. `Windows` says where the windows of a source lie, and when their pictures are taken.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, floor

from av.packet import Packet

from raymc.errors import DataError
from raymc.features.decoding.media_file import MediaFile
from raymc.features.decoding.shown import STILL_SECONDS
from raymc.features.decoding.sound import Sound
from raymc.features.decoding.timeline import JUMP_SECONDS, LONGEST_STILL_SECONDS, Gap, Gaps
from raymc.features.decoding.video_frames import VideoFrames

_JUST_BEFORE_SECONDS = 1e-4


@dataclass(frozen=True)
class Windows:
    """The windows of a source.

    Attributes:
        start: Where the first begins, in seconds.
        end: Where the source ends; infinite until it is known.
        window: Their length; infinite: there is only one.
        stride: From the start of one to the next.
        fps: Pictures a second.
    """

    start: float
    end: float
    window: float
    stride: float
    fps: float

    @property
    def shortest(self) -> float:
        """Seconds that a further window must have."""
        return min(max(0.1 * self.window, 0.5 / self.fps), self.window)

    def begin_of(self, k: int) -> float:
        """Where window k begins."""
        return self.start + k * self.stride if k else self.start

    def end_of(self, k: int) -> float:
        """Where it ends, for all that is known of the end."""
        return min(self.begin_of(k) + self.window, self.end)

    def exists(self, k: int) -> bool:
        """Whether there is a window k, for all that is known of the end."""
        if k == 0:
            return True
        return self.end_of(k - 1) < self.end and self.begin_of(k) + self.shortest <= self.end

    def middles(self, k: int, low: float = -math.inf, high: float = math.inf) -> Iterator[float]:
        """The moments in [low, high) of whose pictures window k is made.

        They are the middles of [t, t + 1) / fps that lie before the window's end; where none
        does, the end. Either the window or `high` must be finite.
        """
        begin, length = self.begin_of(k), self.end_of(k) - self.begin_of(k)
        if length * self.fps <= 0.5 + 1e-6:
            moments = [begin + length - _JUST_BEFORE_SECONDS]
        else:
            first = max((low - begin) * self.fps - 1, 0)
            past = min(length * self.fps - 0.5 - 1e-6, (high - begin) * self.fps + 1)
            moments = [begin + (t + 0.5) / self.fps for t in range(floor(first), ceil(past))]
        return (moment for moment in moments if low <= moment < high)

    def between(self, low: float, high: float) -> Iterator[float]:
        """The moments in [low, high) of all windows."""
        k = 0
        if self.stride < math.inf:
            k = max(floor((low - self.window - self.start) / self.stride), 0)
        while self.begin_of(k) < min(high, self.end):
            yield from self.middles(k, low, high)
            k += 1

    def after(self, gap: Gap, k: int) -> int:
        """The first window from window k on that ends after a gap, and isn't mostly in it."""
        begin = gap.end - min(self.window, LONGEST_STILL_SECONDS)
        if self.begin_of(k) > begin:
            return k
        if self.stride == math.inf:
            return k + 1
        return max(floor((begin - self.start) / self.stride) + 1, k)


TOO_LONG = "a clip would take more than 2 GiB; set window_seconds"
PACKETS_PER_SECOND = 2000  # of both streams together: several times what any format has
_SPARE_PACKETS = 100_000  # for what is read ahead
_SOUND_LATE_SECONDS = 10.0  # behind the pictures, until it counts as missing
_FAR_PACKETS = 2000  # beyond a gap, until what hasn't come counts as missing
_LATE_PACKETS = 4  # in a row, until what is behind them counts as missing
_REGISTERED_SECONDS = 5.0  # at a time, of the moments to come
_STEP_SECONDS = 30.0  # asked for at a time: a header may claim years


class Reading:
    """A pass over the packets of a file.

    Args:
        file: An open file.
        packets: Those of the streams that are wanted.
        video: Takes the packets of its video stream; None: not wanted or not there.
        sound: The same of its audio stream.
        windows: Their moments are asked of `video` before its packets come near them; several,
            where the end isn't known.
        from_seconds: What comes before this time isn't wanted.
    """

    def __init__(
        self,
        file: MediaFile,
        packets: Iterator[Packet],
        video: VideoFrames | None,
        sound: Sound | None,
        *,
        windows: Sequence[Windows],
        from_seconds: float,
    ) -> None:
        self._file = file
        self._packets = packets
        self._video = video
        self._sound = sound
        self._windows = windows
        takers = ((file.video, video), (file.audio, sound))
        streams = [stream for stream, taker in takers if stream is not None and taker is not None]
        self._clocks = {stream.index: file.clock(stream) for stream in streams}
        self._said_end = file.duration(streams) or 0.0
        self._video_index = -1 if file.video is None else file.video.index
        self._troubles = file.troubles
        self._asked = self._registered = from_seconds
        self._gaps = Gaps(from_seconds, partial(file.has_others, streams))
        self._beyond = (math.inf, math.inf)  # times about which moments were asked for
        self._far_packets = self._far_in_a_row = self._late_in_a_row = 0
        self.has_ended = False

    @property
    def end_seconds(self) -> float:
        """Where what was decoded so far ends; 0 if nothing was."""
        takers = (self._video, self._sound)
        return max((taker.end_seconds for taker in takers if taker is not None), default=0.0)

    def read_to(self, seconds: float, *, longest: float) -> None:
        """Read until there is something at a time and all before is decoded, or the file has ended.

        It goes no further than to the first of `gaps`.

        Args:
            seconds: The time; may be infinite.
            longest: No clip may reach beyond this time, else it takes too much memory.

        Raises:
            DataError: There is more to read beyond `longest`.
        """
        while self._asked < seconds and not (self.has_ended or self.gap_at(self._asked)):
            if self._asked > longest:
                raise DataError(TOO_LONG)
            self._asked = min(self._asked + _STEP_SECONDS, seconds)
            self._step(self._asked)

    @property
    def gaps(self) -> Sequence[Gap]:
        """The gaps in the times of packets so far that weren't passed."""
        return self._gaps.found

    def gap_at(self, seconds: float) -> Gap | None:
        """The first gap that begins before or at a time and wasn't passed, if there is one."""
        return next((gap for gap in self.gaps if gap.start <= seconds), None)

    def pass_gap(self, gap: Gap, seconds: float) -> None:
        """Read on from a time at the end of a gap: what is in it isn't wanted."""
        self._gaps.found.remove(gap)
        self._asked, self._registered = max(self._asked, seconds), max(self._registered, seconds)
        self._far_packets = self._far_in_a_row = 0

    def _step(self, seconds: float) -> None:
        self._register(seconds + JUMP_SECONDS)
        limit = round(_STEP_SECONDS * PACKETS_PER_SECOND) + _SPARE_PACKETS
        is_late = False
        while not (is_late or self._has(seconds)):
            packet = next(self._packets, None)
            has_trouble = self._file.troubles > self._troubles
            self._troubles = self._file.troubles
            if has_trouble:
                self._disturb(self._file.trouble)
            limit -= 1
            if packet is None or limit == 0:
                self._finish("" if packet is None else "too many packets for their times")
                return
            is_late = self._feed(packet, seconds)
            if has_trouble:  # it may have been before or in this packet
                self._disturb(self._file.trouble)

    def _has(self, seconds: float) -> bool:
        return self.has_ended or (
            not 0 < self._far_packets <= _FAR_PACKETS
            and (self._video is None or self._video.display.has(seconds))
            and (self._sound is None or self._sound.has(seconds))
            and self.end_seconds >= seconds
        )

    def _feed(self, packet: Packet, seconds: float) -> bool:
        """Decode a packet; tell whether the other stream is so late that it counts as missing."""
        tick = packet.pts if packet.dts is None else packet.dts
        index = packet.stream_index
        clock = self._clocks[index]
        late = 0.0 if tick is None else clock.seconds(tick) - seconds
        is_far = tick is not None and self._is_far(packet, seconds)
        if self._video is None or index != self._video_index:
            if self._sound is not None:
                self._sound.feed(packet, begins_anew=self._file.begins_anew)
            is_late = self._video is not None and late > LONGEST_STILL_SECONDS
            is_late &= not is_far or self._far_in_a_row > _FAR_PACKETS
            self._late_in_a_row = 0
            if self._video is not None and is_late:
                self._video.show_all(seconds)
            return is_late
        if is_far:
            self._register_beyond(seconds + late)
        else:
            self._register(seconds + late + JUMP_SECONDS)
        self._video.feed(packet)
        self._late_in_a_row = self._late_in_a_row + 1 if late > _SOUND_LATE_SECONDS else 0
        if late <= _SOUND_LATE_SECONDS:
            return False
        if not self._video.display.has(seconds):
            self._video.decode_all()
        least = _FAR_PACKETS if is_far else _LATE_PACKETS
        is_late = self._late_in_a_row >= least and self._video.display.has(seconds)
        if is_late and self._sound is not None:
            self._sound.break_off()
        return is_late

    def _is_far(self, packet: Packet, seconds: float) -> bool:
        """Whether a packet lies beyond a gap, which isn't to be crossed moment by moment."""
        clock = self._clocks[packet.stream_index]
        tick = packet.dts if packet.pts is None else packet.pts
        time = clock.seconds(tick or 0)
        # MP4 says of the last packet before a wrong time that it lasts until then.
        length = min((packet.duration or 0) * clock.tick_seconds, STILL_SECONDS)
        self._gaps.add(packet.stream_index, time, length)
        is_far = time > seconds + JUMP_SECONDS and self._gaps.is_beyond(time)
        self._far_packets = self._far_packets + is_far if self._gaps.has_any else 0
        self._far_in_a_row = self._far_in_a_row + 1 if is_far else 0
        return is_far

    def _register_beyond(self, time: float) -> None:
        """Ask for the moments about a time beyond a gap, and for none before.

        Whether it is right isn't known yet, so the moments before are still asked for in turn.
        """
        if self._video is None or self._beyond[0] <= time <= self._beyond[1] - JUMP_SECONDS:
            return
        until = time + JUMP_SECONDS + _REGISTERED_SECONDS
        for windows in self._windows:
            start = time - JUMP_SECONDS - min(windows.window, LONGEST_STILL_SECONDS)
            self._video.display.want(windows.between(start, until))
        self._beyond = time - JUMP_SECONDS, until

    def _register(self, seconds: float) -> None:
        if self._video is not None and seconds > self._registered:
            until = seconds + _REGISTERED_SECONDS
            for windows in self._windows:
                self._video.display.want(windows.between(self._registered, until))
            self._registered = until

    def _disturb(self, trouble: str) -> None:
        for taker in (self._video, self._sound):
            if taker is not None:
                taker.disturb(trouble)

    def _finish(self, trouble: str) -> None:
        if trouble:
            self._disturb(trouble)
        if self._video is not None:
            self._video.close()
        end = max(self._said_end, self.end_seconds)
        self._gaps.close()
        for taker in (self._video, self._sound):
            if taker is not None:
                taker.finish(end)
        self.has_ended = True
