"""Media files to clips: the pictures and the sound that encoders want, window by window.

What can be asked for and what comes back; `decoding/` reads the files. It imports PyAV, so
`read_clips` imports it only when the first file is read.

Axes: T frames, H height, W width, S samples.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from raymc.errors import ConfigError, ResourceError
from raymc.features.sources import Source

MAX_PICTURE_SIDE = 4096


@dataclass(frozen=True, kw_only=True)
class Picture:
    """How an encoder wants each frame: RGB of one size, upright as a player shows it.

    Attributes:
        height: Rows of pixels.
        width: Columns of pixels.
        short_side: The shorter side is scaled to this, then height x width are cut out of the
            middle; None: the whole picture is squashed into height x width.
        interpolation: How swscale scales; all three average when they shrink.

    Raises:
        ConfigError: A size is out of its range, or the picture is larger than what it is cut of.
    """

    height: int
    width: int
    short_side: int | None = None
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
        picture: Their size; None: no video.
        sample_rate_hz: Rate of the mono sound; None: no sound.
        window_seconds: Length of a clip; None: the whole source is one clip.
        stride_seconds: From the start of a window to the next; None: as `window_seconds`.

    Raises:
        ConfigError: A value is out of its range, nothing is requested, or a stride has no window.
    """

    fps: float = 1.0
    picture: Picture | None
    sample_rate_hz: int | None
    window_seconds: float | None = None
    stride_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.picture is None and self.sample_rate_hz is None:
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


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A part of a file that is missing or damaged.

    Attributes:
        path: The file.
        id: Of the clip, or of the source where no clip could be made.
        stage: `open`, `video`, `audio`; later stages add their own names.
        error: What is wrong, in one line.
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
        end_seconds: See `start_seconds`.
        frames: RGB; frame t is the one displayed in the middle of [t, t + 1) / fps seconds
            after `start_seconds`. None: not asked for, or missing (then a failure says why).
        waveform: Mean of the channels, in [-1, 1]; sample 0 is at `start_seconds`, and there are
            round(duration x rate). None as for `frames`.
        failures: What is missing or damaged.
    """

    id: str
    start_seconds: float
    end_seconds: float
    frames: UInt8[np.ndarray, "T H W 3"] | None
    waveform: Float32[np.ndarray, " S"] | None
    failures: tuple[Failure, ...] = ()


def read_clips(source: Source, request: ClipRequest) -> Iterator[Clip | Failure]:
    """Decode a source window by window; one window and the packets read ahead are in memory.

    Windows start every `stride_seconds` from the source's start, until one reaches its end. A
    last window shorter than a tenth of `window_seconds`, or than half the time between two
    frames, is left out. A clip has a frame for every middle of [t, t + 1) / fps that lies before
    its end, or its last frame if there is no such middle; before the first frame of the file the
    first is shown, after the last the last. Sound that starts late or has gaps is silent there.
    Time 0 is where the earliest stream of the file starts.

    A damaged file never raises an error. A file that can't be opened yields only a failure, and
    so does a window of which nothing can be used, and the rest of a file that ends too early.
    Where FFmpeg conceals damage, reports an error, or data is missing, the clip has a failure; a
    modality without any data is None. Damage that no codec or container checks for goes
    unnoticed: flipped bits that leave a valid stream (likely in VP8, VP9, HEVC, MP2, MP3, PCM;
    FFV1 and FLAC have checksums), a truncated file of a format without a length (MPEG-PS and
    -TS, raw streams), bytes lost in AVI, which numbers its frames instead of timing them, and
    headers with other plausible values. A digest (`sources.Digests`) finds all of it.

    The same file and request give the same bytes. Frames are also the same wherever the source
    starts; sound is up to the decoder's dither and noise, and to a millisecond where a format
    times no finer (Matroska, FLV).

    Args:
        source: The file and the part of it; end_seconds beyond the file's end is cut there.
        request: What to decode.

    Yields:
        Clips in the order of time; failures in place of a clip that can't be made.

    Raises:
        ResourceError: PyAV isn't installed.
    """
    try:
        from raymc.features.decoding import clip_reader
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise ResourceError(
            "reading media needs PyAV, which is not installed: pip install 'raymc[media]'"
        ) from error
    yield from clip_reader.read_clips(source, request)
