"""What browsers play of media files, and copies of those that they don't."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.container import InputContainer, OutputContainer
from av.video.frame import VideoFrame

from raymc.errors import DataError
from raymc.features.decoding.faults import FAULTS, reason
from raymc.features.decoding.media_file import is_cover, open_container
from raymc.features.decoding.shown import orientation

_MOST_HEIGHT, _MOST_FPS = 480, 30
_SAMPLE_RATE_HZ = 44_100
_GAP_SECONDS = 0.1  # of sound, that is kept as one
_SEEK_SECONDS = 5.0  # before a part, where FFmpeg begins to read: its index may be rough
_TICKS = Fraction(1, 90_000)
# By container: the codecs of pictures and sound that Chromium, Firefox and Safari all play.
_PLAYED = {
    "mov,mp4,m4a,3gp,3g2,mj2": ({"h264", "vp9", "av1"}, {"aac", "mp3", "opus", "flac"}),
    "matroska,webm": ({"vp8", "vp9", "av1"}, {"opus", "vorbis"}),
    "mp3": (set[str](), {"mp3"}),
    "wav": (set[str](), {"pcm_s16le", "pcm_u8", "pcm_f32le"}),
}
_SUFFIXES = {"matroska,webm": ".webm"}  # other Matroska files are played by some browsers only


def look(path: str) -> tuple[float | None, bool]:
    """Return how many seconds a file lasts, if its header knows, and whether browsers play it.

    Raises:
        DataError: It can't be opened as media.
    """
    try:
        with open_container(path) as container:
            seconds = None if container.duration is None else container.duration / av.time_base
            return seconds, _is_played(path, container)
    except (*FAULTS, OSError) as error:
        raise DataError(reason(error)) from error


def _is_played(path: str, container: InputContainer) -> bool:
    name = container.format.name
    pictures, sounds = _PLAYED.get(name, (set[str](), set[str]()))
    if "://" in path or not path.lower().endswith(_SUFFIXES.get(name, "")):
        return False
    seen = all(
        one.codec_context.name.removeprefix("lib").removesuffix("-vp9") in pictures
        and one.codec_context.pix_fmt in ("yuv420p", "yuvj420p")
        for one in container.streams.video
        if not is_cover(one)
    )
    return seen and all(one.codec_context.name in sounds for one in container.streams.audio)


def write_copy(
    path: str,
    out: Path,
    *,
    on_seconds: Callable[[float], None],
    part: tuple[float, float] = (0.0, math.inf),
    most_height: int = _MOST_HEIGHT,
) -> None:
    """Write what browsers play: H.264, upright, and AAC, in an MP4 file.

    What can't be decoded is left out.

    Args:
        path: Of the file.
        out: Of the copy.
        on_seconds: Called with the seconds that are done.
        part: The start and end of what is copied, in seconds.
        most_height: Lines of a picture.

    Raises:
        DataError: It can't be opened as media, or nothing of it can be decoded.
    """
    try:
        with open_container(path) as source:
            picture = _first_picture(source, most_height)
        with (
            open_container(path) as source,
            av.open(str(out), "w", format="mp4", options={"movflags": "faststart"}) as target,
        ):
            _copy(source, target, picture, part, on_seconds)
    except (*FAULTS, OSError) as error:
        raise DataError(reason(error)) from error


def _copy(
    source: InputContainer,
    target: OutputContainer,
    picture: np.ndarray | None,
    part: tuple[float, float],
    on_seconds: Callable[[float], None],
) -> None:
    begin, (start, end) = (source.start_time or 0) / av.time_base, part
    sound = next(iter(source.streams.audio), None)
    seen: Any = None if picture is None else _video_stream(target, picture)
    heard: Any = target.add_stream("aac", rate=_SAMPLE_RATE_HZ, layout="stereo") if sound else None
    resampler = AudioResampler(format="fltp", layout="stereo", rate=_SAMPLE_RATE_HZ)
    target.start_encoding()
    last, samples = -1.0, 0
    wanted = [one for one in (seen and _pictures(source), sound) if one is not None]
    if start > _SEEK_SECONDS:
        source.seek(round((begin + start - _SEEK_SECONDS) * av.time_base))
    ended = set[int]()
    for packet in source.demux(wanted):
        if len(ended) == len(wanted):
            break
        for frame in _frames(packet):
            seconds = max(0.0, (frame.time or 0.0) - begin) - start
            if start + seconds >= end:
                ended.add(packet.stream.index)
                break
            if seconds < 0:
                continue
            if isinstance(frame, VideoFrame):
                if seconds - last < 0.9 / _MOST_FPS:
                    continue
                last = seconds
                made = av.VideoFrame.from_ndarray(_upright(frame, seen.height), format="rgb24")
                made = made.reformat(seen.width, seen.height, "yuv420p")
                made.pts, made.time_base = round(seconds / _TICKS), _TICKS
                target.mux(seen.encode(made))
                on_seconds(seconds)
            else:
                if abs(seconds * _SAMPLE_RATE_HZ - samples) > _GAP_SECONDS * _SAMPLE_RATE_HZ:
                    samples = max(samples, round(seconds * _SAMPLE_RATE_HZ))
                for sounds in resampler.resample(frame):
                    sounds.pts, sounds.time_base = samples, Fraction(1, _SAMPLE_RATE_HZ)
                    samples += sounds.samples
                    target.mux(heard.encode(sounds))
    if last < 0 and not samples:
        raise DataError("nothing of it can be decoded")
    for stream in (seen, heard):
        if stream is not None:
            target.mux(stream.encode(None))


def _pictures(source: InputContainer) -> Any:
    return next((one for one in source.streams.video if not is_cover(one)), None)


def _first_picture(source: InputContainer, most_height: int) -> np.ndarray | None:
    stream = _pictures(source)
    packets = source.demux(stream) if stream is not None else ()
    frames = (frame for packet in packets for frame in _frames(packet))
    return next((_upright(frame, most_height) for frame in frames), None)


def _frames(packet: Any) -> Iterator[Any]:
    try:
        yield from packet.decode()
    except FAULTS:
        return


def _upright(frame: VideoFrame, most_height: int) -> np.ndarray:
    """Return a frame as RGB, no higher than a copy is, both sides even."""
    turned, upright = orientation(frame)
    high = frame.width if turned else frame.height
    scale = min(1.0, most_height / high)
    width, height = (max(2, round(x * scale / 2) * 2) for x in (frame.width, frame.height))
    return np.ascontiguousarray(upright(frame.reformat(width, height, "rgb24").to_ndarray()))


def _video_stream(target: OutputContainer, picture: np.ndarray) -> Any:
    stream: Any = target.add_stream("libx264", rate=_MOST_FPS)
    stream.height, stream.width = picture.shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = _TICKS
    stream.options = {"preset": "veryfast", "crf": "28"}
    return stream
