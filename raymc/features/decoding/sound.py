"""Packets of an audio stream to mono sound at the wanted rate, placed by their times.

`Segment` resamples, by libswresample.

Axes: S samples, N samples at the rate of the file, C channels.
"""

from itertools import groupby
from math import floor
from typing import cast

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.filter import Graph
from av.packet import Packet
from jaxtyping import Float32, Shaped

from raymc.features.decoding.faults import FAULTS, ErrorLog, reason
from raymc.features.decoding.timeline import JUMP_SECONDS, Clock

# Resampling is libswresample's windowed sinc, not torchaudio's: it takes any two rates in constant
# memory (a kernel of torchaudio has as many phases as the rates have no common divisor), needs no
# torch in the processes that decode, and gives the same bits wherever one begins, if it begins at
# a whole second and continues in whole seconds, as `Segment` does.
_FULL_SCALE = {"u1": 128.0, "i2": 32768.0, "i4": 2147483648.0}  # by the type of a sample


class Segment:
    """A stretch of sound at one rate, without long gaps, resampled as it comes.

    Args:
        second: Where its first sample lies.
        start: From where on it is sound, not silence to fill the second.
        from_hz: Its rate.
        to_hz: The wanted rate.

    Attributes:
        count: Samples so far.
        blocks: Resampled so far, each with the number of its first sample since second 0.
        done_seconds: Where they end; infinite when no more will come.
    """

    def __init__(self, second: int, start: float, from_hz: int, to_hz: int) -> None:
        self.second = second
        self.from_hz = from_hz
        self.count = 0
        self.blocks: list[tuple[int, Float32[np.ndarray, " S"]]] = []
        self.done_seconds = float(second)
        self._first = round(max(start, second) * to_hz)
        self._to_hz = to_hz
        self._next = second * to_hz
        self._waiting: list[Shaped[np.ndarray, "C N"]] = []
        self._missing = from_hz  # samples until the next whole second
        self._resampler = Filter(
            "aresample", str(to_hz), rate_hz=from_hz, sample_format="flt", layout="mono"
        )

    @property
    def end_seconds(self) -> float:
        """The time after the last sample."""
        return self.second + self.count / self.from_hz

    def add(self, samples: Shaped[np.ndarray, "C N"]) -> None:
        """Append samples of some channels."""
        self.count += samples.shape[1]
        while samples.shape[1] >= self._missing:
            self._waiting.append(samples[:, : self._missing])
            samples = samples[:, self._missing :]
            self._resample_second()
        if samples.shape[1]:
            self._waiting.append(samples)
            self._missing -= samples.shape[1]

    def close(self) -> None:
        """Resample the rest: after it is silence."""
        if self.done_seconds == np.inf:
            return
        count = self.count
        self.add(np.zeros((1, self._missing + self.from_hz), np.float32))
        self.count = count
        self.done_seconds = np.inf

    def copy_into(self, samples: Float32[np.ndarray, " S"], first: int) -> bool:
        """Copy what there is into samples that begin at number `first`; tell whether any is."""
        begin = max(self._first, first)
        end = min(round(self.end_seconds * self._to_hz), first + len(samples))
        for at, block in self.blocks:
            low, high = max(begin, at), min(end, at + len(block))
            if low < high:
                samples[low - first : high - first] = block[low - at : high - at]
        return begin < end

    def forget(self, before_seconds: float) -> None:
        """Drop blocks that end before a time."""
        index = before_seconds * self._to_hz
        self.blocks = [(at, block) for at, block in self.blocks if at + len(block) > index]

    def _resample_second(self) -> None:
        kinds = groupby(self._waiting, lambda samples: (samples.dtype, len(samples)))
        alike = (list(group) for _, group in kinds)
        mono = np.concatenate([_mono(np.concatenate(group, axis=1)) for group in alike])
        self._waiting, self._missing = [], self.from_hz
        frame = AudioFrame.from_ndarray(mono[None], format="flt", layout="mono")
        frame.sample_rate = self.from_hz
        for block in self._resampler.put(frame):
            self.blocks.append((self._next, block))
            self._next += len(block)
        self.done_seconds = self._next / self._to_hz


class Filter:
    """One of FFmpeg's filters from sound to mono sound; one thread, where av starts many."""

    def __init__(
        self, name: str, settings: str, *, rate_hz: int, sample_format: str, layout: str
    ) -> None:
        self._graph = Graph()
        self._graph.threads = 1
        self._source = self._graph.add(
            "abuffer", sample_rate=str(rate_hz), sample_fmt=sample_format, channel_layout=layout
        )
        self._sink = self._graph.add("abuffersink")
        steps = [self._graph.add(name, settings), self._graph.add("aformat", "sample_fmts=flt")]
        self._graph.link_nodes(self._source, *steps, self._sink)
        self._graph.configure()

    def put(self, frame: AudioFrame) -> list[Float32[np.ndarray, " S"]]:
        """Put sound in, get what comes out so far."""
        self._source.push(frame)
        blocks = []
        while True:
            try:
                blocks.append(cast(AudioFrame, self._sink.pull()).to_ndarray()[0])
            except BlockingIOError:
                return blocks


def _mono(samples: Shaped[np.ndarray, "C N"]) -> Float32[np.ndarray, " N"]:
    """The mean of the channels, full scale at 1."""
    mono = samples[0] if len(samples) == 1 else samples.mean(axis=0, dtype=np.float32)
    mono = mono.astype(np.float32)
    kind = samples.dtype.str[1:]
    if kind == "u1":
        mono -= np.float32(128)
    return mono / np.float32(_FULL_SCALE.get(kind, 1.0))


WARM_UP_SECONDS = 1  # of sound before the first wanted sample: decoder and filter settle in it
_SILENCE_SECONDS = 2.0  # a longer gap isn't filled, but begins a new segment
_EARLY_SECONDS = 1.0  # by which sound may end before the clip does, without a failure
_NEAR_SECONDS = 0.25  # of damage, which a codec may carry over to its neighbours
_TOLERANCE_SECONDS = 0.005  # of the times in a file
_ENDLESS_PLANES = 8  # channels, from which on av misses the last plane and reads beyond it
_RATES_HZ = (1000, 768_000)
_ERRORS_IN_A_ROW = 1000  # after which the stream is given up


class Sound:
    """The sound of one stream from a whole second on; its decoder must be fresh or flushed.

    `rate_hz` is the wanted rate. Sound before `first_second` isn't wanted. In fragmented files
    whose times overlap a little, FFmpeg would leave out whole packets, which are kept here.
    """

    def __init__(
        self,
        stream: AudioStream,
        clock: Clock,
        *,
        rate_hz: int,
        first_second: int,
        is_fragmented: bool = False,
    ) -> None:
        self._codec = stream.codec_context
        self._clock = clock
        self._log = ErrorLog()
        self._rate_hz = rate_hz
        self._second = first_second
        self._keeps_all = is_fragmented
        # Frames by which a time may be wrong; in fragments, several in a row may be by one.
        self._slack = 2.5 if is_fragmented else 0.5
        self._segments: list[Segment] = []
        self._troubles: list[tuple[float, float, str]] = []
        self._errors = 0
        self._position = float(first_second)  # time of the last packet
        self._waiting: AudioFrame | None = None  # the next one must confirm its time
        self._joint = -np.inf  # the time of the last such packet
        self._leap = (0.0, 0.0)  # where the last long gap begins and ends
        self._until = 0.0  # the end of the last frame, as its packet has it
        self.end_seconds = 0.0

    def has(self, seconds: float) -> bool:
        """Whether all sound before a time is there."""
        is_settled = bool(self._segments) and self._waiting is None
        return is_settled and self._segments[-1].done_seconds >= seconds

    def feed(self, packet: Packet | None, *, begins_anew: bool = False) -> None:
        """Take the next packet of the stream; None: take what the decoder holds back.

        `begins_anew`: it is the first of another recording, which needn't fit seamlessly.
        """
        if self._errors >= _ERRORS_IN_A_ROW:
            return
        if packet is not None and packet.pts is not None:
            self._position = self._clock.seconds(packet.pts)
            self._joint = self._position if begins_anew else self._joint
            if self._clock.seconds(packet.pts + (packet.duration or 0)) < self._second:
                return
        if packet is not None and packet.is_discard and self._keeps_all:
            packet = _kept(packet)
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
            self._take(frame)

    def finish(self, end_seconds: float) -> None:
        """Take the rest: there are no more packets, and the file ends at a time."""
        self.feed(None)
        if self._waiting is not None:
            self._settle(self._time_of(self._waiting) < end_seconds + JUMP_SECONDS)
        self.break_off()

    def break_off(self) -> None:
        """Give out all there is: no more comes for long."""
        if self._segments:
            self._segments[-1].close()

    def disturb(self, trouble: str) -> None:
        """Sound about here can't be trusted."""
        self._note(self._position, self._position, trouble)

    def waveform(
        self, start_seconds: float, end_seconds: float, *, is_last: bool
    ) -> tuple[Float32[np.ndarray, " S"] | None, str]:
        """The sound between two times, silent where there is none; and what is wrong, or nothing.

        None where there is no sound at all. `is_last`: whether the file ends there, as sound often
        ends somewhat before the pictures.
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

    def _expected(self) -> float:
        return self._segments[-1].end_seconds if self._segments else float(self._second)

    def _time_of(self, frame: AudioFrame) -> float:
        return self._expected() if frame.pts is None else self._clock.seconds(frame.pts)

    def _take(self, frame: AudioFrame) -> None:
        """Place a frame; one that doesn't follow the last when the next has shown which is right.

        Times may be wrong by a frame, or by hours.
        """
        if not _RATES_HZ[0] <= frame.sample_rate <= _RATES_HZ[1]:
            self.disturb(f"a sample rate of {frame.sample_rate} Hz")
            return
        if self._waiting is not None:
            expected, start = self._expected(), self._time_of(self._waiting)
            next_if_right = self._time_of(frame) - start
            next_if_wrong = self._time_of(frame) - expected
            length = self._waiting.samples / self._waiting.sample_rate
            self._settle(abs(next_if_right - length) <= abs(next_if_wrong - length))
        step = abs(self._time_of(frame) - self._expected())
        least = max(self._slack * frame.samples / frame.sample_rate, _TOLERANCE_SECONDS)
        if step > (least if self._segments else JUMP_SECONDS):
            self._waiting = frame
        else:
            self._place(frame, self._time_of(frame))

    def _settle(self, is_right: bool) -> None:
        """Place the frame that waits, at its own time if that is right."""
        frame, self._waiting = self._waiting, None
        if frame is None:
            return
        expected, start = self._expected(), self._time_of(frame)
        if not is_right and abs(start - expected) > _NEAR_SECONDS:
            self._note(expected, expected, "a packet's time is wrong")
        self._place(frame, start if is_right else expected)

    def _place(self, frame: AudioFrame, start: float) -> None:
        """Add a frame's samples at a time, silence before them where some are missing."""
        rate = frame.sample_rate
        try:
            samples = _channels(frame)
        except FAULTS as error:
            self.disturb(reason(error))
            return
        if self._leap[0] - _NEAR_SECONDS <= start < self._leap[1] - JUMP_SECONDS:
            self._take_back(start)
        segment = self._segments[-1] if self._segments else None
        expected = self._expected()
        # A packet may say that it lasts until the next, however few samples it has.
        is_joint = abs(start - self._joint) < _NEAR_SECONDS
        slack = max(self._slack * samples.shape[1] / rate, _TOLERANCE_SECONDS)
        is_interrupted = start > self._until + slack and not is_joint
        self._until = start + frame.duration * self._clock.tick_seconds
        if segment is None:
            segment = self._begin(start, rate)
        elif rate != segment.from_hz or start > expected + _SILENCE_SECONDS:
            is_gap = rate == segment.from_hz
            change = "is missing here" if is_gap else f"changes from {segment.from_hz} to {rate} Hz"
            if is_interrupted or not is_gap:
                self._note(expected, start, f"sound {change}")
            if start > expected + JUMP_SECONDS:
                self._leap = expected, start
            segment = self._begin(start, rate)
        elif segment.done_seconds == np.inf:  # it was broken off
            segment = self._begin(start, rate)
        gap = round((start - segment.second) * rate) - segment.count
        if abs(gap) > slack * rate or segment.count == 0:
            if segment.count and gap > 0 and is_interrupted:
                self._note(expected, start, "sound is interrupted here")
            elif segment.count and gap < 0 and not is_joint:
                self._note(start, expected, "sound overlaps here")
            segment.add(np.zeros((1, max(gap, 0)), np.float32))
            samples = samples[:, max(-gap, 0) :]
        segment.add(samples)
        self.end_seconds = segment.end_seconds

    def _take_back(self, start: float) -> None:
        """Drop what came after a long gap, whose times were wrong: sound goes on from before it."""
        end = self._leap[0]
        self._segments = [one for one in self._segments if one.second < self._leap[1] - 1]
        self._troubles = [trouble for trouble in self._troubles if trouble[0] < end - _NEAR_SECONDS]
        self._note(end, start, "a packet's time is wrong")
        self._leap, self._until = (0.0, 0.0), start

    def _begin(self, start: float, rate: int) -> Segment:
        self.break_off()
        segment = Segment(max(self._second, floor(start)), start, rate, self._rate_hz)
        self._segments.append(segment)
        return segment


def _kept(packet: Packet) -> Packet:
    """A packet without the mark that its sound is to be left out."""
    kept = Packet(bytes(packet))
    kept.time_base = packet.time_base
    kept.pts, kept.dts, kept.duration = packet.pts, packet.dts, packet.duration
    return kept


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
