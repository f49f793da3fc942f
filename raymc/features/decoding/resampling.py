"""A stretch of sound to mono samples at the wanted rate, whole second by whole second.

Imports av and numpy. Channels are averaged as they are in `audio.read_wav`. Resampling is
libswresample's windowed sinc, not torchaudio's: it takes any two rates in constant memory (a
kernel of torchaudio has as many phases as the rates have no common divisor), needs no torch in
the processes that decode, and gives the same bits wherever one begins, if it begins at a whole
second and goes on in whole seconds. So it does here.

Axes: S samples, N samples at the rate of the file, C channels.
"""

from itertools import groupby
from typing import cast

import numpy as np
from av.audio.frame import AudioFrame
from av.filter import Graph
from jaxtyping import Float32, Shaped

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
        alike = (list(group) for _, group in groupby(self._waiting, _kind))
        mono = np.concatenate([_mono(np.concatenate(group, axis=1)) for group in alike])
        self._waiting, self._missing = [], self.from_hz
        frame = AudioFrame.from_ndarray(mono[None], format="flt", layout="mono")
        frame.sample_rate = self.from_hz
        for block in self._resampler.put(frame):
            self.blocks.append((self._next, block))
            self._next += len(block)
        self.done_seconds = self._next / self._to_hz


class Filter:
    """One of FFmpeg's filters from sound to mono sound; one thread, where av starts many.

    Args:
        name: Of the filter.
        settings: Its settings.
        rate_hz: The rate of what comes in.
        sample_format: Its format.
        layout: Its channels.
    """

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
        """Put sound in, get what comes out so far.

        Raises:
            FFmpegError: The frame isn't of the kind announced.
        """
        self._source.push(frame)
        blocks = []
        while True:
            try:
                blocks.append(cast(AudioFrame, self._sink.pull()).to_ndarray()[0])
            except BlockingIOError:
                return blocks


def _kind(samples: Shaped[np.ndarray, "C N"]) -> tuple[np.dtype, int]:
    return samples.dtype, len(samples)


def _mono(samples: Shaped[np.ndarray, "C N"]) -> Float32[np.ndarray, " N"]:
    """The mean of the channels, full scale at 1."""
    mono = samples[0] if len(samples) == 1 else samples.mean(axis=0, dtype=np.float32)
    mono = mono.astype(np.float32)
    kind = samples.dtype.str[1:]
    if kind == "u1":
        mono -= np.float32(128)
    return mono / np.float32(_FULL_SCALE.get(kind, 1.0))
