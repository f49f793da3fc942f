"""Seconds of a file and ticks of its streams; recordings joined in one file follow each other."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import floor

from av.packet import Packet

JUMP_SECONDS = 10.0  # a longer step forward isn't taken on the word of one time
LONGEST_STILL_SECONDS = 3600.0  # for which a picture may stand still, and nothing else come
_BACK_SECONDS = 0.5  # by which times may go back without being those of another recording
_RETURN_SECONDS = 1.0  # within which a time goes on from the one before a wrong one
_PAGE_SECONDS = 0.25  # by which a page may be moved
_STEP_SECONDS = 0.5  # by which time goes forward without being watched
_LONGEST_SECONDS = 60.0  # of a packet


@dataclass(frozen=True)
class Clock:
    """Seconds since the start of the file, and a stream's own ticks."""

    tick_seconds: float
    origin_seconds: float

    def tick(self, seconds: float) -> int:
        """The last tick at or before a time; rounding errors of 10 microseconds don't count."""
        return floor((seconds + self.origin_seconds + 1e-5) / self.tick_seconds)

    def seconds(self, tick: int) -> float:
        """The time of a tick."""
        return tick * self.tick_seconds - self.origin_seconds

    def ticks(self, seconds: float) -> int:
        """A length of time in ticks."""
        return round(seconds / self.tick_seconds)


@dataclass
class _Place:
    """Where a stream has come to: when its last packets begin and end, and how they were moved."""

    shift: float = 0.0
    last: float = 0.0
    end: float = 0.0
    former: tuple[float, float] | None = None  # shift and end before a step forward
    is_begun: bool = False


@dataclass
class Timeline:
    """Moves the times of packets so that each recording begins where the one before it ends.

    `begins_anew` says whether the last packet is the first of its stream in a recording, as far as
    times tell. `is_from_zero`: those of each recording begin at 0, as of FLAC in Ogg, whose first
    page FFmpeg times as if it belonged to the recording before.

    Files of some formats can be joined end to end. There, times that go back by more than 0.5 s,
    or forward by more than 10 s while no other stream has come so far, are those of another
    recording, as they are to the program `ffmpeg`.
    """

    clocks: Mapping[int, Clock]
    is_from_zero: bool = False
    begins_anew: bool = False
    _shift: float = 0.0  # of the last recording
    _places: dict[int, _Place] = field(default_factory=dict)

    def place(self, packet: Packet) -> str:
        """Move a packet; return what is wrong with the times, or nothing."""
        clock = self.clocks[packet.stream_index]
        place = self._places.setdefault(packet.stream_index, _Place())
        tick = packet.pts if packet.dts is None else packet.dts
        length = min((packet.duration or 0) * clock.tick_seconds, _LONGEST_SECONDS)
        trouble, self.begins_anew = "", False
        if tick is None:
            place.end += length
        else:
            former = place.shift, place.end
            trouble = self._find(place, clock.seconds(tick))
            time = clock.seconds(tick) + place.shift
            self.begins_anew = place.is_begun and not trouble and place.shift != former[0]
            is_late = clock.seconds(tick) > _BACK_SECONDS and abs(time - former[1]) > _PAGE_SECONDS
            if self.begins_anew and self.is_from_zero and is_late:
                trouble = "a packet's time is wrong"  # those of the packets before it
            # A step forward may be a wrong time, and the next packet go on from before it.
            is_step = place.is_begun and (self.begins_anew or time > former[1] + _STEP_SECONDS)
            place.former = former if is_step else None
            place.last, place.end, place.is_begun = time, time + length, True
        if ticks := clock.ticks(place.shift):
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
        return trouble

    def _find(self, place: _Place, raw: float) -> str:
        shift, end = place.former or (0.0, math.inf)
        if not place.is_begun:
            place.shift = self._shift
        elif self._continues(place, raw + place.shift):
            pass
        elif -_BACK_SECONDS <= raw + shift - end < _RETURN_SECONDS:
            place.shift = shift
            return "a packet's time is wrong"  # the last one's
        elif self._continues(place, raw + self._shift):
            place.shift = self._shift
        else:
            place.shift = self._shift = place.end - raw
        return ""

    def _continues(self, place: _Place, time: float) -> bool:
        if time < place.last - _BACK_SECONDS:
            return False
        others = (other for other in self._places.values() if other.is_begun)
        return time <= place.end + JUMP_SECONDS or any(
            abs(time - other.last) < JUMP_SECONDS for other in others if other is not place
        )


@dataclass
class Gap:
    """A time in which no stream has a packet, too long to be true.

    Attributes:
        start: Where the last packet before it ends.
        end: Where the first one after it begins.
        stream: The index of that one's stream.
    """

    start: float
    end: float
    stream: int


class Gaps:
    """Finds the gaps in the times of packets, as they come.

    One wrong time makes none: the next packet of its stream goes on from before it. Nor do rare
    pictures, where there is sound meanwhile: `is_filled` says whether it is in a stream that isn't
    read.

    Attributes:
        found: Those that weren't passed yet, in order.
    """

    def __init__(self, from_seconds: float, is_filled: Callable[[float, float], bool]) -> None:
        self.found: list[Gap] = []
        self._end = from_seconds
        self._is_filled = is_filled
        self._far: Gap | None = None  # the next packet of the stream must confirm it

    @property
    def has_any(self) -> bool:
        """Whether there is one, for all that is known."""
        return self._far is not None or bool(self.found)

    def add(self, stream: int, time: float, length: float) -> None:
        """Take the next packet's stream, its time and its length in seconds."""
        for gap in [gap for gap in self.found if time < gap.end - JUMP_SECONDS]:
            gap.start = max(gap.start, time + length)
            if stream == gap.stream or gap.end - gap.start <= LONGEST_STILL_SECONDS:
                self.found.remove(gap)
                self._end = gap.start if stream == gap.stream else self._end
        if self._far is not None and time >= self._far.end - JUMP_SECONDS:
            self.close()
        elif self._far is not None and stream == self._far.stream:
            self._far = None
        is_far = self._far is None and time > self._end + LONGEST_STILL_SECONDS
        if is_far and not self._is_filled(self._end, time):
            self._far = Gap(self._end, time, stream)
            return
        self._end = max(self._end, time + length)
        if self._far is not None:
            self._far.start = self._end

    def close(self) -> None:
        """Take the last time for right: another confirms it, or none comes."""
        if self._far is not None:
            self.found.append(self._far)
            self._end, self._far = self._far.end, None

    def is_beyond(self, time: float) -> bool:
        """Whether a time lies beyond a gap, for all that is known."""
        known = self.found if self._far is None else [*self.found, self._far]
        return any(time >= gap.end - JUMP_SECONDS for gap in known)
