"""Frames to tokens without weights: small pictures as normalised patches.

It needs no download. It tells scenes, layouts and movements apart; the rest is left to the model
that is trained on it.

Axes: T frames, P patches, D dim.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from raymc.errors import DataError
from raymc.features.clips import Picture

SIDE = 24
PATCH = 6
_PATCHES = (SIDE // PATCH) ** 2
_NOISE = 0.02  # added to a patch's deviation, so that a flat patch doesn't become noise
_GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601


@dataclass(frozen=True, kw_only=True)
class PatchEncoder:
    """Each frame as 24 × 24 pixels in 16 patches, 640 values.

    Per patch, row by row: its 36 grey values, normalised by their mean and deviation, so that
    brightness and contrast don't count; then that deviation, the mean, and the means of red and
    of blue minus grey, all scaled to about 1.
    """

    rate_hz: float = 1.0
    name: str = "patches"
    dim: int = _PATCHES * (PATCH**2 + 4)
    license: str = "no weights"
    has_weights: bool = False

    @property
    def picture(self) -> Picture:
        """The frames it wants: the whole picture, squashed."""
        return Picture(height=SIDE, width=SIDE, interpolation="area")

    def encode(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, "T D"]:
        """Make one token per frame; the frames must have the size of `picture`."""
        if frames.shape[1:3] != (SIDE, SIDE):
            found = f"{frames.shape[1]} × {frames.shape[2]}"
            raise DataError(f"frames of {found} pixels; patches expects {SIDE} × {SIDE}")
        colours = _patches(frames.astype(np.float32) / np.float32(255))
        grey = colours @ np.array(_GREY, np.float32)
        mean = grey.mean(axis=2, keepdims=True)
        deviation = grey.std(axis=2, keepdims=True)
        red, _, blue = np.moveaxis(colours.mean(axis=2, keepdims=True), 3, 0)
        values = (
            (grey - mean) / (deviation + np.float32(_NOISE)),
            10 * deviation,
            4 * mean - 2,
            5 * (red - mean),
            5 * (blue - mean),
        )
        return np.concatenate(values, axis=2, dtype=np.float32).reshape(len(frames), self.dim)


def _patches(frames: Float32[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, "T P pixels 3"]:
    side = SIDE // PATCH
    blocks = frames.reshape(len(frames), side, PATCH, side, PATCH, 3).swapaxes(2, 3)
    return blocks.reshape(len(frames), _PATCHES, PATCH**2, 3)
