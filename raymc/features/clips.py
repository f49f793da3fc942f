"""What can be asked of a media file, and what comes back: sources, clips and failures.

`media.py` reads the files.

Axes: T frames, H height, W width, S samples.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from raymc.errors import ConfigError

MAX_PICTURE_SIDE = 4096
_SUFFIXES = """
.3gp .avi .dv .f4v .flv .h264 .hevc .m1v .m2ts .m2v .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .nut
.ogv .rm .ts .vob .webm .wmv .asf .wtv
.aac .ac3 .aif .aiff .amr .ape .au .eac3 .flac .m4a .m4b .mka .mp2 .mp3 .oga .ogg .opus .tta
.wav .wma .wv
"""
MEDIA_SUFFIXES = frozenset(_SUFFIXES.split())


def is_media(path: str) -> bool:
    """Whether a file's name ends as that of a video or of sound."""
    return os.path.splitext(path)[1].lower() in MEDIA_SUFFIXES


@dataclass(frozen=True, kw_only=True)
class Source:
    """One media file, or a stated part of it.

    Attributes:
        path: A local path, or an address (s3://, gs://, or what fsspec knows).
        id: Unique in the list.
        labels: Of all its clips.
        split: Of all its clips.
        start_seconds: Where the part begins.
        end_seconds: Where it ends; None: with the file.
        sha256: The expected digest of the file, in lower-case hex; None if unknown.
        extra: Further columns of the table, and `sha256`.
    """

    path: str
    id: str
    labels: tuple[str, ...] = ()
    split: str = "train"
    start_seconds: float = 0.0
    end_seconds: float | None = None
    sha256: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """How an encoder wants each frame: RGB of one size, upright as a player shows it.

    Attributes:
        short_side: The shorter side is scaled to this, then height x width are cut out of the
            middle; None: the whole picture is squashed into height x width.
        fits: The whole picture keeps its shape, as large as fits into height x width, in the
            middle of black.
        interpolation: How swscale scales; all three average when they shrink.
    """

    height: int
    width: int
    short_side: int | None = None
    fits: bool = False
    interpolation: Literal["bilinear", "bicubic", "area"] = "bilinear"

    def __post_init__(self) -> None:
        for name, pixels in (("height", self.height), ("width", self.width)):
            if not 1 <= pixels <= MAX_PICTURE_SIDE:
                raise ConfigError(
                    f"a picture's {name} is {pixels}; expected 1 to {MAX_PICTURE_SIDE} pixels."
                )
        least = max(self.height, self.width)
        if self.short_side is not None and not least <= self.short_side <= MAX_PICTURE_SIDE:
            raise ConfigError(
                f"a picture's short_side is {self.short_side}; expected {least} (its height and "
                f"width are cut out of it) to {MAX_PICTURE_SIDE} pixels."
            )


@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """What to decode of every window of a source.

    Attributes:
        fps: Frames a second.
        picture: Their size; None: no frames.
        screen: Size of the pictures of the same moments in which words are read; None: none.
        sample_rate_hz: Rate of the mono sound; None: no sound.
        window_seconds: Length of a clip; None: the whole source is one clip.
        stride_seconds: From the start of a window to the next; None: as `window_seconds`.

    Raises:
        ConfigError: A value is out of its range, nothing is requested, or a stride has no window.
    """

    fps: float = 1.0
    picture: Picture | None
    screen: Picture | None = None
    sample_rate_hz: int | None
    window_seconds: float | None = None
    stride_seconds: float | None = None

    def __post_init__(self) -> None:
        if not self.pictures and self.sample_rate_hz is None:
            raise ConfigError("a clip has neither picture nor sample_rate_hz; expected one of them")
        if not 0.001 <= self.fps <= 1000:
            raise ConfigError(f"fps is {self.fps}; expected 0.001 to 1000 frames a second.")
        if self.sample_rate_hz is not None and not 1000 <= self.sample_rate_hz <= 384_000:
            raise ConfigError(f"sample_rate_hz is {self.sample_rate_hz}; expected 1000 to 384000.")
        if self.stride_seconds is not None and self.window_seconds is None:
            raise ConfigError("stride_seconds is set without window_seconds; set both or neither.")
        for name in ("window_seconds", "stride_seconds"):
            seconds = getattr(self, name)
            if seconds is not None and not 0.01 <= seconds < math.inf:
                raise ConfigError(f"{name} is {seconds}; expected 0.01 seconds or more.")

    @property
    def pictures(self) -> Mapping[str, Picture]:
        """The pictures of each moment, by the name of the clip's field for them."""
        asked = {"frames": self.picture, "screen": self.screen}
        return {name: picture for name, picture in asked.items() if picture is not None}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A part of a file that is missing or damaged.

    `id` is the clip's, or the source's where no clip could be made; `stage` is `open`, `video` or
    `audio` (later stages add their own names); `error` is one line.
    """

    path: str
    id: str
    stage: str
    error: str


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One window of a source, decoded.

    Attributes:
        id: The source's where one window holds it all, else `ID@START-END`, in seconds.
        start_seconds: In the file, of which the earliest stream starts at 0.
        frames: RGB; frame t is the one displayed in the middle of [t, t + 1) / fps seconds
            after `start_seconds`. None: not asked for, or missing (then a failure says why).
        screen: The same moments as the request's `screen` wants them. None as for `frames`.
        waveform: Mean of the channels, in [-1, 1]; sample 0 is at `start_seconds`, and there are
            round(duration x rate). None as for `frames`.
        failures: What is missing or damaged.
    """

    id: str
    start_seconds: float
    end_seconds: float
    frames: UInt8[np.ndarray, "T H W 3"] | None
    waveform: Float32[np.ndarray, " S"] | None
    screen: UInt8[np.ndarray, "T H2 W2 3"] | None = None
    failures: tuple[Failure, ...] = ()
