import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import PREPROCESSOR

from raymc.errors import DataError
from raymc.features.encoders.vision import read_preprocessing

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
SQUASHED = {"size": {"height": 20, "width": 24}, "do_center_crop": False}


@pytest.mark.parametrize(
    ("changes", "picture"),
    [
        ({}, (16, 16, 20, "bicubic")),
        ({"size": 20, "crop_size": 16}, (16, 16, 20, "bicubic")),
        ({"size": 20, "crop_size": None, "do_center_crop": False}, (20, 20, None, "bicubic")),
        ({"crop_size": {"height": 12, "width": 16}}, (12, 16, 20, "bicubic")),
        (SQUASHED, (20, 24, None, "bicubic")),
        ({"size": {"height": 16, "width": 16}}, (16, 16, None, "bicubic")),
        ({"size": {"height": 20, "width": 20}}, (16, 16, 20, "bicubic")),
        ({"do_center_crop": False}, (20, 20, 20, "bicubic")),
        (
            {"do_center_crop": False, "size": {"shortest_edge": 224}, "crop_pct": 0.875},
            (224, 224, 256, "bicubic"),
        ),
        (
            {"do_center_crop": False, "size": {"shortest_edge": 384}, "crop_pct": 1.0},
            (384, 384, None, "bicubic"),
        ),
        ({"resample": 2}, (16, 16, 20, "bilinear")),
        ({"resample": 4}, (16, 16, 20, "area")),
        ({"resample": 1}, (16, 16, 20, "bicubic")),
    ],
)
def test_pictures_are_as_the_preprocessor_says(
    tmp_path: Path, changes: dict[str, Any], picture: tuple[int, int, int | None, str]
) -> None:
    values = {key: value for key, value in {**PREPROCESSOR, **changes}.items() if value is not None}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    found = read_preprocessing(tmp_path).picture
    assert (found.height, found.width, found.short_side, found.interpolation) == picture


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, lambda x: (x / 255 - 0.5) / 0.25),
        ({"do_rescale": False}, lambda x: (x - 0.5) / 0.25),
        ({"rescale_factor": 1 / 127.5}, lambda x: (x / 127.5 - 0.5) / 0.25),
        ({"do_normalize": False}, lambda x: x / 255),
    ],
)
def test_colours_are_as_the_preprocessor_says(
    tmp_path: Path, changes: dict[str, Any], expected: Callable[[np.ndarray], np.ndarray]
) -> None:
    colours = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    nested = {"image_processor": {**PREPROCESSOR, **colours, **changes}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    values = read_preprocessing(tmp_path).pixels(FRAMES, torch.device("cpu"))
    wanted = expected(FRAMES.astype(np.float64)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"longest_edge": 384}},
        {"size": {"shortest_edge": "large"}},
        {"size": None},
        {"image_mean": None},
        {"image_mean": 0.5},
        {"image_std": [0.2, 0.2]},
        {"image_std": [0.2, 0.0, 0.2]},
        {"size": {"shortest_edge": 15}},
        {"size": 100_000, "crop_size": 100_000},
        {"resample": 9},
        {"resample": [3]},
    ],
)
def test_a_preprocessor_that_cannot_be_followed(tmp_path: Path, changes: dict[str, Any]) -> None:
    values = {key: value for key, value in {**PREPROCESSOR, **changes}.items() if value is not None}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(
        DataError, match=r"preprocessor_config.json: can't be understood \("
    ) as raised:
        read_preprocessing(tmp_path)
    assert "\n" not in str(raised.value)
