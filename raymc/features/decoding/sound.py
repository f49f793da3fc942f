"""Packets of an audio stream to mono sound at the wanted rate, placed by their times.

Imports av and numpy. `resampling.py` says why libswresample does it.

Axes: S samples, N samples at the rate of the file, C channels.
"""

from math import floor

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.packet import Packet
from jaxtyping import Float32, Shaped

from raymc.features.decoding.faults import FAULTS, ErrorLog, reason
from raymc.features.decoding.packet_times import Clock
from raymc.features.decoding.resampling import Filter, Segment

WARM_UP_SECONDS = 1  # of sound before the first wanted sample: decoder and filter settle in it
_SILENCE_SECONDS = 2.0  # a longer gap isn't filled, but begins a new segment
_EARLY_SECONDS = 1.0  # by which sound may end before the clip does, without a failure
_NEAR_SECONDS = 0.25  # of damage, which a codec may carry over to its neighbours
_ENDLESS_PLANES = 8  # channels, from which on av misses the last plane and reads beyond it
_RATES_HZ = (1000, 768_000)
_ERRORS_IN_A_ROW = 1000  # after which the stream is given up


class Sound:
    """The sound of one stream from a whole second on.

    Args:
        stream: Its decoder must be fresh or flushed.
        clock: Its clock.
        rate_hz: The wanted rate.
        first_second: Sound before isn't wanted.
    """

    def __init__(
        self, stream: AudioStream, clock: Clock, *, rate_hz: int, first_second: int
    ) -> None:
        self._codec = stream.codec_context
        self._clock = clock
        self._log = ErrorLog()
        self._rate_hz = rate_hz
        self._second = first_second
        self._segments: list[Segment] = []
        self._troubles: list[tuple[float, float, str]] = []
        self._errors = 0
        self._position = float(first_second)  # time of the last packet
        self.end_seconds = 0.0

    def has(self, seconds: float) -> bool:
        """Whether all sound before a time is there."""
        return bool(self._segments) and self._segments[-1].done_seconds >= seconds

    def feed(self, packet: Packet | None) -> None:
        """Take the next packet of the stream; None: take what the decoder holds back."""
        if self._errors >= _ERRORS_IN_A_ROW:
            return
        if packet is not None and packet.pts is not None:
            self._position = self._clock.seconds(packet.pts)
        self._log.start()
        try:
            frames = self._codec.decode(packet)
            self._errors = 0
        except FAULTS as error:
            frames = []
            self._errors += 1
            self.disturb(reason(error))
        if trouble := self._log.last():
            self.disturb(trouble)
        for frame in frames:
            self._place(frame)

    def finish(self) -> None:
        """Take the rest: there are no more packets."""
        self.feed(None)
        if self._segments:
            self._segments[-1].close()

    def disturb(self, trouble: str) -> None:
        """Sound about here can't be trusted."""
        self._note(self._position, self._position, trouble)

    def waveform(
        self, start_seconds: float, end_seconds: float, *, is_last: bool
    ) -> tuple[Float32[np.ndarray, " S"] | None, str]:
        """The sound between two times, silent where there is none.

        Args:
            start_seconds: The first.
            end_seconds: The second.
            is_last: Whether the file ends there: sound often ends somewhat before the pictures.

        Returns:
            The samples, None where there are none at all; and what is wrong, or nothing.
        """
        first = round(start_seconds * self._rate_hz)
        samples = np.zeros(round((end_seconds - start_seconds) * self._rate_hz), np.float32)
        copied = [segment.copy_into(samples, first) for segment in self._segments]
        here = (
            text
            for start, end, text in self._troubles
            if start < end_seconds and start_seconds < end
        )
        trouble = next(here, "")
        if not any(copied):
            return None, trouble or "there is no sound here"
        if not np.isfinite(samples).all():
            np.nan_to_num(samples, copy=False)
            trouble = "NaN or infinity among the samples"
        early = end_seconds - self.end_seconds
        if not trouble and early > (_EARLY_SECONDS if is_last else _NEAR_SECONDS):
            trouble = f"sound ends at {self.end_seconds:.1f} s, the clip at {end_seconds:.1f} s"
        return np.clip(samples, -1, 1, out=samples), trouble

    def forget(self, before_seconds: float) -> None:
        """Sound before a time isn't asked for again."""
        for segment in self._segments:
            segment.forget(before_seconds)
        self._segments[:-1] = [segment for segment in self._segments[:-1] if segment.blocks]
        self._troubles = [trouble for trouble in self._troubles if trouble[1] > before_seconds]

    def _note(self, start: float, end: float, trouble: str) -> None:
        self._troubles.append((start - _NEAR_SECONDS, end + _NEAR_SECONDS, trouble))

    def _place(self, frame: AudioFrame) -> None:
        """Add a frame's samples where its time says, silence before them where some are missing."""
        rate = frame.sample_rate
        if not _RATES_HZ[0] <= rate <= _RATES_HZ[1]:
            self.disturb(f"a sample rate of {rate} Hz")
            return
        try:
            samples = _channels(frame)
        except FAULTS as error:
            self.disturb(reason(error))
            return
        segment = self._segments[-1] if self._segments else None
        expected = segment.end_seconds if segment else float(self._second)
        start = expected if frame.pts is None else self._clock.seconds(frame.pts)
        if segment is None:
            segment = self._begin(start, rate)
        elif rate != segment.from_hz or start > expected + _SILENCE_SECONDS:
            is_gap = rate == segment.from_hz
            change = "is missing here" if is_gap else f"changes from {segment.from_hz} to {rate} Hz"
            self._note(expected, start, f"sound {change}")
            segment = self._begin(start, rate)
        gap = round((start - segment.second) * rate) - segment.count
        if abs(gap) > max(samples.shape[1] // 2, rate // 200) or segment.count == 0:
            if segment.count and gap > 0:
                self._note(expected, start, "sound is interrupted here")
            elif segment.count:
                self._note(start, expected, "sound overlaps here")
            segment.add(np.zeros((1, max(gap, 0)), np.float32))
            samples = samples[:, max(-gap, 0) :]
        segment.add(samples)
        self.end_seconds = segment.end_seconds

    def _begin(self, start: float, rate: int) -> Segment:
        if self._segments:
            self._segments[-1].close()
        segment = Segment(max(self._second, floor(start)), start, rate, self._rate_hz)
        self._segments.append(segment)
        return segment


def _channels(frame: AudioFrame) -> Shaped[np.ndarray, "C N"]:
    if not frame.format.is_planar:
        return frame.to_ndarray().reshape(frame.samples, -1).T
    count = frame.layout.nb_channels
    if count < _ENDLESS_PLANES:
        return frame.to_ndarray()
    mean = "+".join(f"{1 / count}*c{i}" for i in range(count))
    mix = Filter(
        "pan",
        f"mono|c0={mean}",
        rate_hz=frame.sample_rate,
        sample_format=frame.format.name,
        layout=frame.layout.name,
    )
    return np.concatenate(mix.put(frame))[None]
