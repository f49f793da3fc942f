"""Decoded frames to the pictures an encoder wants: upright, scaled by swscale, cut, RGB.

Imports av and numpy. Scaling is bit-exact, so that every machine makes the same pixels.

Axes: H height, W width.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8

from raymc.features.clips import Picture

LONGEST_SIDE = 16  # times the short side: what is narrower is squashed to this
_EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
_SCALING = {
    "bilinear": int(Interpolation.BILINEAR | _EXACT),
    "bicubic": int(Interpolation.BICUBIC | _EXACT),
    "area": int(Interpolation.AREA | _EXACT),
}


class PictureMaker:
    """Makes pictures of the frames of one stream.

    Args:
        picture: What is wanted.
        pixel_aspect: Width over height of a coded pixel.
    """

    def __init__(self, picture: Picture, pixel_aspect: float = 1.0) -> None:
        self._picture = picture
        self._pixel_aspect = pixel_aspect if 0.1 <= pixel_aspect <= 10 else 1.0
        self._flags = _SCALING[picture.interpolation]
        self._reformatter = VideoReformatter()

    def make(self, frame: VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
        """Make the picture of a frame.

        Raises:
            av.FFmpegError: Swscale can't convert such frames.
            ValueError: See above.
        """
        turned, upright = _orientation(frame)
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
        top = (height - self._picture.height) // 2
        left = (width - self._picture.width) // 2
        return pixels[top : top + self._picture.height, left : left + self._picture.width]

    def _scaled_size(self, frame: VideoFrame, turned: bool) -> tuple[int, int]:
        """Height and width of the whole upright picture, of which the wanted one is cut."""
        short = self._picture.short_side
        if short is None:
            return self._picture.height, self._picture.width
        width, height = frame.width * self._pixel_aspect, float(frame.height)
        if turned:
            width, height = height, width
        long = min(int(short * max(width, height) / min(width, height)), LONGEST_SIDE * short)
        return (short, long) if width >= height else (long, short)


def _orientation(frame: VideoFrame) -> tuple[bool, Callable[[np.ndarray], np.ndarray]]:
    """How a frame is turned upright: whether its sides swap, and the function that does it.

    The display matrix maps (x, y) to (a x + c y, b x + d y), as the MP4 standard (ISO 14496-12)
    has it; quarter turns and mirrors are all it is used for.
    """
    side_data = cast(Any, frame.side_data)  # av declares its keys as text
    matrix = side_data.get(SideDataType.DISPLAYMATRIX)
    if matrix is None:
        return False, _as_it_is
    a, b, _, c, d = np.frombuffer(matrix, np.int32, 5).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, lambda pixels: pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return True, lambda pixels: pixels.transpose(1, 0, 2)[
        :: -1 if b < 0 else 1, :: -1 if c < 0 else 1
    ]


def _as_it_is(pixels: np.ndarray) -> np.ndarray:
    return pixels
