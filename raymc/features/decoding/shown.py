"""Decoded frames to the pictures displayed at wanted moments, and how far each can be trusted.

Times are in ticks of the stream. Axes: T frames, H height, W width.
"""

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8

from raymc.features.clips import Picture
from raymc.features.decoding.faults import FAULTS, reason
from raymc.features.decoding.timeline import JUMP_SECONDS, Clock

LONGEST_SIDE = 16  # times the short side: what is narrower is squashed to this
# bit-exact, so that every machine makes the same pixels
_EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
_SCALING = {
    "bilinear": int(Interpolation.BILINEAR | _EXACT),
    "bicubic": int(Interpolation.BICUBIC | _EXACT),
    "area": int(Interpolation.AREA | _EXACT),
}


class PictureMaker:
    """Makes upright RGB pictures of the frames of one stream, scaled by swscale and cut.

    `pixel_aspect` is the width over the height of a coded pixel.
    """

    def __init__(self, picture: Picture, pixel_aspect: float = 1.0) -> None:
        self._picture = picture
        self._pixel_aspect = pixel_aspect if 0.1 <= pixel_aspect <= 10 else 1.0
        self._flags = _SCALING[picture.interpolation]
        self._reformatter = VideoReformatter()

    def make(self, frame: VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
        """Make the picture of a frame; one of `FAULTS` if swscale can't convert it."""
        turned, upright = orientation(frame)
        height, width = self._scaled_size(frame, turned)
        scaled = self._reformatter.reformat(
            frame,
            width=height if turned else width,
            height=width if turned else height,
            format="rgb24",
            interpolation=self._flags,
            threads=1,
        )
        pixels = upright(scaled.to_ndarray())
        if self._picture.fits:
            return self._with_margins(pixels)
        top = (height - self._picture.height) // 2
        left = (width - self._picture.width) // 2
        return pixels[top : top + self._picture.height, left : left + self._picture.width]

    def _with_margins(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
        made = np.zeros((self._picture.height, self._picture.width, 3), np.uint8)
        height, width = pixels.shape[:2]
        top, left = (made.shape[0] - height) // 2, (made.shape[1] - width) // 2
        made[top : top + height, left : left + width] = pixels
        return made

    def _scaled_size(self, frame: VideoFrame, turned: bool) -> tuple[int, int]:
        """Height and width of the whole upright picture, of which the wanted one is cut."""
        short = self._picture.short_side
        if short is None and not self._picture.fits:
            return self._picture.height, self._picture.width
        width, height = frame.width * self._pixel_aspect, float(frame.height)
        if turned:
            width, height = height, width
        if short is None:
            scale = min(self._picture.height / height, self._picture.width / width)
            return max(int(height * scale), 1), max(int(width * scale), 1)
        long = min(int(short * max(width, height) / min(width, height)), LONGEST_SIDE * short)
        return (short, long) if width >= height else (long, short)


def orientation(frame: VideoFrame) -> tuple[bool, Callable[[np.ndarray], np.ndarray]]:
    """How a frame is turned upright: whether its sides swap, and the function that does it.

    The display matrix maps (x, y) to (a x + c y, b x + d y), as the MP4 standard (ISO 14496-12)
    has it; quarter turns and mirrors are all it is used for.
    """
    side_data = cast(Any, frame.side_data)  # av declares its keys as text
    matrix = side_data.get(SideDataType.DISPLAYMATRIX)
    if matrix is None:
        return False, lambda pixels: pixels
    a, b, _, c, d = np.frombuffer(matrix, np.int32, 5).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, lambda pixels: pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return True, lambda pixels: pixels.transpose(1, 0, 2)[
        :: -1 if b < 0 else 1, :: -1 if c < 0 else 1
    ]


STILL_SECONDS = 1.0  # a picture may stay after its end where the video is over or lost
NEVER = 1 << 62
LONGEST_FRAME_SECONDS = 60.0  # a header may claim years
_SHORTEST_FRAME_SECONDS = 1e-4  # FFmpeg may say one tick where it doesn't know
_JITTER_SECONDS = 0.2  # by which FFmpeg's guesses at missing times may go back


class UnprovenError(Exception):
    """Decoding less than all gave something else than was expected."""


@dataclass(frozen=True)
class _Shown:
    """The pictures of a frame, what is wrong with them, and whether it is only the nearest one."""

    pixels: tuple[np.ndarray, ...] | None
    damage: str = ""
    is_far: bool = False


class Display:
    """Takes frames in the order of display, keeps the pictures of the wanted moments.

    Args:
        clock: The stream's clock.
        makers: Each makes a picture of every frame that is wanted.
        step: Ticks that a frame lasts if it doesn't say.
        from_tick: About where the first frame should be.
        start_tick: Where the stream begins.

    Attributes:
        wanted: Ticks of moments that aren't settled yet, in order.
        last_tick: Of the last frame, long ago before the first.
        expected: The times of all frames about the wanted moments, in order, those that aren't
            decoded included; None: all are decoded.
    """

    def __init__(
        self,
        clock: Clock,
        makers: Sequence[PictureMaker],
        *,
        step: int,
        from_tick: int,
        start_tick: int,
    ) -> None:
        self._clock = clock
        self._makers = makers
        self._step = step
        self._start_tick = start_tick
        self._still = clock.ticks(STILL_SECONDS)
        self._shortest = clock.ticks(_SHORTEST_FRAME_SECONDS)
        self._longest = clock.ticks(LONGEST_FRAME_SECONDS)
        self._jitter = clock.ticks(_JITTER_SECONDS)
        self._jump = clock.ticks(JUMP_SECONDS)
        self.wanted: deque[int] = deque()
        self.expected: Sequence[int] | None = None
        self._shown: OrderedDict[int, _Shown] = OrderedDict()  # about in order
        self._waiting: tuple[VideoFrame, int] | None = None  # the next one must confirm its time
        self._last: VideoFrame | None = None
        self._pixels: tuple[np.ndarray, ...] | None = None  # of the last frame
        self.last_tick = self._first_tick = self._damage_tick = -NEVER
        self._end_tick = from_tick  # of the last frame
        self._is_guessed = False  # its time, from the frames before it
        self._damage = ""  # found at _damage_tick, carried on until a later key frame
        self._last_damage = self._first_damage = ""
        self._fault = ""  # of the last frame, which couldn't be made a picture
        self._is_over = False
        self._leap: tuple[int, int] | None = None  # the end before the last step, and its time

    def want(self, moments: Iterable[float]) -> None:
        """Ask for the pictures of further moments, before their frames come."""
        ticks = {self._clock.tick(moment) for moment in moments}
        new = sorted(ticks.difference(self.wanted, self._shown))
        if new and self.wanted and new[0] < self.wanted[-1]:
            self.wanted = deque(sorted([*self.wanted, *new]))
        else:
            self.wanted.extend(new)
        if self._is_over:
            self.settle(NEVER)

    @property
    def end_seconds(self) -> float:
        """Where the last frame so far ends."""
        return self._clock.seconds(self._end_tick)

    def has(self, seconds: float) -> bool:
        """Whether all wanted pictures before a time are there."""
        return not self.wanted or self.wanted[0] > self._clock.tick(seconds)

    def add(self, frame: VideoFrame, tick: int | None) -> None:
        """Take the next frame, and its time if it has one."""
        if tick is not None and self._is_guessed and tick < self.last_tick - self._jitter:
            tick = None
        was_guessed, self._is_guessed = self._is_guessed, tick is None
        tick = self._end_tick if tick is None else tick
        waiting, self._waiting = self._waiting, None
        if waiting is not None and tick >= waiting[1]:
            self._leap = self._end_tick, waiting[1]
            self._take(*waiting)
        elif waiting is not None:
            self.distrust(self.last_tick, "a picture's time is wrong")
        if tick > self._end_tick + self._jump:
            self._waiting = frame, tick
        elif (
            self._leap is not None
            and self._leap[0] - self._jitter <= tick < self._leap[1] - self._jump
        ):
            self._return(frame, tick)
        elif tick < self.last_tick - self._jitter:
            self.distrust(tick, "times go back")
        else:
            shown = max(tick, self.last_tick)
            self._take(frame, shown)
            if was_guessed or self._is_guessed:  # it may be late: time goes on from the right one
                self._end_tick -= shown - tick

    def _return(self, frame: VideoFrame, tick: int) -> None:
        """Take a frame that goes on from before a step: the times since then were wrong."""
        trouble = "a picture's time is wrong"
        for old in [old for old in self._shown if old >= tick]:
            del self._shown[old]
            self.wanted.append(old)
        self.wanted = deque(sorted(self.wanted))
        end, self._leap = self._leap[0] if self._leap else tick, None
        for old, shown in self._shown.items():
            if old >= end:
                self._shown[old] = replace(shown, damage=trouble)
        self._damage, self._damage_tick = trouble, tick
        self.last_tick = tick
        self._take(frame, tick)

    def distrust(self, tick: int, damage: str) -> None:
        """Frames from a time to the next key frame may be damaged."""
        self._damage, self._damage_tick = damage, max(tick, self._damage_tick)

    def settle(self, tick: int) -> None:
        """Keep the last frame for the wanted moments before a time: no other comes before it."""
        while self._last is not None and self.wanted and self.wanted[0] < tick:
            wanted = self.wanted.popleft()
            if self.expected is not None:
                at = bisect_right(self.expected, wanted)
                if self.expected[max(at - 1, 0)] != self.last_tick:
                    raise UnprovenError
            self._shown[wanted] = self._picture(wanted)

    def give_up(self, tick: int) -> None:
        """Keep the last frame for the wanted moments before a time: no other came for long."""
        self.settle(tick)
        if self.last_tick > self._first_tick:
            self.distrust(self.last_tick, "for long no other came")

    def finish(self, end_tick: int) -> None:
        """Keep the last frame for all that is wanted: no other comes, and the file ends there."""
        if self._waiting is not None:
            if self._waiting[1] < end_tick + self._jump:
                self._take(*self._waiting)
            else:
                self.distrust(self.last_tick, "a picture's time is wrong")
            self._waiting = None
        self._is_over = True
        self.settle(NEVER)

    def take(
        self, moments: Iterable[float], keep_from: float
    ) -> tuple[list[UInt8[np.ndarray, "T _ _ 3"]] | None, str]:
        """The pictures of some moments, all of which are there or never will be.

        Args:
            moments: In the order of time, at least one.
            keep_from: Pictures of earlier moments aren't asked for again.

        Returns:
            The pictures of each maker, None where one or all are missing; and what is wrong, or
            nothing.
        """
        ticks = [self._clock.tick(moment) for moment in moments]
        found = [self._shown.get(tick) or self._picture(tick) for tick in ticks]
        self._forget(self._clock.tick(keep_from))
        pixels = [shown.pixels for shown in found if shown.pixels is not None]
        damaged = [shown.damage for shown in found if shown.damage]
        far = sum(shown.is_far for shown in found)
        if len(pixels) < len(found):
            return None, damaged[0] if damaged else "the video has no picture here"
        trouble = f"{far} of {len(found)} pictures repeat the nearest: no data" if far else ""
        if damaged and not far:
            trouble = f"{len(damaged)} of {len(found)} pictures may be damaged: {damaged[0]}"
        return [np.stack(of_one) for of_one in zip(*pixels)], trouble

    def _take(self, frame: VideoFrame, tick: int) -> None:
        if self._last is None:
            self._first_tick, self._first_damage = tick, self._damage
        self.settle(tick)
        if frame.is_corrupt:
            self.distrust(tick, "FFmpeg concealed errors")
        elif frame.key_frame and frame.pict_type == PictureType.I and tick > self._damage_tick:
            self._damage = ""
        self._last, self.last_tick, self._last_damage = frame, tick, self._damage
        self._pixels, self._fault = None, ""
        lasts = frame.duration if frame.duration > self._shortest else self._step
        self._end_tick = tick + min(lasts, self._longest)
        if self.wanted and self.wanted[0] < self._end_tick:
            self._make()  # while the frame is still in the processor's cache

    def _forget(self, tick: int) -> None:
        while self._shown and next(iter(self._shown)) < tick:
            self._shown.popitem(last=False)
        while self.wanted and self.wanted[0] < tick:
            self.wanted.popleft()

    def _picture(self, tick: int) -> _Shown:
        """The last frame as the picture of a moment; damage after it may have hidden another."""
        damage = self._last_damage or self._damage
        if self._last is None:
            return _Shown(None, damage)
        if tick < self._first_tick:
            damage = self._first_damage or damage
        self._make()
        # A video of one picture is a still, shown as long as the file lasts.
        is_late = self._is_over and not self.last_tick == self._first_tick <= self._start_tick
        is_far = is_late and tick > self._end_tick + self._still
        return _Shown(
            self._pixels, damage or self._fault, is_far or tick < self._first_tick - self._still
        )

    def _make(self) -> None:
        if self._pixels is None and self._last is not None:
            try:
                self._pixels = tuple(maker.make(self._last) for maker in self._makers)
            except FAULTS as error:
                self._fault = reason(error)
