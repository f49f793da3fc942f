"""Which frames show something new: slides and lessons stay for long, and need to be read once.

Axes: T frames, H height, W width.
"""

import numpy as np
from jaxtyping import Int64, UInt8

_LEAST_CHANGE = 12  # of a grey value, for a pixel to count as changed
_LEAST_PIXELS = 0.0005  # share of pixels that must have changed for a picture to be another one


def repeated_frames(frames: UInt8[np.ndarray, "T H W 3"]) -> Int64[np.ndarray, " T"]:
    """Return the number of the frame that each one repeats: its own if it shows something new.

    A frame is compared with the last new one, not with the one before it, so that slow changes
    add up.
    """
    shown = np.zeros(len(frames), np.int64)
    for number in range(1, len(frames)):
        last = shown[number - 1]
        shown[number] = number if _differ(frames[number], frames[last]) else last
    return shown


def _differ(one: UInt8[np.ndarray, "H W 3"], other: UInt8[np.ndarray, "H W 3"]) -> bool:
    change = np.abs(one.astype(np.int16) - other).max(axis=2) > _LEAST_CHANGE
    return bool(change.mean() > _LEAST_PIXELS)
