"""What a vision model wants to see: size, cut and colour scale, from its preprocessor_config.json.

Pure: torch and NumPy. Read here rather than by transformers, whose image processors need
torchvision or decode one picture at a time.

Axes: T frames, H W height and width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from raymc.errors import ConfigError, DataError
from raymc.features.clips import Picture
from raymc.features.encoders.pretrained import read_json

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
    """How bytes become the values that a model was trained on.

    Attributes:
        picture: The frames it wants.
        factor: Multiplies the bytes, before the mean is subtracted.
        mean: Of red, green and blue.
        std: Divides them, after that.
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


def read_preprocessing(folder: Path) -> Preprocessing:
    """The preprocessing that a model's folder describes.

    Pictures are cropped where the model's own are, else squashed. Where it would take pictures
    of any shape, scaled by their shorter side, their centre is taken.

    Raises:
        DataError: The description is torn, or asks for something else.
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
