import numpy as np
import pytest
import torch

from raymc.errors import ConfigError
from raymc.features.audio import LogMelConfig, log_mel_tokens
from raymc.features.encoders import audio_encoder


def noise(seconds: float) -> np.ndarray:
    samples = np.random.default_rng(0).normal(0, 0.05, round(16_000 * seconds))
    return samples.astype(np.float32)


@pytest.mark.parametrize(("rate_hz", "stack"), [(10.0, 4), (40.0, 1), (2.0, 20), (2.5, 16)])
def test_tokens_are_scaled_log_mel_frames(rate_hz: float, stack: int) -> None:
    encoder = audio_encoder("logmel", rate_hz=rate_hz)
    tokens = encoder.encode(noise(1.3))
    unscaled = log_mel_tokens(torch.from_numpy(noise(1.3)), 16_000, LogMelConfig(stack=stack))
    assert tokens.dtype == np.float32
    assert tokens.shape == (int(np.ceil(1.3 * rate_hz)), encoder.dim)
    np.testing.assert_allclose(tokens, (unscaled.numpy() + 45) / 20, atol=1e-5)


def test_what_it_says_of_itself() -> None:
    encoder = audio_encoder("logmel")
    assert (encoder.name, encoder.rate_hz, encoder.dim) == ("logmel", 10.0, 160)
    assert (encoder.sample_rate_hz, encoder.has_weights) == (16_000, False)


def test_no_sound_gives_no_token() -> None:
    assert audio_encoder("logmel").encode(noise(0)).shape == (0, 160)


@pytest.mark.parametrize("rate_hz", [3.0, 80.0, 0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_frames_do_not_fit_is_refused(rate_hz: float) -> None:
    with pytest.raises(ConfigError, match=r"logmel can't make .* tokens a second; expected 40 or"):
        audio_encoder("logmel", rate_hz=rate_hz)
