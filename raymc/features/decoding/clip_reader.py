"""Sources to clips: reads window by window, and reports what is missing in each."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from math import floor
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, UInt8

from raymc.errors import DataError
from raymc.features.clips import Clip, ClipRequest, Failure
from raymc.features.decoding.faults import FAULTS, reason
from raymc.features.decoding.media_file import open_media
from raymc.features.decoding.reading import TOO_LONG, Reading, Windows
from raymc.features.decoding.shown import PictureMaker, UnprovenError
from raymc.features.decoding.sound import WARM_UP_SECONDS, Sound
from raymc.features.decoding.timeline import LONGEST_STILL_SECONDS, Gap
from raymc.features.decoding.video_frames import VideoFrames
from raymc.features.sources import Source

CLIP_BYTES = 2 << 30  # of one clip's pictures and sound at most
_MISSED_SECONDS = 1.0  # by which a file may end earlier than it was said to
_GUESSED_SECONDS = 0.25  # by which a guess at the end may be too early
_BEYOND_SECONDS = 1e-3  # the end of a window, to tell whether the source continues
_SKIP_SECONDS = 10.0  # between two windows, from which on it is worth seeking
_T = TypeVar("_T")
_NO_STREAM = {
    (True, True): ("open", "neither video nor sound"),
    (True, False): ("video", "no video"),
    (False, True): ("audio", "no sound"),
}


def read_clips(
    source: Source, request: ClipRequest, on_packet: Callable[[], None]
) -> Iterator[Clip | Failure]:
    """Decode a source; see `media.read_clips`."""
    try:
        with ExitStack() as opened:
            yield from _Reader(source, request, on_packet, opened).clips()
    except (*FAULTS, DataError) as error:
        yield Failure(path=source.path, id=source.id, stage="open", error=reason(error))


class _Reader:
    def __init__(
        self,
        source: Source,
        request: ClipRequest,
        on_packet: Callable[[], None],
        opened: ExitStack,
    ) -> None:
        self._source = source
        self._request = request
        self._on_packet = on_packet
        self._opened = opened
        self._open()
        self._has_streams = bool(self._streams)
        self._duration = self._file.duration(self._streams)
        self._guess = self._file.guessed_duration(self._streams)
        ends = [end for end in (source.end_seconds, self._duration) if end is not None]
        self._said_end = ends[0] if ends else None
        self._most = min(ends, default=math.inf)
        end = min(self._most, self._guess or math.inf)
        window = request.window_seconds or math.inf
        stride = request.stride_seconds or window
        self._windows = Windows(source.start_seconds, end, window, stride, request.fps)
        self._may_skip = True
        self._has_told = False  # that the file ends early
        self._told_seconds = -math.inf  # where the last gap ends that was told
        self._longest = CLIP_BYTES / _bytes_per_second(request)

    def clips(self) -> Iterator[Clip | Failure]:
        """Yield what `media.read_clips` does."""
        windows = self._windows
        if not self._has_streams or windows.start >= windows.end:
            yield self._nothing()
            return
        has_gaps = windows.stride - windows.window >= _SKIP_SECONDS
        seeks = has_gaps and self._file.seeks and self._duration is not None
        self._begin(0)
        is_whole = not self._proven(0, lambda: self._exists(1))
        k = 0
        exists = True
        while exists:
            gap = self._proven(k, partial(self._gap_at, k))
            if gap is None:
                yield from self._proven(k, partial(self._clip, k, is_whole=is_whole))
                following = k + 1
            else:
                following = self._windows.after(gap, k)
                yield from self._told(gap)
                self._reading.pass_gap(gap, self._windows.begin_of(following))
            exists = self._windows.begin_of(following) < math.inf and (
                following == k or self._proven(k, partial(self._exists, following))
            )
            if exists and seeks and self._may_skip and following > k:
                self._begin(following)
            k = following
        for gap in self._reading.gaps:
            if gap.start < self._most:
                yield from self._told(gap)
        if self._is_short and not self._has_told and self._told_seconds < self._windows.end:
            yield self._failure(self._source.id, "open", self._shortfall)

    def _proven(self, k: int, find: Callable[[], _T]) -> _T:
        """What is found from window k on; all is decoded where decoding less isn't the same."""
        try:
            return find()
        except UnprovenError:
            self._may_skip = False
            self._begin(k)
            return find()

    def _open(self) -> None:
        self._opened.close()
        self._file = self._opened.enter_context(open_media(self._source.path, self._on_packet))
        self._is_untouched = True
        self._video_stream = self._file.video if self._request.pictures else None
        self._audio_stream = self._file.audio if self._request.sample_rate_hz else None
        streams = (self._video_stream, self._audio_stream)
        self._streams = [stream for stream in streams if stream is not None]

    def _begin(self, k: int) -> None:
        """Begin a pass over the file for window k and those after it."""
        second = max(floor(self._windows.begin_of(k)) - WARM_UP_SECONDS, 0)
        begin = float(second)
        packets = None
        if second > 0 and self._may_skip and self._file.seeks:
            self._is_untouched = False
            packets = self._file.packets_from(self._streams, begin)
        has_sought = packets is not None
        if packets is None:
            if not self._is_untouched:
                self._open()
            self._is_untouched = False
            packets = self._file.packets(self._streams)
        video, sound = None, None
        if (stream := self._video_stream) is not None:
            aspect = float(stream.sample_aspect_ratio or 1)
            video = VideoFrames(
                stream,
                self._file.clock(stream),
                [PictureMaker(picture, aspect) for picture in self._request.pictures.values()],
                is_ordered=self._file.is_ordered,
                may_skip=self._may_skip,
                from_seconds=begin if has_sought else 0.0,
            )
        if (stream := self._audio_stream) is not None and self._request.sample_rate_hz is not None:
            sound = Sound(
                stream,
                self._file.clock(stream),
                rate_hz=self._request.sample_rate_hz,
                first_second=second,
                is_fragmented=self._file.is_fragmented,
            )
        self._video, self._sound = video, sound
        windows = (self._windows, replace(self._windows, end=self._most))
        self._reading = Reading(
            self._file, packets, video, sound, windows=windows, from_seconds=begin
        )

    def _exists(self, k: int) -> bool:
        if self._duration is None and self._guess is None:
            least = self._windows.begin_of(k) + self._windows.shortest
            beyond = self._windows.end_of(k - 1) + _BEYOND_SECONDS
            self._read_to(max(least, beyond), k - 1)
        elif self._guess is not None and not self._windows.exists(k):
            self._read_to(self._windows.end, k - 1)
            return self._exists(k) if self._guess is None else self._windows.exists(k)
        return self._windows.exists(k)

    def _gap_at(self, k: int) -> Gap | None:
        """Read for window k, and return the gap in which it begins, if it does."""
        if self._windows.begin_of(k) < self._windows.end:
            self._read_to(self._windows.end_of(k), k)
        least = self._windows.shortest if k else 0.0
        gap = self._reading.gap_at(self._windows.begin_of(k) + least)
        return gap if self._windows.exists(k) else None

    def _told(self, gap: Gap) -> list[Failure]:
        """That there is nothing in a gap, unless a clip has told it already."""
        if gap.end <= self._told_seconds:
            return []
        self._told_seconds = gap.end
        error = f"times jump from {gap.start:.1f} s to {gap.end:.1f} s, with nothing in between"
        if self._windows.window > LONGEST_STILL_SECONDS:
            error += "; to read what follows, set window_seconds to an hour or less"
        return [self._failure(self._source.id, "open", error)]

    def _read_to(self, seconds: float, k: int) -> None:
        """Read further for window k, and learn where the file ends if it does."""
        longest = self._windows.begin_of(k) + self._longest
        self._reading.read_to(seconds, longest=longest)
        if self._guess is not None and seconds >= self._guess:
            beyond = self._guess + _GUESSED_SECONDS
            self._reading.read_to(beyond, longest=longest)
            if self._reading.end_seconds > beyond:
                self._guess = None
                self._windows = replace(self._windows, end=self._most)
        if self._reading.has_ended:
            is_known = self._duration is not None or self._guess is not None
            tolerance = _MISSED_SECONDS if is_known else 0.0
            end = max(self._reading.end_seconds, self._windows.start)
            if end < self._windows.end - tolerance:
                self._windows = replace(self._windows, end=end)

    def _clip(self, k: int, *, is_whole: bool) -> list[Clip | Failure]:
        begin, end = self._windows.begin_of(k), -math.inf
        while end < self._windows.end_of(k):  # a guess at the end may turn out too low
            end = self._windows.end_of(k)
            self._read_to(end, k)
        windows, gap = self._windows, self._reading.gap_at(self._windows.end_of(k))
        if gap is not None:  # where it begins, the clip ends, as soon as it has a picture
            least = 0.6 / self._request.fps if self._request.pictures else 0.0
            cut = max(gap.start, begin + least)
            windows = replace(windows, end=min(windows.end, cut))
        end = windows.end_of(k)
        if end - begin > self._longest:
            raise DataError(TOO_LONG)
        if not self._windows.exists(k) or end <= begin:
            return [self._nothing()]
        name = self._source.id if is_whole else f"{self._source.id}@{_named(begin)}-{_named(end)}"
        pictures, video_trouble = self._pictures(k, windows)
        waveform, sound_trouble = self._waveform(k, windows)
        troubles = [("video", video_trouble), ("audio", sound_trouble)]
        is_empty = not pictures and waveform is None
        if k == 0 and not is_empty:
            troubles.insert(0, ("open", self._file.opening_trouble))
        if self._is_short and not self._windows.exists(k + 1):
            troubles.insert(0, ("open", self._shortfall))
            self._has_told = True
        failures = tuple(self._failure(name, stage, text) for stage, text in troubles if text)
        if gap is not None and end < self._windows.end_of(k):
            failures = (*self._told(gap), *failures)
        if is_empty:
            return list(failures)
        return [
            Clip(
                id=name,
                start_seconds=begin,
                end_seconds=end,
                frames=pictures.get("frames"),
                screen=pictures.get("screen"),
                waveform=waveform,
                failures=failures,
            )
        ]

    def _pictures(
        self, k: int, windows: Windows
    ) -> tuple[dict[str, UInt8[np.ndarray, "T _ _ 3"]], str]:
        if not self._request.pictures:
            return {}, ""
        if self._video is None:
            return {}, "the file has no video that can be decoded"
        keep_from = min(self._windows.begin_of(k + 1), self._windows.end)
        found, trouble = self._video.display.take(windows.middles(k), keep_from)
        return dict(zip(self._request.pictures, found or ())), trouble

    def _waveform(self, k: int, windows: Windows) -> tuple[Float32[np.ndarray, " S"] | None, str]:
        if self._request.sample_rate_hz is None:
            return None, ""
        if self._sound is None:
            return None, "the file has no sound that can be decoded"
        begin, end = windows.begin_of(k), windows.end_of(k)
        self._sound.forget(begin)
        return self._sound.waveform(begin, end, is_last=end == windows.end)

    @property
    def _is_short(self) -> bool:
        return self._said_end is not None and self._windows.end < self._said_end - _MISSED_SECONDS

    @property
    def _shortfall(self) -> str:
        return f"the file ends at {self._windows.end:.1f} s, expected {self._said_end:.1f} s"

    def _nothing(self) -> Failure:
        """Return the reason why there is no clip at all."""
        if not self._has_streams:
            wanted = (bool(self._request.pictures), self._request.sample_rate_hz is not None)
            stage, what = _NO_STREAM[wanted]
            return self._failure(self._source.id, stage, f"the file has {what} that can be decoded")
        begin, end = self._windows.start, self._windows.end
        error = f"there is nothing after {begin:.1f} s: the file ends at {end:.1f} s"
        self._has_told = True
        return self._failure(self._source.id, "open", self._shortfall if self._is_short else error)

    def _failure(self, name: str, stage: str, error: str) -> Failure:
        return Failure(path=self._source.path, id=name, stage=stage, error=error)


def _named(seconds: float) -> str:
    """A time in the name of a clip; of those after a day, hundredths also tell clips apart."""
    return f"{seconds:g}" if seconds < 1e5 else f"{seconds:.2f}".rstrip("0").rstrip(".")


def _bytes_per_second(request: ClipRequest) -> float:
    total = 4.0 * (request.sample_rate_hz or 0)
    for picture in request.pictures.values():
        total += request.fps * picture.height * picture.width * 3
    return total
