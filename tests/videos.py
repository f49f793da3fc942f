"""Small real videos, encoded by PyAV: a moving pattern and a tone."""

import os
import signal
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from raymc.features.sources import Source

FPS, SIDE, SAMPLE_RATE_HZ = 10, 32, 16_000


def write_video(path: Path, *, seconds: float = 2.0, seed: int = 0) -> Path:
    """Write an MPEG-4 video with AAC sound; `seed` chooses picture and pitch."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    times = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tone = 0.5 * np.sin(2 * np.pi * (200 + 50 * seed) * times).astype(np.float32)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=FPS)
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        for index in range(int(seconds * FPS)):
            picture = np.roll(base, index, axis=1)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
        for start in range(0, len(tone), 1024):
            part = np.ascontiguousarray(tone[None, start : start + 1024])
            sound = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            sound.sample_rate, sound.pts = SAMPLE_RATE_HZ, start
            sound.time_base = Fraction(1, SAMPLE_RATE_HZ)
            container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


@dataclass(frozen=True, kw_only=True)
class Crashing(Source):
    """A file on which the process that decodes it dies, or never ends, as by a fault of FFmpeg."""

    driver: int
    never_ends: bool = False

    def __getattribute__(self, name: str) -> Any:
        if name == "start_seconds" and os.getpid() != super().__getattribute__("driver"):
            while self.never_ends:
                pass
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().__getattribute__(name)
