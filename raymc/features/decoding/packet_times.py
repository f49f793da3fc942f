"""The times of a stream's packets: what they mean in seconds, and which to believe."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

from av.packet import Packet

JUMP_SECONDS = 10.0  # a longer step in time must be confirmed by the packet after it
_LONGEST_JUMP_SECONDS = 3600.0  # beyond which confirmation doesn't help
_WRONG = "a packet's time is wrong"


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


class PacketTimes:
    """Checks the packets of one stream in their order.

    Args:
        clock: The stream's clock.
        start_seconds: About where the first packet should be.
        end_seconds: Where the header says that the stream ends.

    Attributes:
        others: The times of the other streams: what comes beside them needs no confirmation.
        trouble: What was found wrong with the last packets, or nothing.
        is_lost: Whether time jumped so that the rest can't be placed.
    """

    def __init__(self, clock: Clock, start_seconds: float, end_seconds: float | None) -> None:
        self._clock = clock
        self._jump = clock.ticks(JUMP_SECONDS)
        self._longest = clock.ticks(_LONGEST_JUMP_SECONDS)
        self._end = None if end_seconds is None else clock.tick(end_seconds + JUMP_SECONDS)
        self._last = clock.tick(start_seconds)
        self._is_first = True
        self._waiting: Packet | None = None
        self.others: Sequence[PacketTimes] = ()
        self.trouble = ""
        self.is_lost = False

    def check(self, packet: Packet) -> list[Packet]:
        """Take a packet, return those whose times are settled by it: its own, or none at all."""
        tick = time_of(packet)
        if tick is None:
            return [packet]
        if packet.pts is not None and abs(packet.pts - tick) > self._jump:
            packet.pts = None
            self.trouble = _WRONG
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            return self._settle(waiting, packet, tick)
        if abs(tick - self._last) > self._jump and not self._is_beside(tick):
            self._waiting = packet
            return []
        self._last, self._is_first = tick, False
        return [packet]

    def rest(self) -> list[Packet]:
        """The packet that still waits at the end of the file."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return []
        if self._end is None or not self._last < (time_of(waiting) or 0) < self._end:
            waiting.pts = waiting.dts = None
            self.trouble = _WRONG
        return [waiting]

    def _is_beside(self, tick: int) -> bool:
        """Whether another stream has come to about this time, and this one moves forward."""
        seconds = self._clock.seconds(tick)
        return tick > self._last and any(
            abs(seconds - other._clock.seconds(other._last)) < JUMP_SECONDS for other in self.others
        )

    def _settle(self, waiting: Packet, packet: Packet, tick: int) -> list[Packet]:
        there = time_of(waiting) or 0
        step = there - self._last
        # Packets may be rare: those that move forward, however far, confirm each other.
        is_confirmed = abs(tick - there) <= self._jump or (step > 0 and tick > there)
        if not is_confirmed:
            waiting.pts = waiting.dts = None
            self.trouble = _WRONG
            return [waiting, *self.check(packet)]
        if abs(step) > self._longest or (step < 0 and not self._is_first):
            start, end = self._clock.seconds(self._last), self._clock.seconds(there)
            self.trouble = f"time jumps from {start:.1f} to {end:.1f} s; the rest isn't read"
            self.is_lost = True
            return []
        self._last, self._is_first = there, False
        return [waiting, *self.check(packet)]


def time_of(packet: Packet) -> int | None:
    """When a packet is to be decoded, in ticks; times of decoding are the more regular ones."""
    return packet.pts if packet.dts is None else packet.dts
