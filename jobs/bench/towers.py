"""How much of a device encoders of pictures use: FLOPs a second of towers of SigLIP's sizes.

Their weights are random, which takes as long as others. Frames come as bytes from the CPU and
vectors go back there, as in `raymc extract`; decoding is left out.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from jobs.bench.measure import NAME, Columns, Measurement, publish, shown, table, take_turns
from jobs.bench.train_device import peak_of, product_speed
from raymc.features.clips import Picture
from raymc.features.encoders.hub import import_transformers
from raymc.features.encoders.vision import Preprocessing, VisionTower
from raymc.features.encoders.weights import HALVED
from raymc.runtime.device import device_here

# `config.json` of google/siglip-base-patch16-224 and google/siglip-so400m-patch14-384.
SIZES: Mapping[str, Mapping[str, int]] = {
    "base": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
    },
    "so400m": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    },
}
MATRIX = {"cpu": 2048, "cuda": 8192}  # side of the matrices whose product is the ceiling


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """What is measured, and how often."""

    device: Literal["cpu", "gpu"] = Field(default="cpu", description="Where the towers compute.")
    towers: tuple[Literal["base", "so400m"], ...] = Field(
        default=("base", "so400m"), description="Sizes of SigLIP."
    )
    frames: tuple[int, ...] = Field(
        default=(30, 256), description="Frames of a clip: half a minute's, or many at a time."
    )
    rounds: int = Field(default=5, ge=1, description="How often each is timed, in turns.")


def bench_towers(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Measure towers; prints frames and FLOPs a second, and their share of the device's speed."""
    device = device_here(settings.device)
    name, peak = peak_of(device)
    kind = "float16" if device.type in HALVED else "float32"
    ceiling = product_speed(MATRIX[device.type], device, getattr(torch, kind))
    found: list[Measurement] = []
    for size in settings.towers:
        tower = make_tower(SIZES[size], device)
        flops = flops_of_picture(SIZES[size])
        clips = {f"{size}, {n} frames": random_frames(n, tower.picture) for n in settings.frames}
        ways = {way: partial(tower.encode, frames) for way, frames in clips.items()}
        for one in take_turns(ways, rounds=settings.rounds):
            one.add(frames=len(clips[one.name]), flops=flops, ceiling=ceiling)
            found.append(one)
    text = (
        f"On {name}, {settings.rounds} rounds in turns, medians. The product is of two large "
        f"matrices in {kind}, as the tower's are; the peak is the maker's.\n\n"
    )
    publish("Towers", text + use_table(found, peak), found, console, out)


def make_tower(size: Mapping[str, int], device: torch.device) -> VisionTower:
    """Return an encoder of frames with random weights."""
    model = _model(size).eval().to(device)
    side = size["image_size"]
    return VisionTower(
        name="siglip",
        dim=size["hidden_size"],
        rate_hz=1.0,
        license="",
        preprocessing=Preprocessing(
            picture=Picture(height=side, width=side, interpolation="bilinear"),
            factor=1 / 255,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        pooling=lambda pixels: model(pixel_values=pixels).pooler_output,
        device=device,
        files=(),
    )


def flops_of_picture(size: Mapping[str, int]) -> int:
    """Return the FLOPs of a picture's matrix products and attention, as torch counts them."""
    side = size["image_size"]
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        _model(size).eval()(pixel_values=torch.empty(1, 3, side, side))
    return counter.get_total_flops()


def random_frames(count: int, picture: Picture) -> np.ndarray:
    """Return frames [T, H, W, 3] of noise."""
    shape = (count, picture.height, picture.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def use_table(found: list[Measurement], peak: float) -> str:
    """Return what share of the peak, and of a matrix product, each tower reaches."""

    def speed(m: Measurement) -> float:
        return m.median("flops") * m.median("frames") / m.median("seconds")

    columns: Columns = {
        **NAME,
        "frames/s": lambda m: shown("{:,.0f}", m.median("frames") / m.median("seconds")),
        "TFLOP/s": lambda m: shown("{:.4g}", speed(m) / 1e12),
        "of the peak": lambda m: shown("{:.1%}", speed(m) / peak),
        "of the product's": lambda m: shown("{:.1%}", speed(m) / m.median("ceiling")),
        "milliseconds": lambda m: shown("{:,.1f}", 1e3 * m.median("seconds")),
    }
    return table(columns, found)


def _model(size: Mapping[str, int]) -> Any:
    transformers = import_transformers()
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**size))
