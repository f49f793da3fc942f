"""Sources to clips: reads window by window, and reports what is missing in each."""

import math
from collections.abc import Iterator
from dataclasses import replace
from math import floor

import numpy as np
from jaxtyping import Float32, UInt8

from raymc.errors import DataError
from raymc.features.clips import Clip, ClipRequest, Failure
from raymc.features.decoding.faults import FAULTS, reason
from raymc.features.decoding.media_file import MediaFile, open_media
from raymc.features.decoding.reading import TOO_LONG, Reading, Windows
from raymc.features.decoding.shown import PictureMaker
from raymc.features.decoding.sound import WARM_UP_SECONDS, Sound
from raymc.features.decoding.video_frames import VideoFrames
from raymc.features.sources import Source

CLIP_BYTES = 2 << 30  # of one clip's pictures and sound at most
_MISSED_SECONDS = 1.0  # by which a file may end earlier than it was said to
_BEYOND_SECONDS = 1e-3  # the end of a window, to tell whether the source continues
_SKIP_SECONDS = 10.0  # between two windows, from which on it is worth seeking
_NO_STREAM = {
    (True, True): ("open", "neither video nor sound"),
    (True, False): ("video", "no video"),
    (False, True): ("audio", "no sound"),
}


def read_clips(source: Source, request: ClipRequest) -> Iterator[Clip | Failure]:
    """Decode a source; see `media.read_clips`."""
    try:
        with open_media(source.path) as file:
            yield from _Reader(source, request, file).clips()
    except (*FAULTS, DataError) as error:
        yield Failure(path=source.path, id=source.id, stage="open", error=reason(error))


class _Reader:
    def __init__(self, source: Source, request: ClipRequest, file: MediaFile) -> None:
        self._source = source
        self._request = request
        self._file = file
        self._video_stream = file.video if request.picture else None
        self._audio_stream = file.audio if request.sample_rate_hz else None
        streams = [stream for stream in (self._video_stream, self._audio_stream) if stream]
        self._has_streams = bool(streams)
        self._duration = file.duration(streams)
        ends = [end for end in (source.end_seconds, self._duration) if end is not None]
        self._said_end = ends[0] if ends else None
        window = request.window_seconds or math.inf
        stride = request.stride_seconds or window
        self._windows = Windows(
            source.start_seconds, min(ends, default=math.inf), window, stride, request.fps
        )
        self._has_told = False  # that the file ends early
        self._longest = CLIP_BYTES / _bytes_per_second(request)

    def clips(self) -> Iterator[Clip | Failure]:
        """Yield what `media.read_clips` does."""
        windows = self._windows
        if not self._has_streams or windows.start >= windows.end:
            yield self._nothing()
            return
        has_gaps = windows.stride - windows.window >= _SKIP_SECONDS
        skips = has_gaps and self._file.seeks and self._duration is not None
        self._begin(0)
        is_whole = not self._exists(1)
        k = 0
        while True:
            yield from self._clip(k, is_whole=is_whole)
            if not self._exists(k + 1):
                break
            k += 1
            if skips:
                self._begin(k)
        if self._is_short and not self._has_told:
            yield self._failure(self._source.id, "open", self._shortfall)

    def _begin(self, k: int) -> None:
        """Begin a pass over the file at window k."""
        second = max(floor(self._windows.begin_of(k)) - WARM_UP_SECONDS, 0)
        video, sound = None, None
        if self._video_stream is not None and self._request.picture is not None:
            stream = self._video_stream
            maker = PictureMaker(self._request.picture, float(stream.sample_aspect_ratio or 1))
            at_key = second > 0 and self._file.seeks
            video = VideoFrames(stream, self._file.clock(stream), maker, at_key=at_key)
        if self._audio_stream is not None and self._request.sample_rate_hz is not None:
            stream = self._audio_stream
            rate = self._request.sample_rate_hz
            sound = Sound(stream, self._file.clock(stream), rate_hz=rate, first_second=second)
        self._video, self._sound = video, sound
        self._reading = Reading(
            self._file, video, sound, windows=self._windows, from_seconds=float(second)
        )

    def _exists(self, k: int) -> bool:
        if self._duration is None:
            least = self._windows.begin_of(k) + self._windows.shortest
            beyond = self._windows.end_of(k - 1) + _BEYOND_SECONDS
            self._read_to(max(least, beyond), k - 1)
        return self._windows.exists(k)

    def _read_to(self, seconds: float, k: int) -> None:
        """Read further for window k, and learn where the file ends if it does."""
        self._reading.read_to(seconds, longest=self._windows.begin_of(k) + self._longest)
        if self._reading.has_ended:
            tolerance = 0.0 if self._duration is None else _MISSED_SECONDS
            end = max(self._reading.end_seconds, self._windows.start)
            if end < self._windows.end - tolerance:
                self._windows = replace(self._windows, end=end)

    def _clip(self, k: int, *, is_whole: bool) -> Iterator[Clip | Failure]:
        self._read_to(self._windows.end_of(k), k)
        begin, end = self._windows.begin_of(k), self._windows.end_of(k)
        if end - begin > self._longest:
            raise DataError(TOO_LONG)
        if not self._windows.exists(k) or end <= begin:
            yield self._nothing()
            return
        name = self._source.id if is_whole else f"{self._source.id}@{begin:g}-{end:g}"
        frames, video_trouble = self._frames(k)
        waveform, sound_trouble = self._waveform(k)
        troubles = [("video", video_trouble), ("audio", sound_trouble)]
        is_empty = frames is None and waveform is None
        if k == 0 and not is_empty:
            troubles.insert(0, ("open", self._file.opening_trouble))
        if self._is_short and not self._windows.exists(k + 1):
            troubles.insert(0, ("open", self._shortfall))
            self._has_told = True
        failures = tuple(self._failure(name, stage, text) for stage, text in troubles if text)
        if is_empty:
            yield from failures
            return
        yield Clip(
            id=name,
            start_seconds=begin,
            end_seconds=end,
            frames=frames,
            waveform=waveform,
            failures=failures,
        )

    def _frames(self, k: int) -> tuple[UInt8[np.ndarray, "T H W 3"] | None, str]:
        if self._request.picture is None:
            return None, ""
        if self._video is None:
            return None, "the file has no video that can be decoded"
        keep_from = min(self._windows.begin_of(k + 1), self._windows.end)
        return self._video.display.take(self._windows.middles(k), keep_from)

    def _waveform(self, k: int) -> tuple[Float32[np.ndarray, " S"] | None, str]:
        if self._request.sample_rate_hz is None:
            return None, ""
        if self._sound is None:
            return None, "the file has no sound that can be decoded"
        begin, end = self._windows.begin_of(k), self._windows.end_of(k)
        self._sound.forget(begin)
        return self._sound.waveform(begin, end, is_last=end == self._windows.end)

    @property
    def _is_short(self) -> bool:
        return self._said_end is not None and self._windows.end < self._said_end - _MISSED_SECONDS

    @property
    def _shortfall(self) -> str:
        return f"the file ends at {self._windows.end:.1f} s, expected {self._said_end:.1f} s"

    def _nothing(self) -> Failure:
        """Return the reason why there is no clip at all."""
        if not self._has_streams:
            wanted = (self._request.picture is not None, self._request.sample_rate_hz is not None)
            stage, what = _NO_STREAM[wanted]
            return self._failure(self._source.id, stage, f"the file has {what} that can be decoded")
        begin, end = self._windows.start, self._windows.end
        error = f"there is nothing after {begin:.1f} s: the file ends at {end:.1f} s"
        self._has_told = True
        return self._failure(self._source.id, "open", self._shortfall if self._is_short else error)

    def _failure(self, name: str, stage: str, error: str) -> Failure:
        return Failure(path=self._source.path, id=name, stage=stage, error=error)


def _bytes_per_second(request: ClipRequest) -> float:
    total = 4.0 * (request.sample_rate_hz or 0)
    if request.picture is not None:
        total += request.fps * request.picture.height * request.picture.width * 3
    return total
