"""Frames to tokens by EfficientNet-Lite0, whose weights come in a package.

Tan and Le 2019, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks
(arXiv 1905.11946); the Lite variant was trained on ImageNet without squeeze-and-excitation.

One mean over a picture knows what is in it, but hardly where, and in a lesson the layout says much.
So the grid also has how the picture's quarters differ, of stages that come before the last.

Axes: T frames, H height, W width, D dim.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from raymc.errors import DataError
from raymc.features.clips import Picture
from raymc.features.encoders.packaged import EFFICIENTNET, EFFICIENTNET_GRID, weights_folder
from raymc.features.encoders.vision import Preprocessing, VisionTower
from raymc.features.encoders.weights import checked_device, one_line

_FILE = "efficientnet-lite0-57934424.pth"
_SIDE = 224
# The whole picture is squashed: in lessons, what matters is often at its sides.
_PREPROCESSING = Preprocessing(
    picture=Picture(height=_SIDE, width=_SIDE, interpolation="bicubic"),
    factor=1.0,
    mean=(127.0, 127.0, 127.0),  # as TensorFlow's Lite models were trained
    std=(128.0, 128.0, 128.0),
)
_STAGES = {10: 112, 14: 192}  # channels, by block: the last of stride 16, the last but one of 32
_EIGHTHS = ((1, 1, 1, 1), (4, 4, -4, -4), (4, -4, 4, -4), (4, -4, -4, 4))  # of the quarters


def efficientnet(name: str, *, fps: float, device: str = "cpu") -> VisionTower:
    """Load the encoder with this name.

    A token of `efficientnet_lite0` is the mean of the last feature map, 1280 values. One of
    `efficientnet_lite0_grid` has four values for each channel of two stages: of 112 with 14 × 14
    places, then of 192 with 7 × 7. From the means of the picture's quarters, a and b above, c and d
    below, they are (a + b + c + d) / 8, (a + b - c - d) / 2, (a - b + c - d) / 2 and
    (a - b - c + d) / 2. The middle row and column of 7 × 7 places belong to both sides. Most of the
    sum is the same in all pictures; with more weight it would hide what differs.

    Raises:
        DataError: The file of weights is damaged.
        ResourceError: Its package is not installed.
    """
    where = checked_device(device)
    file = weights_folder(name, "models") / _FILE
    from efficientnet_lite_pytorch import EfficientNet

    model: Any = EfficientNet.from_name("efficientnet-lite0")
    try:
        model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # damaged files raise errors of any kind
        raise DataError(
            f"{file}: damaged ({one_line(error)}); install its package again"
        ) from error
    model.eval().to(where)
    pooling, dim = _POOLINGS[name]
    return VisionTower(
        name=name,
        dim=dim,
        rate_hz=fps,
        license="Apache-2.0",
        preprocessing=_PREPROCESSING,
        pooling=partial(pooling, model),
        device=where,
        files=(file,),
    )


def _mean(model: Any, pixels: Float32[Tensor, "T 3 H W"]) -> Float32[Tensor, "T D"]:
    return model.extract_features(pixels).mean((2, 3))


def _grid(model: Any, pixels: Float32[Tensor, "T 3 H W"]) -> Float32[Tensor, "T D"]:
    maps = model._swish(model._bn0(model._conv_stem(pixels)))
    weights = maps.new_tensor(_EIGHTHS) / 8
    values = []
    for number, block in enumerate(model._blocks[: max(_STAGES) + 1]):
        maps = block(maps)
        if number in _STAGES:
            quarters = adaptive_avg_pool2d(maps, 2).flatten(2)
            values.append((quarters @ weights.T).flatten(1))
    return torch.cat(values, dim=1)


_POOLINGS = {
    EFFICIENTNET: (_mean, 1280),
    EFFICIENTNET_GRID: (_grid, 4 * sum(_STAGES.values())),
}
