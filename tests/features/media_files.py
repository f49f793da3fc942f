"""Small media files for tests, encoded with PyAV, whose pictures and sound are known.

The grey of a frame's picture tells its number; the sound is a sine.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter


@dataclass(frozen=True, kw_only=True)
class Video:
    """The pictures of a file.

    `times` (in seconds) takes the place of an even `fps`; `is_textured` or `is_numbered` (black and
    white blocks: the bits of the frame's number) that of plain greys. `start` is the time of the
    first frame. `keys` are the packets that are said to be key frames.
    """

    codec: str = "libx264"
    seconds: float = 4.0
    fps: int = 25
    times: Sequence[float] | None = field(default=None, hash=False)
    size: tuple[int, int] = (48, 64)
    pix_fmt: str = "yuv420p"
    options: Mapping[str, str] = field(default_factory=dict, hash=False)
    is_textured: bool = False
    is_numbered: bool = False
    start: float = 0.0
    keys: Literal["true", "all", "first"] = "true"
    rotation: float = 0.0
    is_mirrored: bool = False
    pixel_aspect: Fraction = Fraction(1)


@dataclass(frozen=True, kw_only=True)
class Sound:
    """The sound of a file: a sine of 0.5 on the first channel, 0.25 on the second.

    `is_stepped`: as loud as `loudness_of` each quarter of a second.
    """

    codec: str = "aac"
    seconds: float = 4.0
    start: float = 0.0
    rate_hz: int = 44_100
    layout: str = "stereo"
    sine_hz: float = 440.0
    is_stepped: bool = False


def grey_of(number: int) -> int:
    """The grey of frame `number`; neighbours are far apart for any codec."""
    return 20 + 5 * (number * 7 % 40)


BITS = 12


def numbered(number: int, height: int, width: int) -> np.ndarray:
    """A picture of 3 x 4 black and white blocks: the bits of a number."""
    bits = np.array([number >> k & 1 for k in range(BITS)], np.uint8).reshape(3, 4)
    rows, columns = np.arange(height) * 3 // height, np.arange(width) * 4 // width
    return np.repeat(bits[rows][:, columns][..., None] * 200 + 25, 3, axis=2)


def number_in(picture: np.ndarray) -> int:
    """The number that a picture of 12 x 16 pixels shows."""
    blocks = picture.mean(2).reshape(3, 4, 4, 4)[:, 1:3, :, 1:3].mean((1, 3)).ravel()
    return sum(1 << k for k in range(BITS) if blocks[k] > 125)


def loudness_of(seconds: np.ndarray) -> np.ndarray:
    """The amplitude of stepped sound at some times."""
    return np.array([0.1, 0.5, 0.2, 0.8, 0.35])[(4 * seconds).astype(int) * 2 % 5]


def textured(number: int, height: int, width: int) -> np.ndarray:
    """A picture with edges and colours that moves from frame to frame."""
    tile = np.random.default_rng(0).integers(0, 255, (height // 4 + 2, width // 4 + 4, 3))
    large = tile.astype(np.uint8).repeat(4, 0).repeat(4, 1)
    top, left = number % 8, (2 * number) % 16
    return np.ascontiguousarray(large[top : top + height, left : left + width])


def write_media(
    path: Path, video: Video | None = None, sound: Sound | None = None, **options: str
) -> Path:
    """Encode a file; the suffix names its format, `options` are those of the container.

    What was encoded not long ago is only copied.
    """
    path.write_bytes(_encoded(path.suffix, video, sound, tuple(options.items())))
    return path


@lru_cache(maxsize=32)
def _encoded(
    suffix: str, video: Video | None, sound: Sound | None, options: tuple[tuple[str, str], ...]
) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        _encode(path, video, sound, dict(options))
        return path.read_bytes()


def _encode(path: Path, video: Video | None, sound: Sound | None, options: dict[str, str]) -> None:
    with av.open(str(path), "w", options=options) as container:
        streams = []
        if video is not None:
            streams.append((_video_stream(container, video), _pictures(video)))
        if sound is not None:
            stream: Any = container.add_stream(
                sound.codec,
                rate=sound.rate_hz,
                layout=sound.layout,
                options={"aac_pns": "0"} if sound.codec == "aac" else {},  # decodes to chance
            )
            streams.append((stream, _samples(sound)))
        frames = [(time, k, frame) for k, (_, many) in enumerate(streams) for time, frame in many]
        packets = (
            packet
            for _, k, frame in sorted(frames, key=lambda item: item[:2])
            for packet in streams[k][0].encode(frame)
        )
        rest = (packet for stream, _ in streams for packet in stream.encode())
        for number, packet in enumerate(chain(packets, rest)):
            if video is not None and video.keys != "true" and packet.stream is streams[0][0]:
                packet.is_keyframe = video.keys == "all" or number == 0
            container.mux(packet)


def _video_stream(container: Any, video: Video) -> Any:
    fast = {"preset": "veryfast"} if video.codec == "libx264" else {}
    options = {**fast, **video.options}
    stream = container.add_stream(video.codec, rate=video.fps, options=options)
    stream.height, stream.width = video.size
    stream.pix_fmt = video.pix_fmt
    stream.codec_context.sample_aspect_ratio = video.pixel_aspect
    if video.times is not None:
        stream.codec_context.time_base = Fraction(1, 1000)
    if video.rotation or video.is_mirrored:
        stream.set_display_rotation(video.rotation, hflip=video.is_mirrored)
    return stream


def _pictures(video: Video) -> Iterator[tuple[float, av.VideoFrame]]:
    unit = Fraction(1, video.fps if video.times is None else 1000)
    reformatter = VideoReformatter()  # one for all: `VideoFrame.reformat` makes one for each frame
    times = video.times or [
        number / video.fps for number in range(round(video.seconds * video.fps))
    ]
    for number, time in enumerate(times):
        pixels = np.full((*video.size, 3), grey_of(number), np.uint8)
        if video.is_textured:
            pixels = textured(number, *video.size)
        elif video.is_numbered:
            pixels = numbered(number, *video.size)
        picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = reformatter.reformat(picture, format=video.pix_fmt, threads=1)
        frame.pts, frame.time_base = round((time + video.start) / unit), unit
        yield time + video.start, frame


def _samples(sound: Sound) -> Iterator[tuple[float, av.AudioFrame]]:
    total, block = round(sound.seconds * sound.rate_hz), 1024
    channels = av.AudioLayout(sound.layout).nb_channels
    for first in range(0, total, block):
        numbers = np.arange(first, min(first + block, total))
        samples = np.zeros((len(numbers), channels), np.float32)
        seconds = numbers / sound.rate_hz
        loudness = loudness_of(seconds) if sound.is_stepped else 0.5
        samples[:, 0] = loudness * np.sin(2 * np.pi * sound.sine_hz * seconds)
        if channels > 1:
            samples[:, 1] = samples[:, 0] / 2
        frame = av.AudioFrame.from_ndarray(
            samples.reshape(1, -1), format="flt", layout=sound.layout
        )
        frame.sample_rate, frame.time_base = sound.rate_hz, Fraction(1, sound.rate_hz)
        frame.pts = first + round(sound.start * sound.rate_hz)
        yield sound.start + first / sound.rate_hz, frame
