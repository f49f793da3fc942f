from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import PREPROCESSOR, clip, write_model

from raymc.errors import ConfigError, ResourceError
from raymc.features.encoders import audio_encoder, text_encoder, transcriber, visual_encoder


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (visual_encoder, "patches16", "unknown visual encoder 'patches16'; did you mean patches?"),
        (
            visual_encoder,
            "resnet50",
            "unknown visual encoder 'resnet50'; known are patches, efficientnet_lite0_grid, "
            "efficientnet_lite0, and models of Hugging Face's hub, as in "
            "openai/clip-vit-base-patch32",
        ),
        (visual_encoder, "../secret", "unknown visual encoder"),
        (visual_encoder, "a/b/c", "unknown visual encoder"),
        (visual_encoder, "", "unknown visual encoder ''; known are patches"),
        (audio_encoder, "log_mel", "unknown audio encoder 'log_mel'; did you mean logmel?"),
        (audio_encoder, "wav2vec2_base", "did you mean WAV2VEC2_BASE?"),
        (audio_encoder, "facebook/data2vec", "known are logmel, .*WAV2VEC2_BASE, .*WAVLM_LARGE$"),
        (text_encoder, "word", "unknown text encoder 'word'; did you mean words?"),
        (text_encoder, "bert", "known are words, minilm, and models of Hugging Face's hub"),
        (transcriber, "WAV2VEC2_ASR_BASE_960", "did you mean WAV2VEC2_ASR_BASE_960H?"),
        (transcriber, "whisper", "known are moonshine, .*WAV2VEC2_ASR_BASE_960H"),
    ],
)
def test_an_unknown_name_is_a_clear_error(
    make: Callable[..., Any], name: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(name)


def test_models_that_only_align_are_not_offered() -> None:
    with pytest.raises(ConfigError, match="unknown transcriber") as raised:
        transcriber("something else")
    assert "MMS_FA" not in str(raised.value)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_is_above_zero(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"fps is .*; expected a number above 0"):
        visual_encoder("patches", fps=rate)
    with pytest.raises(ConfigError, match=r"rate_hz is .*; expected a number above 0"):
        text_encoder("words", rate_hz=rate)


@pytest.mark.slow
def test_a_model_of_your_own_may_have_any_name(tmp_path: Path) -> None:
    write_model(tmp_path / "mine", clip(), preprocessor_config=PREPROCESSOR)
    assert visual_encoder("mine", weights=str(tmp_path)).name == "mine"


def test_an_unknown_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown device 'gpuu'; expected cpu, cuda or cuda:0"):
        visual_encoder("someone/model", device="gpuu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_missing_is_said_so() -> None:
    with pytest.raises(
        ResourceError, match=r"device cuda can't be used here \(.*\); use device cpu"
    ):
        text_encoder("someone/model", device="cuda")
