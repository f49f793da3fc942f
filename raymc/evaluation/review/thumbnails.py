"""Frames of clips as small pictures inside a page, decoded in a child process: FFmpeg may crash."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
from jaxtyping import UInt8

from raymc.errors import first_line
from raymc.features.clips import Clip, ClipRequest, Failure, Picture
from raymc.features.media import read_clips
from raymc.features.sources import Source
from raymc.runtime.child_process import limit_cpu, received

FRAMES = 3  # of a clip, in the middle of each third
_HEIGHT, _MOST_WIDTH = 96, 216
_QUALITY = 70
_STUCK_SECONDS = 60.0  # of CPU time for a clip


@dataclass(frozen=True)
class Thumbnails:
    """Pictures of a clip as addresses that hold them, or why there are none."""

    pictures: tuple[str, ...] = ()
    reason: str = ""


def thumbnails_of(places: Sequence[tuple[str, float, float]]) -> Iterator[Thumbnails]:
    """Iterate over pictures of each clip, given its path, and its start and end in seconds."""
    return received(_send, places, lost=lambda error: Thumbnails(reason=f"its decoder {error}"))


def _send(connection: Connection, places: Sequence[tuple[str, float, float]]) -> None:
    for place in places:
        limit_cpu(_STUCK_SECONDS)
        try:
            found = _thumbnails(*place)
        except Exception as error:  # a page may lack pictures for any reason
            found = Thumbnails(reason=first_line(error))
        limit_cpu(0)
        connection.send(found)


def _thumbnails(path: str, start: float, end: float) -> Thumbnails:
    source = Source(path=path, id=path, start_seconds=start, end_seconds=end)
    request = ClipRequest(
        fps=min(1000, FRAMES / max(end - start, 0.01)),
        picture=Picture(height=_HEIGHT, width=_width(path)),
        sample_rate_hz=None,
    )
    for clip in read_clips(source, request):
        if isinstance(clip, Clip) and clip.frames is not None:
            return Thumbnails(tuple(_address(frame) for frame in clip.frames[:FRAMES]))
        failures = [clip] if isinstance(clip, Failure) else clip.failures
        return Thumbnails(reason="; ".join(failure.error for failure in failures))
    return Thumbnails(reason="it has no pictures")


def _width(path: str) -> int:
    """Return the width of a picture of `_HEIGHT` that has the video's shape."""
    from raymc.features.decoding.media_file import open_media

    with open_media(path) as file:
        video = file.video
        if video is None or not video.width or not video.height:
            return _MOST_WIDTH
        shape = video.width / video.height * float(video.sample_aspect_ratio or 1)
    return int(np.clip(round(_HEIGHT * shape), _HEIGHT // 2, _MOST_WIDTH))


def _address(frame: UInt8[np.ndarray, "H W 3"]) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "jpeg", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
