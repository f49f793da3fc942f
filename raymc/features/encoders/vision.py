"""Frames to tokens by a vision tower of transformers: CLIP, SigLIP, DINOv2, ViT and similar models.

One token per frame. `preprocessor_config.json` is read here and not by transformers, whose image
processors need torchvision or work on one picture at a time.

Axes: T frames, H height, W width, D dim.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from raymc.errors import ConfigError, DataError
from raymc.features.clips import Picture
from raymc.features.encoders.hub import (
    Pretrained,
    check_complete,
    files_of,
    find_model,
    license_of,
    load_model,
    read_json,
)
from raymc.features.encoders.weights import checked_device, digest_of_files, in_batches, one_line

FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
Interpolation = Literal["bilinear", "bicubic", "area"]
# PIL's numbers; each by itself or its nearest: nearest, lanczos, bilinear, bicubic, box, hamming
_INTERPOLATIONS: Mapping[int, Interpolation] = {
    0: "bilinear",
    1: "bicubic",
    2: "bilinear",
    3: "bicubic",
    4: "area",
    5: "bilinear",
}
_LARGE_SIDE = 384  # from here on, models with `crop_pct` squash pictures instead of cropping them


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How bytes become the values that a model was trained on: (bytes · factor - mean) / std.

    `picture` are the frames it wants; mean and std are those of red, green and blue.
    """

    picture: Picture
    factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def pixels(
        self, frames: UInt8[np.ndarray, "T H W 3"], device: torch.device
    ) -> Float32[Tensor, "T 3 H W"]:
        """The values of some frames, on the model's device."""
        values = torch.from_numpy(np.ascontiguousarray(frames)).to(device).permute(0, 3, 1, 2)
        mean = torch.tensor(self.mean, device=device).reshape(1, 3, 1, 1)
        std = torch.tensor(self.std, device=device).reshape(1, 3, 1, 1)
        return (values.float() * self.factor - mean) / std


@dataclass(frozen=True, kw_only=True, eq=False)
class VisionTower:
    """A vision model as an encoder of frames.

    A token is the model's pooled output: the vector that its own head, if it has one, projects.
    That head (CLIP's `visual_projection`) is left out: it is linear and narrows, so a trained
    model can learn it, but not undo it. Without a trained pooler the token is the class token of
    the last layer, and without one the mean over patches.
    """

    name: str
    dim: int
    rate_hz: float
    license: str
    preprocessing: Preprocessing = field(repr=False)
    pooling: Callable[[Tensor], Tensor] = field(repr=False)
    device: torch.device
    files: tuple[Path, ...] = field(repr=False)
    has_weights: bool = True

    def digest(self) -> str:
        """Return the SHA-256 of the model's files, in hex."""
        return digest_of_files(self.files)

    @property
    def picture(self) -> Picture:
        """The frames it wants."""
        return self.preprocessing.picture

    def encode(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, "T D"]:
        """One token a frame, from that frame alone; it must have the size of `picture`."""
        wanted = (self.picture.height, self.picture.width)
        if frames.shape[1:3] != wanted:
            found = f"{frames.shape[1]} × {frames.shape[2]}"
            raise DataError(
                f"frames of {found} pixels; {self.name} expects {wanted[0]} × {wanted[1]}"
            )
        if len(frames) == 0:
            return np.empty((0, self.dim), np.float32)
        return in_batches(
            frames,
            lambda some: self.pooling(self.preprocessing.pixels(some, self.device)),
            self.device,
        )


def vision_tower(
    name: str, *, fps: float, weights: str | None = None, device: str = "cpu"
) -> VisionTower:
    """Load the vision tower of a model.

    `name` and `weights` are those of `hub.find_model`, errors those of `encoders.visual_encoder`.
    """
    where = checked_device(device)
    folder = find_model(name, weights, files=FILES)
    preprocessing = read_preprocessing(folder)
    pooling, missing = _visual_part(load_model(folder))
    check_complete(folder, missing)
    pooling.tower.to(where)
    return VisionTower(
        name=name,
        dim=_try_out(name, pooling, preprocessing, where),
        rate_hz=fps,
        license=license_of(folder),
        preprocessing=preprocessing,
        pooling=pooling,
        device=where,
        files=tuple(files_of(folder, FILES)),
    )


@dataclass(frozen=True)
class _Pooling:
    """A tower, and how its output becomes one vector a picture."""

    tower: torch.nn.Module
    trained_pooler: bool
    class_token: bool

    @torch.inference_mode()
    def __call__(self, pixels: Float32[Tensor, "T 3 H W"]) -> Float[Tensor, "T D"]:
        output: Any = self.tower(pixel_values=pixels)
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None and self.trained_pooler:
            return pooled.flatten(1).float()
        last = output.last_hidden_state
        if last.ndim == 4:
            return last.mean((2, 3)).float()
        return (last[:, 0] if self.class_token else last.mean(1)).float()


def _visual_part(pretrained: Pretrained) -> tuple[_Pooling, frozenset[str]]:
    """The visual part of a model, and which of its weights are missing but for the pooler's."""
    tower = getattr(pretrained.model, "vision_model", None)
    prefix = "" if tower is None else "vision_model."
    tower = pretrained.model if tower is None else tower
    missing = {key.removeprefix(prefix) for key in pretrained.missing if key.startswith(prefix)}
    pooler = {key for key in missing if key.startswith("pooler.")}
    names = [name for name, _ in tower.named_parameters()]
    class_token = any(name.endswith(("cls_token", "class_embedding")) for name in names)
    return _Pooling(tower, not pooler, class_token), frozenset(missing - pooler)


def _try_out(
    name: str, pooling: _Pooling, preprocessing: Preprocessing, device: torch.device
) -> int:
    """The dim of a token, and a refusal of models that can't be used, before hours of work."""
    picture = preprocessing.picture
    shape = (1, picture.height, picture.width, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    try:
        first, second = (pooling(preprocessing.pixels(frames, device)) for _ in range(2))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model that isn't for pictures may raise anything
        raise ConfigError(
            f"{name} doesn't turn a picture of {picture.height} × {picture.width} pixels into a "
            f"vector ({one_line(error)}); take a vision model such as openai/clip-vit-base-patch32"
        ) from error
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-3):
        raise ConfigError(f"{name} gives a picture other features each time; take another model")
    return first.shape[1]


def read_preprocessing(folder: Path) -> Preprocessing:
    """Read the preprocessing that a model's folder describes.

    Pictures are cropped where the model's own are, else squashed. Where it would take pictures
    of any shape, scaled by their shorter side, their centre is taken.
    """
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        file = folder / "processor_config.json"
    values = read_json(file)
    values = values.get("image_processor", values)
    try:
        return _preprocessing(values)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{file}: can't be understood ({type(error).__name__}: {error}); expected `size`, "
            "`image_mean` and `image_std` of a model that sees pictures of one size"
        ) from error


def _preprocessing(values: Mapping[str, Any]) -> Preprocessing:
    normalises = values.get("do_normalize", True)
    std = _colours(values["image_std"]) if normalises else (1.0, 1.0, 1.0)
    if min(std) <= 0:
        raise ValueError(f"image_std {std}")
    rescales = values.get("do_rescale", True)
    return Preprocessing(
        picture=_picture(values),
        factor=float(values.get("rescale_factor", 1 / 255)) if rescales else 1.0,
        mean=_colours(values["image_mean"]) if normalises else (0.0, 0.0, 0.0),
        std=std,
    )


def _picture(values: Mapping[str, Any]) -> Picture:
    height, width, short_side = _size(values["size"])
    crops = bool(values.get("do_center_crop"))
    if crops:
        resized = short_side or min(height, width)
        height, width, _ = _size(values.get("crop_size", values["size"]))
        squashes = isinstance(values["size"], Mapping) and "height" in values["size"]
        # a model that squashes and then crops sees its margins scaled; only the crop is kept
        short_side = None if squashes and resized == min(height, width) else resized
    elif values.get("crop_pct") and short_side and short_side < _LARGE_SIDE:
        short_side = int(short_side / values["crop_pct"])
    elif values.get("crop_pct") or isinstance(values["size"], int):
        short_side = None
    interpolation = _INTERPOLATIONS[values.get("resample", 3)]
    return Picture(height=height, width=width, short_side=short_side, interpolation=interpolation)


def _size(size: Any) -> tuple[int, int, int | None]:
    """Height, width, and the shorter side if that is all that was said."""
    if isinstance(size, Mapping) and "height" in size:
        return _side(size["height"]), _side(size["width"]), None
    side = _side(size["shortest_edge"] if isinstance(size, Mapping) else size)
    return side, side, side


def _side(value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"a side of {value!r} pixels")
    return value


def _colours(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
