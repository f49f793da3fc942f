"""Where the windows of a source lie, and of which moments their pictures are.

Imports nothing but math: plain arithmetic on seconds.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor

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
        if length * self.fps <= 0.5:
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
